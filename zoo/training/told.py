"""Says what data a run reads before it reads them."""

from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.data.described import tell


class ToldData(Callback):
    """Shows the DataModule's own account of its data at the start of a verb, on rank 0."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called after the DataModule's own `setup`, once a verb."""
        tell(trainer.datamodule)  # type: ignore[attr-defined]
