"""Stops a run whose loss is no longer a number."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.training.log import log_interval


class TrainingDivergedError(RuntimeError):
    """The loss or the weights are not finite."""


class FiniteLoss(Callback):
    """Raises when the loss is NaN or infinite, before a checkpoint of it is written.

    On a CPU every step is looked at; elsewhere, or on several processes, the losses are added up
    on the device and the sum is looked at on logging steps, so that no step waits for the host.
    """

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._since = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins a new sum."""
        self._sum, self._since = 0.0, trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Looks at the loss that `training_step` returned."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor):
            return
        every_step = trainer.world_size == 1 and loss.device.type == "cpu"
        if every_step:
            if not math.isfinite(loss):
                raise self._error(float(loss), trainer.global_step, trainer.global_step)
            return
        self._sum = self._sum + loss.detach()
        if trainer.global_step % log_interval(trainer) == 0:
            total = trainer.strategy.reduce(torch.as_tensor(self._sum), reduce_op="sum")
            if not math.isfinite(total):
                raise self._error(float(loss), self._since, trainer.global_step)
            self._sum, self._since = 0.0, trainer.global_step

    @staticmethod
    def _error(loss: float, first: int, last: int) -> TrainingDivergedError:
        steps = f"step {last}" if first == last else f"steps {first + 1} to {last}"
        return TrainingDivergedError(
            f"the loss is not finite ({loss}) at {steps}: try a lower learning rate, gradient "
            "clipping (--trainer.gradient_clip_val 1), a warm-up, or --trainer.precision 32-true; "
            "the last good checkpoint is kept"
        )
