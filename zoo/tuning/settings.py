"""What can be set without changing a model: precision, memory format, threads, compilation."""

import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Precision = Literal["32", "bf16", "int8", "auto"]
_SLOW = 2.0  # a product that takes so many times as long makes no network faster


@dataclass(frozen=True)
class Setting:
    """One setting of a machine.

    Args:
        precision: The Trainer's word for training (32-true, bf16-mixed), or that of a verb (32,
            bf16, int8).
        threads: Threads of an operation.
        channels_last: Whether activations are (B, H, W, C) in memory; None of models without it.
        compile: Whether the network is compiled; None where that was not asked for.
    """

    precision: str
    threads: int
    channels_last: bool | None = None
    compile: bool | None = None

    def __str__(self) -> str:
        parts = [self.precision, f"{self.threads} thread{'s' * (self.threads > 1)}"]
        if self.channels_last is not None:
            parts.append("channels_last" if self.channels_last else "contiguous")
        return ", ".join([*parts, "compiled"] if self.compile else parts)

    @property
    def options(self) -> dict[str, bool]:
        """The model's own arguments among them."""
        return {
            name: value
            for name, value in asdict(self).items()
            if name in ("channels_last", "compile") and value is not None
        }


def alternatives(
    default: Setting,
    precisions: tuple[str, ...],
    *,
    compile: bool = False,
    fixed: Set[str] = frozenset(),
) -> list[Setting]:
    """All other settings of these precisions at the default's number of threads.

    Args:
        default: What is done today; a model without a memory format has None there.
        precisions: Beside the default's.
        compile: Try compilation too.
        fixed: Fields that the user has decided.
    """
    formats = [default.channels_last]
    if default.channels_last is not None and "channels_last" not in fixed:
        formats.append(not default.channels_last)
    kinds = [default.precision, *(p for p in precisions if p != default.precision)]
    compiled = [default.compile, *([True] if compile and not default.compile else [])]
    found = (
        Setting(kind, default.threads, layout, on)
        for kind, layout, on in product(kinds, formats, compiled)
    )
    return [setting for setting in found if setting != default]


def dress(model: Any, setting: Setting) -> None:
    """Gives a model a setting's memory format, and says it in its hyper-parameters."""
    if setting.channels_last is not None and setting.channels_last != model.channels_last:
        formats = (torch.contiguous_format, torch.channels_last)
        model.to(memory_format=formats[setting.channels_last])
        model.channels_last = setting.channels_last
    if setting.compile is not None:
        model.compiles = setting.compile
    model.hparams.update(setting.options)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def distance(found: Tensor, reference: Tensor) -> float:
    """Norm of the difference, relative to the reference's; infinite where a number is none."""
    found, reference = found.double(), reference.double()
    value = float((found - reference).norm() / reference.norm().clamp_min(1e-300))
    return value if value == value else float("inf")


def bf16_is_slow(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> bool:
    """Whether products and convolutions take twice as long in bf16 or longer, as without units.

    Emulated they take up to twenty times as long, so that one training step of a network in it
    would be the whole time of a measurement.
    """
    if device.type != "cpu":
        return not torch.cuda.is_bf16_supported()
    image, matrix = torch.randn(4, 64, 32, 32), torch.randn(512, 512)
    conv = nn.Conv2d(64, 64, 3, padding=1)
    times: dict[bool, list[float]] = {False: [], True: []}
    with torch.no_grad():
        for turn in range(14):
            half = bool(turn % 2)
            begun = clock()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                conv(image)
                F.linear(matrix, matrix)
            times[half].append(clock() - begun)
    return median(times[True][2:]) > _SLOW * median(times[False][2:])
