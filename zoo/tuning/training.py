"""Times and numbers of a training step under a setting, by a real Trainer on the real data."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from zoo.memory import check_memory
from zoo.training.overhead import NoProfiler
from zoo.training.pictures import memory
from zoo.training.rng import StepRNG
from zoo.tuning.halving import OffError
from zoo.tuning.settings import Setting, distance, dress, threads
from zoo.waiting import silent

# What a gradient may be off by, relative to its norm. A number rounded to bf16 is off by
# 2^-9 / sqrt(3) = 0.11 % in the root of the mean square; the roundings that a gradient has gone
# through are independent, so that 700 of them, as many as a deep U-Net has, add up to 3 %
# (0.7 % was measured there). float32 may use TF32 on a GPU, of three bits more: an eighth.
BOUNDS = {"bf16-mixed": 0.03, "32-true": 0.03 / 8}
_LONG_ENOUGH = 0.2  # seconds of a visit's timed steps: quick ones are repeated, up to so many times
_MOST = 10
_LONG = 1.0  # seconds of the default's step, above which only a setting's first visit is warmed up
_WIDE = 6.0  # a float64 step takes about so many times the default's


class TrainingSteps:
    """Visits settings with a model and its data, neither of which it changes.

    The first step of a setting's first visit is checked: its loss and its whole gradient against
    float64 where the model computes in that, draws the same numbers and there is time for it, else
    against the default's. Without dropout, whose masks are in the order of the memory.

    Args:
        model: A new model.
        data: Its data.
        default: What is done today.
        seconds: Of the whole measurement; a float64 step may take a quarter of them.
        options: Of the Trainer: accelerator, gradient_clip_val and the like.
        clock: Of seconds.
    """

    def __init__(
        self,
        model: LightningModule,
        data: LightningDataModule,
        default: Setting,
        seconds: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
        **options: Any,
    ) -> None:
        self.model, self.data, self.default, self.seconds = model, data, default, seconds
        self.options, self.clock = options, clock
        self.reference: dict[str, Tensor] = {}
        self.wide = False  # whether that is in float64
        self.long = False  # whether steps are so long that a turn is one of them
        self.errors: dict[Setting, float] = {}
        self._compiled: dict[tuple[str, bool | None], LightningModule] = {}
        self._begun = False

    def refer(self) -> None:
        """Makes the reference; before any visit."""
        watch = self._run(self.default, check=True, most=2)
        self.reference, self.long = watch.numbers, watch.seconds > _LONG
        if _WIDE * watch.seconds < self.seconds / 4:
            with suppress(Exception):  # modules that are float32 in parts say so in many ways
                wide = self._run(self.default, check=True, most=1, wide=True).numbers
                # Else it has drawn other numbers.
                self.wide = off(watch.numbers, wide) <= BOUNDS[self.default.precision]
                self.reference = wide if self.wide else watch.numbers
        self.errors[self.default] = off(watch.numbers, self.reference)

    def visit(self, setting: Setting) -> float:
        """Median seconds of a step.

        Raises:
            OffError: The numbers are off by more than `BOUNDS`, or the setting does not run.
        """
        new = setting not in self.errors
        try:
            watch = self._run(setting, check=new, most=1 if self.long and not new else 1 + _MOST)
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            raise OffError(f"does not run: {' '.join(str(error).split())[:80]}") from error
        if new:
            self.errors[setting] = off(watch.numbers, self.reference)
            bound = max(BOUNDS[s.precision] for s in (setting, *self.compared_with))
            if not self.errors[setting] <= bound:
                raise OffError(f"numbers off by {self.errors[setting]:.1%}")
        return watch.seconds

    @property
    def compared_with(self) -> list[Setting]:
        """The default where the reference is not in float64 but has its errors."""
        return [] if self.wide else [self.default]

    def rate(self, setting: Setting, batch_size: int) -> float | None:
        """Items a second at another batch size; None where the model or the memory has no room."""
        data: Any = self.data
        before, data.batch_size = data.batch_size, batch_size
        try:
            if batch_size > before:
                check_memory("a larger batch", memory(torch.device("cpu")))
            return batch_size / self._run(setting, check=False).seconds
        except (RuntimeError, ValueError):
            return None
        finally:
            data.batch_size = before

    def _run(
        self, setting: Setting, *, check: bool, most: int = 1 + _MOST, wide: bool = False
    ) -> "_Watch":
        key = (setting.precision, setting.channels_last)
        kept = self._compiled.get(key) if setting.compile else None
        model = deepcopy(self.model) if kept is None else kept
        dress(model, setting)
        if setting.compile:
            self._compiled[key] = model
        watch = _Watch(check, most, self.clock)
        first, self._begun = not self._begun, True
        waits = nullcontext() if first else silent()  # the data are read once
        with threads(setting.threads), isolate_rng(), quiet(), waits:
            trainer = Trainer(
                precision=setting.precision,  # type: ignore[arg-type]
                max_epochs=-1,
                callbacks=[StepRNG(0), watch],
                profiler=NoProfiler(),
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                use_distributed_sampler=False,
                devices=1,
                **self.options,
            )
            trainer.fit(model.double() if wide else model, datamodule=self.data)
        return watch


class _Watch(Callback):
    """Times the steps after the first; keeps loss and gradient of the first one, if asked."""

    def __init__(self, keep: bool, most: int, clock: Callable[[], float]) -> None:
        self.keep, self.most, self.clock = keep, most, clock
        self.times: list[float] = []
        self.numbers: dict[str, Tensor] = {}
        self._dropout: list[tuple[Any, str, float]] = []
        self._begun = 0.0

    @property
    def seconds(self) -> float:
        return median(self.times[1:] or self.times)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.keep:
            return
        for module in pl_module.modules():
            for name, value in vars(module).copy().items():
                dropout = "dropout" in name or isinstance(module, nn.Dropout)
                if dropout and isinstance(value, float):
                    self._dropout.append((module, name, value))
                    setattr(module, name, 0.0)
        names = {id(p): name for name, p in pl_module.named_parameters()}

        def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                if parameter.grad is not None and not self.times:
                    gradient = parameter.grad.detach()
                    self.numbers.setdefault(names[id(parameter)], gradient.cpu().clone())

        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(keep)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        _wait(pl_module)
        self._begun = self.clock()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        _wait(pl_module)
        self.times.append(self.clock() - self._begun)
        if len(self.times) == 1:
            self.numbers["loss"] = outputs["loss"].detach().cpu()
            for module, name, value in self._dropout:
                setattr(module, name, value)
        long = sum(self.times[1:]) >= _LONG_ENOUGH
        trainer.should_stop = long or len(self.times) >= self.most


def _wait(module: LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)


def off(numbers: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    """How far off loss and whole gradient are: the larger of both.

    The gradient relative to its norm; the loss to its value, or to 1 where it is less, since the
    loss of a critic is near 0.
    """
    if numbers.keys() != reference.keys():
        return float("inf")
    gradients = [
        torch.cat([found[name].flatten() for name in reference if name != "loss"])
        for found in (numbers, reference)
    ]
    loss, true = float(numbers["loss"]), float(reference["loss"])
    by_loss = abs(loss - true) / max(abs(true), 1.0)
    return max(by_loss, distance(*gradients)) if by_loss == by_loss else float("inf")


@contextmanager
def quiet() -> Iterator[None]:
    """Without what Lightning says of every Trainer."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
