"""What all text DataModules share: splits, the training split's vocabulary, loaders."""

import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule

from datamodules.image_data import Split
from datamodules.loader import Batches, EpochLoader, epoch_loader
from datamodules.text_files import read_documents
from datamodules.vocabulary import Vocabulary, check_level
from zoo.ranges import check_ranges

_SPLITS_OF_STAGE: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    None: ("train", "val", "test"),
}


class TextData(LightningDataModule, ABC):
    """Text in memory, indexed by batch; works with and without a Trainer.

    A subclass saves its hyper-parameters (root, level, vocabulary_size, min_count, batch_size,
    val_batch_size, seed and limit among them), calls `check`, and loads its splits; a split is
    loaded when it is first needed.
    """

    by_line: ClassVar[bool] = False
    """Whether items are lines, which no split may cut."""

    def check(self) -> None:
        """Checks the hyper-parameters.

        Raises:
            ValueError: There is no such level, or a number is out of its range.
        """
        check_level(self.hparams["level"])
        check_ranges(type(self), self.hparams, "--data.")
        self._splits: dict[Split, Any] = {}
        self._vocabulary: Vocabulary | None = None

    @abstractmethod
    def load_split(self, split: Split) -> Any:
        """A split as a data set that is indexed by a batch of numbers."""

    def texts(self, split: Split) -> list[str]:
        """The documents of a split."""
        level = self.hparams["level"]
        errors = "surrogateescape" if level == "byte" else "replace"  # bytes stay bytes
        whole = level != "byte" or self.by_line
        documents = read_documents(self.hparams["root"], split, lines=whole)
        return [document.decode(errors=errors) for document in documents]

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the training split."""
        own = self.hparams
        if self._vocabulary is None:
            texts = () if own["level"] == "byte" else self.texts("train")
            self._vocabulary = Vocabulary.of(
                texts, own["level"], size=own["vocabulary_size"], min_count=own["min_count"]
            )
        return self._vocabulary

    def split(self, name: Split) -> Any:
        """One split's data set."""
        if name not in self._splits:
            self._splits[name] = self.load_split(name)
        return self._splits[name]

    def setup(self, stage: str | None = None) -> None:
        """Loads the splits of a stage ("fit", "validate", "test", "predict"), or all."""
        for name in _SPLITS_OF_STAGE.get(stage, ("test",)):
            self.split(name)
        # A batch is a few lookups: workers would only add a copy, so the advice is wrong here.
        warnings.filterwarnings("ignore", ".*does not have many workers.*", PossibleUserWarning)

    def _loader(self, split: Split, train: bool = False) -> EpochLoader:
        trainer, own = self.trainer, self.hparams
        return epoch_loader(
            self.split(split),
            own["batch_size"] if train else own["val_batch_size"] or own["batch_size"],
            train=train,
            seed=own["seed"],
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> EpochLoader:
        """Batches of this rank in an order that depends on (seed, epoch)."""
        return self._loader("train", train=True)

    def val_dataloader(self) -> EpochLoader:
        """Every validation item once, over all ranks."""
        return self._loader("val")

    def test_dataloader(self) -> EpochLoader:
        """Every test item once, over all ranks."""
        return self._loader("test")

    def predict_dataloader(self) -> Batches:
        """The test items."""
        return Batches(self._loader("test"))
