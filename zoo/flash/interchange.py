"""Foreign formats of `FlashLM` and `FlashMLM`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from zoo.flash.interchange_gau_alpha import read_gau_alpha, write_gau_alpha
from zoo.flash.interchange_lucidrains import read_flash_pytorch

IMPORTERS: dict[str, dict[str, Callable[..., Any]]] = {
    "FlashLM": {"flash-pytorch": partial(read_flash_pytorch, causal=True)},
    "FlashMLM": {
        "gau-alpha": read_gau_alpha,
        "flash-pytorch-mlm": partial(read_flash_pytorch, causal=False),
    },
}
EXPORTERS: dict[str, dict[str, Callable[..., Any]]] = {
    "FlashLM": {},
    "FlashMLM": {"gau-alpha": write_gau_alpha},
}
