"""Checkpoints that are whole or not there: atomic files, saved at every way a run can end."""

import math
import os
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from zoo.files import replacing
from zoo.loading import read_checkpoint
from zoo.ranges import Whole, check_ranges
from zoo.registry import nearest
from zoo.shards import SHARDS, SPREAD, remove_unnamed
from zoo.training.claim import UNSAVED
from zoo.training.csv import MetricsCSV
from zoo.training.guard import TrainingDivergedError
from zoo.training.loggers import senders
from zoo.training.loops import use_exact_loops
from zoo.training.stop import Stopped, StopRequest


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, syncs to disk and renames, so a cut-off write replaces nothing."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Saves `checkpoint` at `path` (a local path) or leaves what was there.

        OSError names the path if it could not be written, as on a full disk.
        """
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            # torch raises an error of its own over that of the file, which names no path.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(cause.errno, cause.strerror or str(cause), str(path)) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """A checkpoint, with whole tensors where they were spread over processes."""
        checkpoint = super().load_checkpoint(path, map_location, weights_only)
        return read_checkpoint(Path(path), keys=SPREAD) if SHARDS in checkpoint else checkpoint


class Checkpoint(lightning_callbacks.Checkpoint):
    """Keeps `run_dir/checkpoints/last.ckpt`, and `best.ckpt` by a validation metric.

    `last.ckpt` is written every n steps, at the end of training, and when Ctrl-C or SIGTERM asks
    the run to stop. Weights that are not finite are never written, so the last good file stays, and
    a metric that is not finite is never the best.

    Args:
        every_n_train_steps: Optimiser steps between two writes of last.ckpt; 0 writes it only when
            the run ends.
        keep_every_n_train_steps: Also keep a `step=N.ckpt` at these steps; 0 keeps none.
        monitor: Validation metric that decides best.ckpt, such as val/loss.
        mode: Whether the smallest or the largest value of `monitor` is the best.
        artifacts: Send last.ckpt and best.ckpt to W&B and MLflow when the training ends.
    """

    def __init__(
        self,
        every_n_train_steps: Whole = 1000,
        keep_every_n_train_steps: Whole = 0,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        artifacts: bool = False,
    ) -> None:
        check_ranges(Checkpoint, locals(), "--checkpoint.")
        self.every_n_train_steps = every_n_train_steps
        self.keep_every_n_train_steps = keep_every_n_train_steps
        self.monitor, self.mode, self.artifacts = monitor, mode, artifacts
        self.best: float | None = None
        self._strict: list[str] = []  # what EarlyStopping must find at a validation
        self._saved_step = self._seen_step = -1
        self._stop = StopRequest()

    @staticmethod
    def folder(trainer: Trainer) -> Path:
        """Where the run's checkpoints are."""
        return Path(trainer.default_root_dir) / "checkpoints"

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best, "monitor": self.monitor, "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the best value so far, if the metric and its mode are the same."""
        best = state_dict.get("best")
        same = state_dict.get("monitor") == self.monitor
        same = same and state_dict.get("mode", self.mode) == self.mode
        self.best = best if same and best is not None and math.isfinite(best) else None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds how far metrics.csv is."""
        for logger in _csv(trainer):
            checkpoint["metrics_csv"] = logger.state_dict()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sets metrics.csv back to where it was."""
        for logger in _csv(trainer) if "metrics_csv" in checkpoint else []:
            logger.load_state_dict(checkpoint["metrics_csv"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the Trainer loops that resume exactly."""
        if stage == "fit":
            use_exact_loops(trainer, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listens for Ctrl-C and SIGTERM from here on."""
        self._saved_step = self._seen_step = trainer.global_step
        self._stop.install()
        if self.best is not None and not trainer.strategy.broadcast(self._has_best(trainer)):
            rank_zero_info(f"{self.folder(trainer)} has no best.ckpt: the next best is another")
            self.best = None
        watchers = [c for c in trainer.early_stopping_callbacks if isinstance(c, EarlyStopping)]
        for watcher in watchers:
            if watcher.strict and not watcher._check_on_train_epoch_end:
                watcher.strict = False  # it would end the run before last.ckpt is written
                self._strict.append(watcher.monitor)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Until the training begins there is nothing to save."""
        self._stop.install(at_once=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation of a training ends with it, one by itself at once."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._stop.install(at_once=True)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test ends at once."""
        self._stop.install(at_once=True)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A prediction ends at once."""
        self._stop.install(at_once=True)

    def after_step(self, trainer: Trainer) -> None:
        """Saves when due, or saves and stops when asked."""
        step = trainer.global_step
        if step == self._seen_step:  # the batch made no step
            return
        self._seen_step = step
        every, keep = self.every_n_train_steps, self.keep_every_n_train_steps
        kept = [f"step={step}.ckpt"] if keep and step % keep == 0 else []
        asked = self._stop.agreed(trainer)
        if kept or asked or (every and step % every == 0) or _ends_here(trainer):
            self.save_last(trainer, *kept)
        if asked:
            self._raise_stopped(trainer)

    def after_validation(self, trainer: Trainer) -> None:
        """Keeps the best, and stops if that was asked for meanwhile."""
        self._check_monitors(trainer)
        best = ["best.ckpt"] if self.monitor and self._is_best(trainer, self.monitor) else []
        asked = self._stop.agreed(trainer, now=True)
        if best or asked or _ends_here(trainer):
            self.save_last(trainer, *best)
        if asked:
            self._raise_stopped(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the end of a run that was stopped elsewhere, and sends the files if asked to."""
        if trainer.global_step != self._saved_step:
            self.save_last(trainer)
        if self.artifacts and trainer.is_global_zero:
            files = [self.folder(trainer) / name for name in ("last.ckpt", "best.ckpt")]
            for sender in senders(trainer.loggers):
                for file in filter(Path.is_file, files):
                    sender.checkpoint(file)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Gives the signals back."""
        self._stop.remove()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back, and hands one that stops at once to the processes it started."""
        self._stop.remove()
        launcher = trainer.strategy.launcher
        if isinstance(exception, Stopped) and not exception.saved and launcher is not None:
            launcher.kill(exception.signum)

    def save_last(self, trainer: Trainer, *names: str) -> None:
        """Writes last.ckpt on all ranks' behalf, and gives it more names.

        last.ckpt comes last: a run that is killed before it goes on from an older one, and gives
        the other names again. Weights that are not finite raise TrainingDivergedError.
        """
        folder = self.folder(trainer)
        if not _finite(trainer.lightning_module):
            raise TrainingDivergedError(
                f"the weights are not finite at step {trainer.global_step}: try a lower "
                "learning rate, gradient clipping (--trainer.gradient_clip_val 1) or "
                f"--trainer.precision 32-true; the last good one is in {folder}"
            )
        first, *more = [*names, "last.ckpt"]
        trainer.save_checkpoint(folder / first)
        for name in more if trainer.is_global_zero else []:
            temporary = folder / f".{name}.{os.getpid()}.tmp"
            temporary.unlink(missing_ok=True)
            os.link(folder / first, temporary)  # a second name: no second copy is written
            os.replace(temporary, folder / name)
        if trainer.is_global_zero:
            (folder.parent / UNSAVED).unlink(missing_ok=True)
            remove_unnamed(folder)
        trainer.strategy.barrier()
        self._saved_step = trainer.global_step

    def _has_best(self, trainer: Trainer) -> bool:
        return (self.folder(trainer) / "best.ckpt").is_file()

    def _check_monitors(self, trainer: Trainer) -> None:
        known = sorted(map(str, trainer.callback_metrics))
        asked = {name: f"EarlyStopping: no metric {name!r} is logged" for name in self._strict}
        if self.monitor:
            asked[self.monitor] = f"--checkpoint.monitor={self.monitor} is not logged"
        missing = next((name for name in asked if name not in known), None)
        if missing is None:
            return
        self.save_last(trainer)  # the run can go on with another
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        protocols: list[dict[str, str]] = [getattr(c, "protocol", dict)() for c in callbacks]
        left_out = [p["left out of val"] for p in protocols if "left out of val" in p]
        raise ValueError(
            f"{asked[missing]}: {nearest(missing, known)} "
            f"(logged: {', '.join(known)}{'; left out: ' if left_out else ''}{'; '.join(left_out)})"
        )

    def _is_best(self, trainer: Trainer, monitor: str) -> bool:
        value = float(trainer.callback_metrics[monitor])
        if not math.isfinite(value):
            rank_zero_info(f"{monitor} is {value} at step {trainer.global_step}: not the best")
            return False
        best = self.best
        if best is None or (value < best if self.mode == "min" else value > best):
            self.best = value
            return True
        return False

    def _raise_stopped(self, trainer: Trainer) -> None:
        path = self.folder(trainer) / "last.ckpt"
        raise Stopped(self._stop.signal, f"saved step {trainer.global_step} in {path}")


def _csv(trainer: Trainer) -> list[MetricsCSV]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsCSV)]


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
    kinds: dict[type, list[torch.Tensor]] = {}  # FSDP's root holds whole weights after a validation
    for parameter in module.parameters():
        if parameter.is_floating_point():
            kinds.setdefault(type(parameter.data), []).append(parameter)
    norms = [torch.stack([n.float() for n in torch._foreach_norm(of)]) for of in kinds.values()]
    return all(bool(each.isfinite().all()) for each in norms)
