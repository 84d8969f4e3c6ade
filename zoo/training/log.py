"""Logging that costs nothing on the steps that are not logged."""

from collections.abc import Mapping

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


def is_logging_step(module: LightningModule) -> bool:
    """Whether Lightning will write this training step's metrics, or it is the last one.

    The condition is the Trainer's own, so a guarded `log_dict` loses nothing; each unguarded
    `self.log` would cost about a millisecond a step on a CPU. False outside a Trainer.
    """
    trainer = module._trainer
    if trainer is None or not trainer.training:
        return False
    return lightning_logs(trainer) or is_last_step(trainer)


def lightning_logs(trainer: Trainer) -> bool:
    """Whether the step that is done now is a multiple of `--trainer.log_every_n_steps`."""
    return (batches_that_stepped(trainer) + 1) % log_interval(trainer) == 0


def is_last_step(trainer: Trainer) -> bool:
    """Whether the step that is done now is the run's last, as far as that is known before."""
    epochs = trainer.max_epochs
    last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return trainer.global_step + 1 == trainer.max_steps or (last_epoch and trainer.is_last_batch)


def batches_that_stepped(trainer: Trainer) -> int:
    """The axis of the loggers; `global_step` counts the steps of every optimiser."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def log_interval(trainer: Trainer) -> int:
    """Steps from one logging step to the next."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]


def log_every(module: LightningModule, values: Mapping[str, Tensor | float]) -> None:
    """Logs `values` on logging steps (`--trainer.log_every_n_steps`), else does nothing."""
    if is_logging_step(module):
        module.log_dict({k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()})
