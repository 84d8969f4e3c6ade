"""What Lightning's LearningRateFinder and EarlyStopping leave undone or unsaid."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder
from lightning.pytorch.utilities import rank_zero_info

from zoo.training.checkpoint import Checkpoint
from zoo.training.record import RunRecord


class FoundRate(Callback):
    """Makes the rate that a LearningRateFinder found the rate of the run; stands after it.

    The finder sets the rate of the optimiser's groups, which a schedule overwrites with a multiple
    of its `base_lrs` at the next step. Here these become what was found, and the run's config too,
    so that a resumed run goes on with it.

    One that goes on from a checkpoint (`resume`) has a rate.
    """

    def __init__(self, resume: bool = False) -> None:
        self.resume = resume

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a search in a run that goes on and has a rate, or of a model with two."""
        if stage != "fit" or _finder(trainer) is None:
            return
        if self.resume:
            raise ValueError(
                "LearningRateFinder: a run that goes on has its rate already: leave the callback "
                "out (--trainer.callbacks null), and change the rate by --model.lr"
            )
        if "lr" not in pl_module.hparams:
            rates = [name for name in pl_module.hparams if name.startswith("lr_")]
            raise ValueError(
                f"LearningRateFinder: it finds one rate lr, and {type(pl_module).__name__} has "
                f"{' and '.join(r for r in rates if r != 'lr_schedule') or 'none'}: leave it out"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives the rate to the schedules, the optimiser's groups and the config."""
        finder = _finder(trainer)
        if finder is None or finder.optimal_lr is None or not finder._update_attr:
            return
        rate = finder.optimal_lr.suggestion()
        if rate is None:
            rank_zero_info("LearningRateFinder found no rate: model.lr stays as it is")
            return
        for schedule in (config.scheduler for config in trainer.lr_scheduler_configs):
            base: list[float] = getattr(schedule, "base_lrs", [])
            multipliers = [fraction(schedule, i) for i in range(len(base))]
            schedule.base_lrs = [rate] * len(base)
            for group, part in zip(schedule.optimizer.param_groups, multipliers, strict=False):
                group["initial_lr"], group["lr"] = rate, rate * part
            schedule._last_lr = [rate * part for part in multipliers]
        name = finder._attr_name or "lr"
        for record in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(record, RunRecord):
                record.config["model"]["init_args"][name] = rate
                if trainer.is_global_zero:
                    record.save_config(trainer)


def fraction(schedule: Any, group: int) -> float:
    """What a LambdaLR multiplies the rate of a group with at its step; 1 of other schedules."""
    lambdas = getattr(schedule, "lr_lambdas", None)
    return float(lambdas[group](schedule.last_epoch)) if lambdas else 1.0


def _finder(trainer: Trainer) -> LearningRateFinder | None:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return next((c for c in callbacks if isinstance(c, LearningRateFinder)), None)


def never_seen(trainer: Trainer) -> list[str]:
    """What was to be watched at validations, and in no validation of the run was there."""
    watched = [
        (f"EarlyStopping never looked at {c.monitor!r}", c.monitor)
        for c in trainer.early_stopping_callbacks
        if isinstance(c, EarlyStopping) and not math.isfinite(c.best_score)
    ]
    watched += [
        (f"there is no best.ckpt by {c.monitor!r}", c.monitor)
        for c in trainer.checkpoint_callbacks
        if isinstance(c, Checkpoint) and c.monitor and c.best is None
    ]
    known = sorted(map(str, trainer.callback_metrics))
    logged = f"logged: {', '.join(known) or 'nothing'}"
    return [
        f"{said}: no validation of this run had it ({logged})"
        for said, name in watched
        if name not in known
    ]


def why_stopped(trainer: Trainer) -> str | None:
    """Why an EarlyStopping ended the run, if one did."""
    for callback in trainer.early_stopping_callbacks:
        said = callback.stopping_reason_message if isinstance(callback, EarlyStopping) else None
        if said and trainer.should_stop:
            return f"stopped early: {said.replace(' Signaling Trainer to stop.', '')}"
    return None
