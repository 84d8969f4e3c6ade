"""Foreign formats of `FlashMLM`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from zoo.flash.interchange_gau_alpha import read_gau_alpha, write_gau_alpha
from zoo.flash.interchange_lucidrains import read_flash_pytorch

IMPORTERS: dict[str, Callable[..., Any]] = {
    "gau-alpha": read_gau_alpha,
    "flash-pytorch-mlm": partial(read_flash_pytorch, causal=False),
}
EXPORTERS: dict[str, Callable[..., Any]] = {"gau-alpha": write_gau_alpha}
