"""What all text DataModules share: splits, the training split's vocabulary, loaders."""

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule

from zoo.data.images.base import Split
from zoo.data.loader import Batches, EpochLoader, epoch_loader
from zoo.data.text.files import documents_of, left_out, read_documents, text_files
from zoo.data.text.vocabulary import Vocabulary, check_level
from zoo.ranges import check_ranges
from zoo.reading import decoded

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
    unit: str = "items"
    """What an item is, in words."""

    def check(self) -> None:
        """Checks the hyper-parameters.

        Raises:
            ValueError: There is no such level, or a number is out of its range.
        """
        check_level(self.hparams["level"])
        check_ranges(type(self), self.hparams, "--data.")
        self._splits: dict[Split, Any] = {}
        self._vocabulary: Vocabulary | None = None
        self._notes: list[str] = []
        self._limited = False  # whether --data.limit has left training items out

    @abstractmethod
    def load_split(self, split: Split) -> Any:
        """A split as a data set that is indexed by a batch of numbers."""

    def texts(self, split: Split) -> list[str]:
        """The documents of a split.

        Raises:
            ValueError: A file is not UTF-8, where symbols are not bytes.
        """
        root = self.hparams["root"]
        if self.hparams["level"] == "byte":  # which stay bytes, whatever they are
            documents = read_documents(root, split, lines=self.by_line)
            return [document.decode(errors="surrogateescape") for document in documents]
        texts = (
            decoded(document.data, document.path, document.line)
            for document in documents_of(root, split, lines=True)
        )
        return [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]

    def take_vocabulary(self, words: Vocabulary) -> None:
        """Uses a trained model's symbols instead of those of the training split.

        Raises:
            ValueError: They are of another level.
        """
        if words.level != self.hparams["level"]:
            raise ValueError(
                f"--data.level={self.hparams['level']}: the model's symbols are of level "
                f"{words.level}: set --data.level={words.level}"
            )
        self._vocabulary = words

    def where(self) -> tuple[str, list[str]]:
        """What is read, in words, and the files of the folder that are not."""
        root = self.hparams["root"]
        if root is None:
            return "tiny Shakespeare, which the zoo embeds (no --data.root was given)", []
        parts = text_files(root)
        if isinstance(parts, dict):
            names = ", ".join(file.name for file in parts.values())
            return f"text of {root}: {names}", left_out(root)
        files = f", {len(parts)} files" if Path(root).is_dir() else ""
        return f"text of {root}{files}: cut at 90 % and 95 % of the bytes", left_out(root)

    def describe(self) -> list[str]:
        """What was read, for the block at the start of a verb."""
        where, more = self.where()
        words = self.vocabulary
        lines = [where, f"vocabulary: {len(words):,} symbols (level {words.level})"]
        lines += [f"{name}: {len(items):,} {self.unit}" for name, items in self._splits.items()]
        if more:
            rest = f" and {len(more) - 5} more" if len(more) > 5 else ""
            lines.append(f"left out: {', '.join(more[:5])}{rest} (no text of the set)")
        return [*lines, *self._notes]

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
            limit=own["limit"] if self._limited else None,
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
