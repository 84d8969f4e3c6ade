"""How long a run will take and what memory it takes, measured in its first steps."""

import sys
import time
from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from tqdm.auto import tqdm

from zoo.training.pictures import memory
from zoo.training.start import held_bytes, megabytes
from zoo.waiting import duration, unmeasured

_FIRST = 3  # steps that warm up
_STEPS, _SECONDS = 20, 60.0  # what is measured, whichever ends first
_PATIENCE = 2 * 3600.0


class Pace(Callback):
    """Says once how long the run will take; of hours on a CPU also what makes it shorter.

    Such a recipe is meant for a GPU. A compiled model's first step is told, since it is long.

    Args:
        patience: Seconds of a run on a CPU that are not too long.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self.patience = patience
        self._began: tuple[float, int] | None = None
        self._told = False
        self._since = 0.0
        self._compiling = ExitStack()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the measurement anew."""
        self._told = False
        self._began, self._since = None, time.monotonic()
        self._first = trainer.global_step
        if getattr(pl_module, "compiled", False):
            self._compiling.enter_context(unmeasured("compiling", "usually a minute or two"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures the first steps."""
        if self._told:
            return
        self._compiling.close()
        now, step = time.monotonic(), trainer.global_step
        done = step - self._first
        if self._began is None and (done >= _FIRST or (done and now - self._since > _SECONDS)):
            self._began = _now(pl_module), step
            return
        if self._began is None or step == self._began[1]:
            return
        if done < _STEPS and now - self._since < _SECONDS:
            return
        self._told = True
        each = (_now(pl_module) - self._began[0]) / (step - self._began[1])
        left, device = (_steps(trainer) - step) * each, pl_module.device
        if left > self.patience and device.type == "cpu":
            self._tell(
                f"this run would take {duration(left)} on this CPU ({each:.2g} s for each of "
                f"{_steps(trainer):,} steps); shorter: a GPU, fewer --trainer.max_steps, a "
                f"smaller --data.batch_size{_smaller(pl_module)}"
            )
            return
        most = memory(device)
        of = f"{megabytes(most)} of memory at most so far"
        if device.type == "cuda":
            held = sum(held_bytes(trainer, pl_module).values())
            of += f", {megabytes(max(0, most - held))} of it for activations"
        long = f"about {duration(left)} more, " if left > 0 else ""
        self._tell(f"{long}{each:.2g} s a step, {of}")

    def _tell(self, text: str) -> None:
        with tqdm.external_write_mode(file=sys.stderr):  # on a line of its own, beside the bar
            rank_zero_info(text)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Ends what was begun."""
        self._compiling.close()


def _now(module: LightningModule) -> float:
    """The time at which what the GPU was given is done."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.monotonic()


def _steps(trainer: Trainer) -> int:
    """Steps from the beginning to the end of the run; 0 if that is not known."""
    total = trainer.estimated_stepping_batches
    return int(total) if 0 < total < float("inf") else 0


def _smaller(module: LightningModule) -> str:
    sizes = ("width", "hidden", "dim", "generator_widths", "depth", "layers", "image_size")
    known = [f"--model.{name}" for name in sizes if module.hparams.get(name)]
    return f" or model ({', '.join(known[:2])})" if known else ""
