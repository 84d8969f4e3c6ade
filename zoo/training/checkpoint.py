"""Checkpoints that are whole or not there: atomic files, saved at every way a run can end."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks

from zoo.files import replacing
from zoo.training.guard import TrainingDivergedError
from zoo.training.stop import Stopped, StopRequest


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs to disk and renames, so a cut-off write replaces nothing."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves `checkpoint` at `path` (a local path) or leaves what was there."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class Checkpoint(lightning_callbacks.Checkpoint):
    """Keeps `run_dir/checkpoints/last.ckpt`, and `best.ckpt` by a validation metric.

    `last.ckpt` is written every n steps, at the end of training, and when Ctrl-C or SIGTERM asks
    the run to stop. Weights that are not finite are never written, so the last good file stays.

    Args:
        every_n_train_steps: Optimiser steps between two writes of last.ckpt; 0 writes it only when
            the run ends.
        keep_every_n_train_steps: Also keep a `step=N.ckpt` at these steps; 0 keeps none.
        monitor: Validation metric that decides best.ckpt, such as val/loss.
        mode: Whether the smallest or the largest value of `monitor` is the best.
    """

    def __init__(
        self,
        every_n_train_steps: int = 1000,
        keep_every_n_train_steps: int = 0,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        for name, value in (
            ("every_n_train_steps", every_n_train_steps),
            ("keep_every_n_train_steps", keep_every_n_train_steps),
        ):
            if value < 0:
                raise ValueError(f"checkpoint.{name} must be 0 or more, not {value}")
        self.every_n_train_steps = every_n_train_steps
        self.keep_every_n_train_steps = keep_every_n_train_steps
        self.monitor, self.mode = monitor, mode
        self.best: float | None = None
        self._saved_step = -1
        self._seen_step = 0
        self._stop = StopRequest()

    @staticmethod
    def folder(trainer: Trainer) -> Path:
        """Where the run's checkpoints are."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best, "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the best value so far, if the metric is the same and so is what is best."""
        theirs = state_dict["monitor"], state_dict.get("mode", self.mode)
        if theirs == (self.monitor, self.mode):
            self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens for Ctrl-C and SIGTERM from here on."""
        self._saved_step = self._seen_step = trainer.global_step
        _begin_next_epoch(trainer)
        self._stop.install()
        # Lightning broadcasts a flag for SIGTERM at every step and waits for it on the host; the
        # stop request does that job on logging steps.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves when due, or saves and stops when asked, after an optimiser step."""
        step = trainer.global_step
        if step == self._seen_step:  # the batch only accumulated gradients, which are not saved
            return
        self._seen_step = step
        due = self.every_n_train_steps and step % self.every_n_train_steps == 0
        if due or _ends_here(trainer):
            self.save_last(trainer)
        if self.keep_every_n_train_steps and step % self.keep_every_n_train_steps == 0:
            self.save_last(trainer)
            self._link(trainer, f"step={step}.ckpt")
        if self._stop.agreed(trainer):
            self._save_and_stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the best, and stops if that was asked for meanwhile."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if self.monitor is not None:
            self._keep_best(trainer, self.monitor)
        if self._stop.agreed(trainer, now=True):
            self._save_and_stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the end of a run that was stopped between batches."""
        if trainer.global_step != self._saved_step:
            self.save_last(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._stop.remove()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self._stop.remove()

    def save_last(self, trainer: Trainer) -> Path:
        """Writes last.ckpt on all ranks' behalf.

        Raises:
            TrainingDivergedError: The weights are not finite.
        """
        path = self.folder(trainer) / "last.ckpt"
        if trainer.global_step != self._saved_step:
            if not _finite(trainer.lightning_module):
                raise TrainingDivergedError(
                    f"the weights are not finite at step {trainer.global_step}: try a lower "
                    "learning rate, gradient clipping (--trainer.gradient_clip_val 1) or "
                    f"--trainer.precision 32-true; the last good one is in {path.parent}"
                )
            trainer.save_checkpoint(path)
            self._saved_step = trainer.global_step
        return path

    def _keep_best(self, trainer: Trainer, monitor: str) -> None:
        if monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(map(str, trainer.callback_metrics)))
            raise ValueError(f"checkpoint.monitor {monitor!r} is not logged; logged are {known}")
        value = float(trainer.callback_metrics[monitor])
        if self.best is None or (value < self.best if self.mode == "min" else value > self.best):
            self.best = value
            self._saved_step = -1  # the best value belongs into the file
            self.save_last(trainer)
            self._link(trainer, "best.ckpt")

    def _link(self, trainer: Trainer, name: str) -> None:
        """Gives last.ckpt a second name: no second copy is written."""
        folder = self.folder(trainer)
        if trainer.is_global_zero:
            temporary = folder / f".{name}.tmp"
            temporary.unlink(missing_ok=True)
            os.link(folder / "last.ckpt", temporary)
            os.replace(temporary, folder / name)
        trainer.strategy.barrier()

    def _save_and_stop(self, trainer: Trainer) -> None:
        path = self.save_last(trainer)
        raise Stopped(self._stop.signal, f"saved step {trainer.global_step} in {path}")


def _begin_next_epoch(trainer: Trainer) -> None:
    """Counts the epoch that a run resumed at the last batch of one goes on with.

    Lightning counts the finished epoch but takes the next one for the rest of it, so that its
    `ready` count stays one short; a second resume would then repeat an epoch's order of data.
    """
    loop = trainer.fit_loop
    progress: Any = loop.epoch_progress.total
    if loop.restarted_mid_epoch and progress.processed == progress.ready:
        loop.reset_restart_stage()


def _ends_here(trainer: Trainer) -> bool:
    """Whether this is the last step.

    By `on_train_end` Lightning has counted an epoch that max_steps cut short as done, and a run
    that goes on from there with more steps would miss the rest of it.
    """
    epochs = trainer.max_epochs
    last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return (
        trainer.global_step == trainer.max_steps
        or trainer.should_stop
        or (last_epoch and trainer.is_last_batch)
    )


@torch.no_grad()
def _finite(module: torch.nn.Module) -> bool:
    norms = torch._foreach_norm([p for p in module.parameters() if p.is_floating_point()])
    return not norms or bool(torch.stack([n.float() for n in norms]).isfinite().all())
