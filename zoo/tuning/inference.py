"""Times and numbers of a verb's work under a setting, and the setting that a verb works in."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from zoo.tuning.choice import Choice, facts, measured
from zoo.tuning.halving import OffError
from zoo.tuning.report import search
from zoo.tuning.settings import Precision, Setting, distance, threads

# What the result may be off by, relative to its norm: as in training in bf16 and float32. int8
# has steps of 1/127 of the largest weight, and this is a bound on what it is used for: unit vectors
# off by 0.1 have a cosine of 1 - 0.1^2 / 2 = 0.995.
BOUNDS = {"32": 0.03 / 8, "bf16": 0.03, "int8": 0.1}
_LONG_ENOUGH, _MOST = 0.2, 10  # seconds and repetitions of a visit


@dataclass(frozen=True)
class Work:
    """What a verb does, in small.

    Args:
        verb: Its name.
        run: Does it with a model for so many items; the result is a function of the model.
        items: Items at a time.
        precisions: Those that are tried beside 32.
    """

    verb: str
    run: Callable[[Any, int], Tensor]
    items: int
    precisions: tuple[str, ...] = ("bf16",)


@dataclass
class InferenceWork:
    """Visits settings with a model and a verb's work.

    Each setting's first result is compared with that of the model in float64, or in float32 where
    it does not compute in that.
    """

    model: Any
    work: Work
    clock: Callable[[], float] = time.perf_counter
    reference: Tensor = field(default_factory=lambda: torch.empty(0))
    wide: bool = False
    errors: dict[Setting, float] = field(default_factory=dict)

    def refer(self) -> None:
        """Makes the reference; before any visit."""
        default = default_of(self.model)
        self.reference = found = self.work.run(self.model, self.work.items)
        with suppress(Exception):  # modules that are float32 in parts say so in many ways
            wide = self.work.run(deepcopy(self.model).double(), self.work.items)
            self.wide = distance(found, wide) <= BOUNDS["32"]
            self.reference = wide if self.wide else found
        self.errors[default] = distance(found, self.reference)

    def visit(self, setting: Setting) -> float:
        """Median seconds of the work.

        Raises:
            OffError: The result is off by more than `BOUNDS`, or the setting does not run.
        """
        try:
            with worn(self.model, setting):
                result = self.work.run(self.model, self.work.items)
                times = self._times(self.work.items)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise OffError(f"does not run: {' '.join(str(error).split())[:80]}") from error
        if setting not in self.errors:
            self.errors[setting] = distance(result, self.reference)
            if not self.errors[setting] <= BOUNDS[setting.precision]:
                raise OffError(f"numbers off by {self.errors[setting]:.1%}")
        return median(times)

    def rate(self, setting: Setting, items: int) -> float | None:
        """Items a second with other numbers of items at a time."""
        with suppress(RuntimeError), worn(self.model, setting):
            self.work.run(self.model, items)
            return items / median(self._times(items))
        return None

    def _times(self, items: int) -> list[float]:
        times: list[float] = []
        while sum(times) < _LONG_ENOUGH and len(times) < _MOST:
            begun = self.clock()
            self.work.run(self.model, items)
            if self.model.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(self.clock() - begun)
        return times


@contextmanager
def worn(model: Any, setting: Setting) -> Iterator[None]:
    """The model as a setting has it, in the block."""
    before, net = getattr(model, "channels_last", None), getattr(model, "net", None)
    formats = (torch.contiguous_format, torch.channels_last)
    half = setting.precision == "bf16"
    if setting.channels_last is not None:
        model.channels_last = setting.channels_last
        model.to(memory_format=formats[setting.channels_last])
    if setting.precision == "int8":
        model.net = _int8(model.net)
    try:
        with threads(setting.threads), torch.autocast(model.device.type, torch.bfloat16, half):
            yield
    finally:
        if setting.precision == "int8":
            model.net = net
        if before is not None:
            model.channels_last = before
            model.to(memory_format=formats[before])


def _int8(net: nn.Module) -> nn.Module:
    """A copy whose linear layers are int8, but those whose weights are read in part."""
    linear = {n for n, m in net.named_modules() if type(m) is nn.Linear and not n.endswith("qkv")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a move to a package of its own
        quantize: Any = torch.ao.quantization.quantize_dynamic
        return quantize(net, linear)


def default_of(model: Any) -> Setting:
    """How a verb computes today."""
    return Setting("32", torch.get_num_threads(), getattr(model, "channels_last", None))


def tune_work(model: Any, work: Work, seconds: float = 60.0, *, anew: bool = False) -> Choice:
    """The best setting of a verb's work, of an earlier measurement or of one now."""
    default = default_of(model)

    def measure() -> Choice:
        visitor = InferenceWork(model, work)
        return search(visitor, default, work.precisions, work.items, seconds, model.device)

    return measured(facts(work.verb, model, model.device, work.items, default), measure, anew=anew)


@contextmanager
def in_precision(model: Any, precision: Precision, work: Work) -> Iterator[Setting]:
    """A verb's block in the precision that it was asked for.

    Of auto that is the measured setting of this machine, told in a line.
    """
    setting = replace(default_of(model), precision=precision)
    if precision == "auto":
        choice = tune_work(model, work)
        sys.stderr.write(f"zoo: precision auto: {choice}\n")
        setting = choice.setting
    with worn(model, setting):
        yield setting
