"""The numbers of Lightning's Trainer, and their ranges."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from zoo.ranges import Count, NonNegative, PositiveShare, Range, Share, Whole, find_fault

_AllOrCount = Annotated[int, Range(1, also=-1)]
_Part = Whole | Share  # so many batches, or a share of them

# The Trainer's own annotations say int where it means a count.
TRAINER: dict[str, Any] = {
    "devices": Annotated[int, Range(1, 1024, also=-1)] | list[Whole],
    "num_nodes": Annotated[int, Range(1, 65_536)],
    "fast_dev_run": Whole | bool,
    "max_epochs": _AllOrCount | None,
    "min_epochs": Whole | None,
    "max_steps": _AllOrCount,
    "min_steps": Whole | None,
    "limit_train_batches": Count | PositiveShare | None,
    "limit_val_batches": _Part | None,
    "limit_test_batches": _Part | None,
    "limit_predict_batches": _Part | None,
    "overfit_batches": _Part,
    "val_check_interval": Count | PositiveShare | None,
    "check_val_every_n_epoch": Count | None,
    "num_sanity_val_steps": Annotated[int, Range(-1)] | None,
    "log_every_n_steps": Count | None,
    "accumulate_grad_batches": Count,
    "gradient_clip_val": NonNegative | None,
    "reload_dataloaders_every_n_epochs": Whole,
}


def check_trainer(options: Mapping[str, Any], prefix: str = "") -> None:
    """Checks options of a Trainer, whose own annotations are wider than what it takes.

    Args:
        options: By name; others than numbers are left alone.
        prefix: Before the name in the message, such as `--trainer.`.

    Raises:
        ValueError: A number is out of its range or makes another void, a run would keep nothing,
            or the loaders would get an order not their own.
    """
    for name, hint in TRAINER.items():
        value = given = options.get(name)
        if isinstance(given, str) and re.fullmatch(r"\s*[-+]?\d+\s*", given):
            value = int(given)
        if fault := find_fault(hint, value):
            raise ValueError(f"{prefix}{name}={given}: {fault}")
    for name, value in (("enable_checkpointing", False), ("barebones", True)):
        if options.get(name) is value:
            raise ValueError(
                f"{prefix}{name}={str(value).lower()}: a run keeps its checkpoints and metrics: "
                "leave it out"
            )
    for unit in ("steps", "epochs"):
        least, most = options.get(f"min_{unit}") or 0, options.get(f"max_{unit}")
        if most is not None and -1 < int(most) < int(least):
            raise ValueError(
                f"{prefix}min_{unit}={least} is more than {prefix}max_{unit}={most}, which ends "
                "the run: raise that"
            )
    every = options.get("val_check_interval")
    if isinstance(every, float) and options.get("check_val_every_n_epoch", 1) is None:
        raise ValueError(
            f"{prefix}val_check_interval={every}: a share is one of an epoch, which needs "
            f"{prefix}check_val_every_n_epoch=1: give that too, or a number of steps"
        )
    if options.get("overfit_batches"):
        raise ValueError(
            f"{prefix}overfit_batches={options['overfit_batches']}: Lightning would give the "
            "loaders an order of its own, which they do not take: train on few items by the "
            "data's limit (--data.limit N)"
        )
