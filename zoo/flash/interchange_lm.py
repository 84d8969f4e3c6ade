"""Foreign formats of `FlashLM`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from zoo.flash.interchange_lucidrains import read_flash_pytorch

IMPORTERS: dict[str, Callable[..., Any]] = {
    "flash-pytorch": partial(read_flash_pytorch, causal=True),
}
EXPORTERS: dict[str, Callable[..., Any]] = {}
