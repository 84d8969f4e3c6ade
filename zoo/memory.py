"""Memory: what a command would need, told before it is taken."""

import math
import os
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FEW = 256
# What torch and the C++ library under it say of too large a request.
_TOLD = (
    "allocate memory",
    "not enough memory",
    "out of memory",
    "calculation overflowed",
    "multiplication overflow",
    "bad_alloc",
)


def free_memory() -> int:
    """Bytes that can be taken without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(what: str, need: float) -> None:
    """Refuses, naming a flag and its value, what needs more bytes than there are."""
    free = free_memory()
    if need > free:
        raise ValueError(
            f"{what}: needs about {need / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free"
        )


def check_grid(what: str, model: object, n: int) -> None:
    """Refuses a picture of more of a model's images than the memory holds."""
    channels, *sides = getattr(model, "shape", (1, 1, 1))
    numbers = channels * math.prod(sides)
    pixels = channels * max(math.prod(sides), 64**2 if sides else 0)  # small images are enlarged
    check_memory(what, n * (8 * numbers + 3 * pixels))


class _Peak(TorchDispatchMode):
    """The bytes of all results that are in memory together, at their most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._alive = set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self._now += size
            self.most = max(self.most, self._now)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size


def bytes_an_item(run: Callable[[int], object]) -> float:
    """What one more item adds to the memory that results take, by runs of two and of four."""
    most = []
    for items in (2, 4):
        with _Peak() as peak:
            run(items)
        most.append(peak.most)
    return (most[1] - most[0]) / 2


def check_items(what: str, items: int, run: Callable[[int], object]) -> None:
    """Refuses more items at a time than the memory holds, by what `run` takes for a few.

    Few are not asked about: where a computer has memory for one, it has for those.
    """
    if items > _FEW:
        check_memory(what, items * bytes_an_item(run))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, or that a size is beyond any memory."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _TOLD)


def asked_for(error: BaseException) -> str:
    """How much memory such an error says was asked for, or its first sentence."""
    said = " ".join(str(error).split())
    bytes_asked = re.search(r"tried to allocate (\d+) bytes", said)
    if bytes_asked:
        return f"{int(bytes_asked[1]) / 1e9:,.1f} GB were asked for at once"
    return said.partition(". ")[0].rstrip(".") or type(error).__name__
