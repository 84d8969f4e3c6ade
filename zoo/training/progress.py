"""One progress bar for the whole run, redrawn by time, so that it costs fast steps nothing."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm.auto import tqdm


class StepProgressBar(ProgressBar):
    """Optimiser steps done of all steps, with the latest logged metrics behind.

    Lightning's own bars begin anew each epoch, which for a small data set is every second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._enabled = True
        self._drawn = 0.0

    def enable(self) -> None:
        """Shows the bar (on rank 0)."""
        self._enabled = True

    def disable(self) -> None:
        """Shows nothing (on other ranks)."""
        self._enabled = False

    def _open(self, total: float | None, initial: int, title: str) -> None:
        whole = None if total is None or not math.isfinite(total) or total < 0 else int(total)
        self._bar = tqdm(
            total=whole,
            initial=initial,
            desc=title,
            disable=not self._enabled,
            dynamic_ncols=True,
            unit="step" if title == "fit" else "batch",
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, trainer: Trainer, done: int, *, at_once: bool = False) -> None:
        now = time.monotonic()
        often = 0.1 if sys.stderr.isatty() else 30.0  # a line each in a file
        if self._bar is None or (now - self._drawn < often and not at_once):
            return
        self._drawn = now
        self._bar.n = done
        shown = ("train/loss", "val/loss")
        metrics = {name: trainer.callback_metrics.get(name) for name in shown}
        values = {name: f"{float(v):.4g}" for name, v in metrics.items() if v is not None}
        self._bar.set_postfix(values, refresh=False)
        self._bar.refresh()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar at the step that the run goes on from."""
        self._open(trainer.estimated_stepping_batches, trainer.global_step, "fit")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Redraws when it is time."""
        self._show(trainer, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the last step."""
        self._show(trainer, trainer.global_step, at_once=True)
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leaves the line to the message that follows."""
        self._close()

    def _count(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn != "fit" and self._bar is not None:
            self._bar.update(1)

    def _open_verb(self, trainer: Trainer, *args: Any) -> None:
        verb = str(trainer.state.fn.value) if trainer.state.fn else "fit"
        if verb != "fit":  # a fit's own bar stays as it is while it validates
            batches = {
                "validate": trainer.num_val_batches,
                "test": trainer.num_test_batches,
                "predict": trainer.num_predict_batches,
            }[verb]
            self._open(sum(batches), 0, verb)

    def _close_verb(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn != "fit":
            self._close()

    # One method for the three verbs beside fit; the hooks differ in arguments that none of it uses.
    on_validation_start = on_test_start = on_predict_start = _open_verb  # type: ignore[assignment]
    on_validation_batch_end = on_test_batch_end = _count  # type: ignore[assignment]
    on_predict_batch_end = _count  # type: ignore[assignment]
    on_validation_end = on_test_end = on_predict_end = _close_verb  # type: ignore[assignment]
