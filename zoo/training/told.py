"""Says what data a run reads before it reads them, and that all processes do the same with it."""

import json
import os
import re
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.data.described import Described, account, tell
from zoo.training.distributed import processes

_COUNTS = re.compile(r"(train|val|test|classes|vocabulary)\b.*: .*")
# What may be each machine's own, as whatever names a place is.
_OWN = ("num_workers", "pin_memory", "memory_limit_gb", "cache", "compile")
_TRAINER = (
    "max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "precision",
    "val_check_interval", "check_val_every_n_epoch", "limit_train_batches", "limit_val_batches",
)  # fmt: skip


class ToldData(Callback):
    """Shows the DataModule's own account of its data at the start of a verb, on rank 0."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called after the DataModule's own `setup`, once a verb.

        Raises:
            ValueError: A process was given other options than the first, or counts other items, as
                a machine with files of its own does: the steps of the processes would not meet.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if processes() > 1:
            _check_options(_options(trainer, pl_module, data))
            _check_same(data)
        tell(data)


def _options(trainer: Trainer, model: LightningModule, data: object) -> dict[str, str]:
    """The options that all processes must have in common, by name."""
    given: dict[str, Any] = {"seed_everything": os.environ.get("PL_GLOBAL_SEED")}
    given |= {f"trainer.{name}": getattr(trainer, name) for name in _TRAINER}
    for part, held in (("model", model), ("data", data)):
        options = getattr(held, "hparams", {})
        given |= {f"{part}.{key}": value for key, value in options.items() if key not in _OWN}
    plain = {}
    for name, value in given.items():
        try:
            text = json.dumps(value, sort_keys=True)
        except (TypeError, ValueError):  # an object, which has no text of its own
            continue
        if "/" not in text and os.sep not in text:
            plain[name] = text
    return plain


def _of_all(own: Any) -> list[Any]:
    """What each process has, by its rank."""
    found: list[Any] = [None] * processes()
    dist.all_gather_object(found, own)
    return found


def _check_options(own: dict[str, str]) -> None:
    found = _of_all(own)
    for rank, theirs in enumerate(found):
        for name in sorted(theirs.keys() & found[0].keys()):
            if theirs[name] != found[0][name]:
                raise ValueError(
                    f"process {rank} was given --{name}={theirs[name][:80]} and the first "
                    f"{found[0][name][:80]}: give all processes the same"
                )


def _check_same(data: object) -> None:
    lines = account(data) if isinstance(data, Described) else []
    found = _of_all([line for line in lines if _COUNTS.fullmatch(line)])
    for rank, theirs in enumerate(found):
        if theirs != found[0]:
            here = next((line for line in theirs if line not in found[0]), "less")
            there = next((line for line in found[0] if line not in theirs), "less")
            raise ValueError(
                f"process {rank} reads other data than the first ({here}, not {there}): give all "
                "processes the same files"
            )
