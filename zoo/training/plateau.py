"""A learning rate that falls when the validation stops improving, exact through a resume.

Lightning keeps no metrics in a checkpoint, and a run that was saved after a step and killed before
that step's validation goes on without it: a scheduler that waits for the metric would then count
one validation less. Here the checkpoint says that a validation was due, and it is made up for.
"""

from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer


class Plateau:
    """lr = base times factor^decays, with one decay more after `patience` validations in vain.

    A module that owns one passes on its hooks: `update` in `on_validation_epoch_end`, `save` and
    `load` in `on_save_checkpoint` and `on_load_checkpoint`, `make_up` in `on_train_start`.

    Args:
        factor: Multiplier of a decay, below 1.
        patience: Validations without a new best before a decay; 0 never decays.
        max_decays: Most decays.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(self, factor: float, patience: int, max_decays: int) -> None:
        if not 0 < factor < 1 or patience < 0 or max_decays < 0:
            raise ValueError(
                f"lr_decay={factor}, lr_patience={patience}, max_decays={max_decays}: need a "
                "factor between 0 and 1 and counts of 0 or more"
            )
        self.factor, self.patience, self.max_decays = factor, patience, max_decays
        self.best = float("inf")
        self.waited = self.decays = 0
        self.step = -1
        self._missed = False

    def update(self, value: float, step: int, optimizer: Optimizer, wait: bool = False) -> None:
        """Takes the metric of the validation after `step` steps; a second one there is ignored.

        Args:
            value: The metric, smaller being better.
            step: Optimiser steps so far.
            optimizer: Its learning rates are multiplied.
            wait: Do not count this validation as one in vain.
        """
        if step == self.step:
            return
        self.step = step
        if value < self.best:
            self.best, self.waited = value, 0
        elif not wait:
            self.waited += 1
        if self.patience and self.waited >= self.patience and self.decays < self.max_decays:
            self.decays, self.waited = self.decays + 1, 0
            for group in optimizer.param_groups:
                group["lr"] *= self.factor

    def save(self, trainer: Trainer) -> dict[str, Any]:
        """What a checkpoint must hold; the learning rate itself is the optimiser's."""
        state = {name: getattr(self, name) for name in ("best", "waited", "decays", "step")}
        return {**state, "due": self.step != trainer.global_step and _validation_due(trainer)}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `save` returned."""
        self._missed = state["due"]
        for name in ("best", "waited", "decays", "step"):
            setattr(self, name, state[name])

    def make_up(self, trainer: Trainer) -> None:
        """Runs the validation that was due when the run was saved, if it went on without it."""
        if self._missed:
            self._missed = False
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False
            trainer.validating = True
            loop.run()
            trainer.training = True


def _validation_due(trainer: Trainer) -> bool:
    """Whether the Trainer validates before the next step."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    in_step = trainer.training and fetcher is not None
    return in_step and bool(loop._should_check_val_fx(fetcher))  # type: ignore[arg-type]
