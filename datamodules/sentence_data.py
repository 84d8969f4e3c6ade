"""What all DataModules of sentences share: evaluation pairs, the vocabulary, splits, loaders."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from datamodules.loader import Batches, EpochLoader, EpochSampler
from datamodules.sentence_files import Labelled, read_labelled
from datamodules.sentence_sets import LabelledSet, TextSampler
from zoo.simbert.noise import segmenter
from zoo.simbert.sentences import MAX_LENGTH
from zoo.simbert.tokenizer import Tokenizer, pad_tokens, read_tokens, train_tokens

Split = Literal["train", "val", "test"]
EMBEDDED = "pawsx-zh-dev"
_VAL_OF_EVALUATED = 0.3  # share of the pairs of an evaluation file that validation has


def fraction(text: str) -> float:
    """A fixed pseudo-random number in [0, 1) of a text, the same on every machine."""
    digest = blake2b(text.encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def families(groups: Iterable[Sequence[str]]) -> list[int]:
    """For each group the first group that it is linked to by sentences in common."""
    parent: list[int] = []
    owner: dict[str, int] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, group in enumerate(groups):
        parent.append(i)
        for text in group:
            a, b = sorted((root(owner.setdefault(text, i)), root(i)))
            parent[b] = a
    return [root(i) for i in range(len(parent))]


class SentenceData(LightningDataModule, ABC):
    """Texts for a sentence model, as token batches in the model's own vocabulary.

    A model without a vocabulary takes `vocabulary(size)`; one that has its own (from a checkpoint)
    sets `tokenizer`. Sentences that occur in the evaluation files are taken out of the training
    items, so that the numbers are of unseen sentences.

    Args:
        root: Folder of the files.
        evaluate: Files (TSV) of labelled pairs to judge the cosine by, under short names: 30 % of
            their pairs, by a fixed hash of the first sentence, are val and the others test.
        batch_size: Training items (pairs, sentences) a step and process.
        val_batch_size: Items a step and process in evaluation; `batch_size` if not given.
        max_length: Most tokens of a sentence, [CLS] and [SEP] included.
        vocab: A vocab.txt for a model without a vocabulary; characters of the training items if
            not given.
        lower: Lower-case, and drop accents, in a new vocabulary.
        seed: Seed of the order, the choices and the noise.
        num_workers: Processes that make batches.
        limit: Train on the first so many items of each file only, for short runs.

    Raises:
        ValueError: A count is not positive.
    """

    purpose: Literal["similar", "labelled", "mlm", "simcse"]
    """What its training items are for; a model checks it."""

    def __init__(
        self,
        *,
        root: str,
        evaluate: dict[str, str] | None,
        batch_size: int,
        val_batch_size: int | None,
        max_length: int,
        vocab: str | None,
        lower: bool,
        seed: int,
        num_workers: int,
        limit: int | None,
    ) -> None:
        super().__init__()
        if max_length < 4:
            raise ValueError(f"--data.max_length={max_length}: [CLS] and [SEP] leave no room")
        self.root, self.evaluate = root, evaluate or {}
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.max_length, self.vocab, self.lower = max_length, vocab, lower
        self.seed, self.num_workers, self.limit = seed, num_workers, limit
        self.tokenizer: Tokenizer | None = None
        self._labelled: dict[Split, dict[str, list[Labelled]]] | None = None

    def path(self, name: str) -> Path:
        """The file of this name in `root`; `pawsx-zh-dev` is embedded.

        Raises:
            FileNotFoundError: There is none.
        """
        if name == EMBEDDED:
            return Path(__file__).parent / "assets" / f"{EMBEDDED}.tsv.gz"
        path = Path(self.root) / name
        if not path.is_file():
            raise FileNotFoundError(f"no such file: {path} (set --data.root to its folder)")
        return path

    @abstractmethod
    def read(self) -> None:
        """Reads the training files; called once."""

    @abstractmethod
    def training_texts(self) -> Iterable[str]:
        """The sentences of the training items, for a vocabulary."""

    def setup(self, stage: str | None = None) -> None:
        """Reads all files, the first time."""
        if self._labelled is None:
            self._labelled = {"val": {}, "test": {}}
            for name, file in self.evaluate.items():
                for pair in read_labelled(self.path(file)):
                    self.hold_out(name, pair, fraction(pair.a) < _VAL_OF_EVALUATED)
            self.read()

    def hold_out(self, name: str, pair: Labelled, val: bool) -> None:
        """Adds a pair to the evaluation set of this name."""
        assert self._labelled is not None
        self._labelled["val" if val else "test"].setdefault(name, []).append(pair)

    def labelled(self, split: Split) -> dict[str, list[Labelled]]:
        """Evaluation pairs of a split, by the name of their set."""
        assert self._labelled is not None, "call setup() first"
        return self._labelled[split]

    def evaluated_texts(self) -> set[str]:
        """All sentences of the evaluation files."""
        sets = [pairs for split in ("val", "test") for pairs in self.labelled(split).values()]
        return {text for pairs in sets for pair in pairs for text in (pair.a, pair.b)}

    def tell_overlap(self, dropped: int) -> None:
        """Says how many training items had a sentence of an evaluation file."""
        if dropped:
            rank_zero_info(f"left out {dropped} training items with sentences to evaluate on")

    def vocabulary(self, size: int | None = None) -> list[str]:
        """The tokens for a new model: `vocab`, or the characters of the training items.

        Args:
            size: Number of tokens; as many as there are if not given.
        """
        if self.vocab is not None:
            tokens = read_tokens(self.vocab)
            return pad_tokens(tokens, size or len(tokens))
        if size is None:
            found = train_tokens(self.training_texts(), 100_000, self.lower)
            return [token for token in found if not token.startswith("[unused")]
        return train_tokens(self.training_texts(), size, self.lower)

    def words(self) -> Tokenizer:
        """The tokenizer of the model, or without a model one of all characters."""
        if self.tokenizer is None:
            self.tokenizer = Tokenizer(self.vocabulary(), self.lower)
        return self.tokenizer

    # Loaders

    def _ranks(self) -> dict[str, int]:
        trainer = self.trainer
        return {
            "rank": trainer.global_rank if trainer else 0,
            "world_size": trainer.world_size if trainer else 1,
        }

    def _options(self) -> dict[str, Any]:
        trainer = self.trainer
        cuda = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return {
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": cuda,
        }

    def train_loader(self, dataset: Any, parts: Sequence[int]) -> EpochLoader:
        """Training batches of this rank; the parts of the data set alternate.

        Raises:
            ValueError: A batch is larger than an epoch.
        """
        ranks = self._ranks()
        batch = self.batch_size * ranks["world_size"]
        sampler = TextSampler(dataset.lengths, parts, batch, seed=self.seed, **ranks)
        if batch > sampler.size:
            raise ValueError(
                f"a batch of {batch} is larger than the {sampler.size} training items: lower "
                "--data.batch_size"
            )
        return EpochLoader(dataset, sampler, self.batch_size, **self._options())

    def eval_loader(self, dataset: Any) -> EpochLoader:
        """Every item once, over all ranks, in order."""
        sampler = EpochSampler(len(dataset), train=False, **self._ranks())
        return EpochLoader(dataset, sampler, self.val_batch_size, **self._options())

    def labelled_loaders(self, split: Split) -> list[EpochLoader]:
        """A loader of all evaluation pairs of a split, if there are any."""
        sets = self.labelled(split)
        pairs = [pair for part in sets.values() for pair in part]
        if not pairs:
            return []
        source = [number for number, part in enumerate(sets.values()) for _ in part]
        # Not `max_length`: what a stage is trained with must not change what it is judged on.
        dataset = LabelledSet(pairs, source, self.words(), max_length=MAX_LENGTH)
        return [self.eval_loader(dataset)]

    def val_dataloader(self) -> list[EpochLoader]:
        """Every validation item once, over all ranks."""
        return [*self.held_out_loaders("val"), *self.labelled_loaders("val")]

    def test_dataloader(self) -> list[EpochLoader]:
        """Every test item once, over all ranks.

        Raises:
            ValueError: There is none.
        """
        loaders = [*self.held_out_loaders("test"), *self.labelled_loaders("test")]
        if not loaders:
            raise ValueError(
                "there is nothing to test on: give --data.evaluate '{name: file.tsv}'"
                + (", or --data.test_share" if "test_share" in self.hparams else "")
            )
        return loaders

    def predict_dataloader(self) -> list[Batches]:
        """The test items."""
        return [Batches(loader) for loader in self.test_dataloader()]

    def held_out_loaders(self, split: Split) -> list[EpochLoader]:
        """Loaders of held-out training items, where there are such."""
        return []

    def segmenter(self, name: str | None) -> Any:
        """The function that cuts texts into words."""
        return segmenter(name)
