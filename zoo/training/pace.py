"""How long a run will take, where that is longer than one waits for."""

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

_FIRST = 3  # steps that warm up
_STEPS, _SECONDS = 20, 60.0  # what is measured, whichever ends first
_PATIENCE = 2 * 3600.0


class Pace(Callback):
    """Says once, on a CPU, how long the run would take and what makes it shorter.

    Only of runs of hours, whose recipe is meant for a GPU.

    Args:
        patience: Seconds of a run of which nothing is said.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self.patience = patience
        self._began: tuple[float, int] | None = None
        self._told = False
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the measurement anew; a GPU is measured by no one."""
        self._told = pl_module.device.type != "cpu"
        self._began, self._since = None, time.monotonic()
        self._first = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measures the first steps."""
        if self._told:
            return
        now, step = time.monotonic(), trainer.global_step
        done = step - self._first
        if self._began is None and (done >= _FIRST or (done and now - self._since > _SECONDS)):
            self._began = now, step
            return
        if self._began is None or step == self._began[1]:
            return
        if done < _STEPS and now - self._since < _SECONDS:
            return
        self._told = True
        each = (now - self._began[0]) / (step - self._began[1])
        left = (_steps(trainer) - step) * each
        if left > self.patience:
            rank_zero_info(
                f"this run would take {duration(left)} on this CPU ({each:.2g} s for each of "
                f"{_steps(trainer):,} steps); shorter: a GPU, fewer --trainer.max_steps, a "
                f"smaller --data.batch_size{_smaller(pl_module)}"
            )


def _steps(trainer: Trainer) -> int:
    """Steps from the beginning to the end of the run; 0 if that is not known."""
    total = trainer.estimated_stepping_batches
    return int(total) if 0 < total < float("inf") else 0


def _smaller(module: LightningModule) -> str:
    sizes = ("width", "hidden", "dim", "generator_widths", "depth", "layers", "image_size")
    known = [f"--model.{name}" for name in sizes if module.hparams.get(name)]
    return f" or model ({', '.join(known[:2])})" if known else ""


def duration(seconds: float) -> str:
    """Such as 3.2 hours, or 12 days."""
    hours = seconds / 3600
    return f"{hours:.2g} hours" if hours < 48 else f"{hours / 24:,.0f} days"
