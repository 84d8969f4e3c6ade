"""A learning rate that falls when the validation stops improving, exact through a resume."""

import math
from typing import Any

from torch.optim import Optimizer


class Plateau:
    """lr = base times factor^decays, with one decay more after `patience` validations in vain.

    A module that owns one passes on its hooks: `update` in `on_validation_epoch_end`, `save` and
    `load` in `on_save_checkpoint` and `on_load_checkpoint`. A validation whose metric is not finite
    is one in vain.

    Args:
        factor: Multiplier of a decay, below 1.
        patience: Validations without a new best before a decay; 0 never decays.
        max_decays: Most decays.
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

    def update(self, value: float, step: int, optimizer: Optimizer, wait: bool = False) -> None:
        """Takes the metric of the validation after `step` steps; a second one there is ignored.

        Smaller is better. With `wait` the validation does not count as one in vain.
        """
        if step == self.step:
            return
        self.step = step
        if math.isfinite(value) and value < self.best:
            self.best, self.waited = value, 0
        elif not wait:
            self.waited += 1
        if self.patience and self.waited >= self.patience and self.decays < self.max_decays:
            self.decays, self.waited = self.decays + 1, 0
            for group in optimizer.param_groups:
                group["lr"] *= self.factor

    def save(self) -> dict[str, Any]:
        """What a checkpoint must hold; the learning rate itself is the optimiser's."""
        return {name: getattr(self, name) for name in ("best", "waited", "decays", "step")}

    def load(self, state: dict[str, Any]) -> None:
        """Goes on from what `save` returned."""
        for name in ("best", "waited", "decays", "step"):
            setattr(self, name, state[name])
        if math.isnan(self.best):
            self.best = float("inf")
