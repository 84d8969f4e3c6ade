"""Says what data a run reads before it reads them, and that all its processes read the same."""

import re
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.data.described import Described, account, tell
from zoo.training.distributed import processes

_COUNTS = re.compile(r"(train|val|test|classes|vocabulary)\b.*: .*")


class ToldData(Callback):
    """Shows the DataModule's own account of its data at the start of a verb, on rank 0."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called after the DataModule's own `setup`, once a verb.

        Raises:
            ValueError: A process counts other items than the first, as a machine with files of its
                own does: the steps of the processes would not meet.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if processes() > 1:
            _check_same(data)
        tell(data)


def _check_same(data: object) -> None:
    lines = account(data) if isinstance(data, Described) else []
    own = [line for line in lines if _COUNTS.fullmatch(line)]
    found: list[Any] = [None] * processes()
    dist.all_gather_object(found, own)
    for rank, theirs in enumerate(found):
        if theirs != found[0]:
            here = next((line for line in theirs if line not in found[0]), "less")
            there = next((line for line in found[0] if line not in theirs), "less")
            raise ValueError(
                f"process {rank} reads other data than the first ({here}, not {there}): give all "
                "processes the same files"
            )
