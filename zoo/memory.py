"""Memory: what a command would need, told before it is taken."""

import math
import os
import re
from pathlib import Path

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
