"""What all text DataModules share: splits, the training split's vocabulary, loaders."""

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, get_args

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule

from zoo.data.images.base import Split
from zoo.data.loader import Batches, EpochLoader, epoch_loader
from zoo.data.remote import at_hand
from zoo.data.text.files import documents_of, left_out, text_files
from zoo.data.text.vocabulary import Level, Vocabulary, as_level
from zoo.ranges import Count, Seed, check_ranges
from zoo.reading import decoded

_SPLITS_OF_STAGE: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    None: ("train", "val", "test"),
}


class TextData(LightningDataModule, ABC):
    """Text in memory, indexed by batch; works with and without a Trainer.

    A subclass loads its splits; a split is loaded when it is first needed.

    Args:
        level: What a symbol is: word (text with spaces between words and punctuation), wordpunct
            (other text), char or byte.
        root: Folder with a file of each split (such as the Penn Treebank's), any folder of .txt
            files (a document each), a file, or the address of one (s3://, https://, ...), which is
            copied into the cache once; tiny Shakespeare, which the zoo embeds, if not given.
        vocabulary_size: Most symbols of the vocabulary; the most frequent are kept. All if not
            given.
        min_count: Least count of a symbol of the vocabulary in the training split.
        batch_size: Training sentences, or windows of a stream, a step and process.
        val_batch_size: As many in evaluation; `batch_size` if not given.
        seed: Seed of the order.
        limit: Train on the first so many sentences only, or symbols of each document of a stream,
            for short runs.

    Raises:
        FileNotFoundError: There is no text at `root`.
        ValueError: There is no such level, or a number is out of its range.
    """

    by_line: bool = False
    """Whether items are lines, which no split may cut."""
    unit: str = "items"
    """What an item is, in words."""

    def __init__(
        self,
        *,
        level: Level,
        root: str | None = None,
        vocabulary_size: Count | None = None,
        min_count: Count = 1,
        batch_size: Count = 32,
        val_batch_size: Count | None = None,
        seed: Seed = 0,
        limit: Count | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        as_level(level)
        check_ranges(type(self), self.hparams, "--data.")
        self._root, self.limit = root, limit
        self.level: str = level
        self._limited = False  # whether --data.limit has left training items out
        self.vocabulary_size, self.min_count, self.seed = vocabulary_size, min_count, seed
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self._splits: dict[Split, Any] = {}
        self._vocabulary: Vocabulary | None = None
        self._notes: list[str] = []

    @property
    def root(self) -> str | None:
        """The text on this machine, which is copied first if it lies elsewhere."""
        return self._root and at_hand(self._root)

    @property
    def in_memory(self) -> bool:
        """Whether the text itself is read, not its numbers in files that were prepared."""
        return True

    @abstractmethod
    def load_split(self, split: Split) -> Any:
        """A split as a data set that is indexed by a batch of numbers."""

    def texts(self, split: Split) -> list[str]:
        """The documents of a split.

        Raises:
            ValueError: A file is not UTF-8, where symbols are not bytes.
        """
        if self.level == "byte":  # which stay bytes, whatever they are
            documents = documents_of(self.root, split, lines=self.by_line)
            return [document.data.decode(errors="surrogateescape") for document in documents]
        texts = (
            decoded(document.data, document.path, document.line)
            for document in documents_of(self.root, split, lines=True)
        )
        return [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]

    def take_vocabulary(self, words: Vocabulary) -> None:
        """Uses a trained model's symbols instead of those of the training split.

        Raises:
            ValueError: They are of another level.
        """
        if words.level != self.level:
            fix = f"set --data.level={words.level}"
            if words.level not in get_args(Level):  # of a tokenizer, which no level names
                fix = "prepare the text with zoo prepare text --tokenizer and the model's run"
            raise ValueError(
                f"--data.level={self.level}: the model's symbols are of level {words.level}: {fix}"
            )
        self._vocabulary = words

    def where(self) -> tuple[str, list[str]]:
        """What is read, in words, and the files of the folder that are not."""
        root = self.root
        if root is None:
            return "tiny Shakespeare, which the zoo embeds (no --data.root was given)", []
        parts = text_files(root)
        if isinstance(parts, dict):
            names = ", ".join(file.name for files in parts.values() for file in files)
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
        if self._vocabulary is None:
            texts = () if self.level == "byte" else self.texts("train")
            self._vocabulary = Vocabulary.of(
                texts, as_level(self.level), size=self.vocabulary_size, min_count=self.min_count
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
        if stage == "fit" and self.in_memory:
            self.texts("test")  # what cannot be read of it is said before hours of training
        # A batch is a few lookups: workers would only add a copy, so the advice is wrong here.
        warnings.filterwarnings("ignore", ".*does not have many workers.*", PossibleUserWarning)

    def _loader(self, items: Any, batch_size: int, train: bool = False) -> EpochLoader:
        trainer = self.trainer
        return epoch_loader(
            items,
            batch_size,
            train=train,
            seed=self.seed,
            limit=self.limit if self._limited else None,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> EpochLoader:
        """Batches of this rank in an order that depends on (seed, epoch)."""
        return self._loader(self.split("train"), self.batch_size, train=True)

    def val_dataloader(self) -> EpochLoader:
        """Every validation item once, over all ranks."""
        return self._loader(self.split("val"), self.val_batch_size)

    def test_dataloader(self) -> EpochLoader:
        """Every test item once, over all ranks."""
        return self._loader(self.split("test"), self.val_batch_size)

    def predict_dataloader(self) -> Batches:
        """The test items."""
        return Batches(self._loader(self.split("test"), self.val_batch_size))
