"""What all DataModules of sentences share: files, evaluation pairs, vocabulary, loaders."""

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import ConcatDataset

from zoo.data.cache import INDEX, cache_folder, key_of, locked, remembered, stamp
from zoo.data.loader import (
    Batches,
    EpochLoader,
    EpochSampler,
    larger_than,
    ranks,
    worker_options,
)
from zoo.data.remote import at_hand
from zoo.data.sentences import files as files_of_sentences
from zoo.data.sentences import labels as labels_of_sentences
from zoo.data.sentences import numbered, store, tables
from zoo.data.sentences.files import Labelled, Reading, SentenceFile, read_file
from zoo.data.sentences.kept import IN_MEMORY, Keep, Kept, Spilled
from zoo.data.sentences.labels import check_labels
from zoo.data.sentences.numbered import fraction
from zoo.data.sentences.sets import LabelledSet, TextSampler
from zoo.data.sentences.sources import EMBEDDED, Source, embedded, named, scanned
from zoo.data.sentences.tokenizer import Tokenizer, pad_tokens, read_tokens, train_tokens
from zoo.data.workers import Pool
from zoo.files import naming
from zoo.ranges import Count, Finite, NonNegative, Range, Seed, Workers, check_ranges

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Item = TypeVar("Item")
_VAL_OF_EVALUATED = 0.3  # share of the pairs of an evaluation file that validation has
_SHOWN = 12  # files that the account of the data spells out
_MEASURED = 10_000  # sentences whose lengths are looked at
# What the items do not hang on.
_LATER = (
    "batch_size", "val_batch_size", "max_length", "vocab", "lower", "seed", "num_workers", "noise",
    "segmenter", "memory_limit_gb",
)  # fmt: skip
_CODE = (files_of_sentences, labels_of_sentences, numbered, store, tables)  # that makes them


def number_of(split: Literal["val", "test"] | None) -> int:
    """The number of a split that a file is of; 0 if it is of none."""
    return SPLITS.index(split) if split else 0


def _prepare(
    kind: "type[SentenceData]", options: dict[str, Any], home: Path, made: dict[str, Any]
) -> None:
    """Reads the files and writes the items, in a process whose memory goes with it."""
    data = kind(**options)
    data.keep = Keep(home)
    with naming(home):
        data.read_here()
    data.write(home, made)


class SentenceData(LightningDataModule, ABC):
    """Texts for a sentence model, as token batches in the model's own vocabulary.

    A model without a vocabulary takes `vocabulary(size)`; one that has its own (from a checkpoint)
    sets `tokenizer`. Sentences that occur in the evaluation files are taken out of the training
    items, so that the numbers are of unseen sentences.

    Args:
        files: Files in `root`, or one; all that can be read there if not given, those named after a
            split of that split. Without a root, the embedded pairs (PAWS-X of Google LLC).
        columns: Names, or numbers from 1, of the columns of both sentences and of the label, where
            they are not known names; of the sentences alone if all pairs are similar.
        labels: What the labels 0 and 1, or 0, 1 and 2, mean: [no, yes], or NLI's names in order.
        scale: Lowest and highest grade of graded pairs, which are turned to 0 to 5; pairs from four
            fifths on are similar.
        root: Folder of the files, or a file, or the address of one (s3://, https://, ...), which
            is copied into the cache once.
        evaluate: Files of labelled pairs to judge the cosine by, under short names: 30 % of
            their pairs, by a fixed hash of the first sentence, are val and the others test.
        batch_size: Pairs, or single sentences, a step and process; a pair of a group gives two
            rows.
        val_batch_size: Pairs or sentences a step and process in evaluation; `batch_size` if not
            given.
        max_length: Most tokens of a sentence, [CLS] and [SEP] included, of which a row of a group
            has two; kept with the model, which cuts there from then on. Its own, or 64, if not
            given.
        vocab: A vocab.txt for a model without a vocabulary; characters of the training items if
            not given.
        lower: Lower-case, and drop accents, in a new vocabulary.
        seed: Seed of the order, the choices and the noise.
        num_workers: Processes that make batches.
        limit: Train on the first so many groups, pairs or sentences of each file only, for short
            runs.
        memory_limit_gb: Files that are larger together (10^9 bytes) are read once, by a process of
            its own, into a cache that is mapped into memory.

    Raises:
        ValueError: A count is not positive.
    """

    purpose: Literal["similar", "labelled", "mlm", "simcse"]
    """What its training items are for; a model checks it."""
    single = False
    """Whether files of single sentences are taken."""

    def __init__(
        self,
        *,
        files: list[str] | str | None = None,
        columns: list[str] | None = None,
        labels: list[str] | None = None,
        scale: list[Finite] | None = None,
        root: str | None = None,
        evaluate: dict[str, str] | None = None,
        batch_size: Count = 64,
        val_batch_size: Count | None = None,
        max_length: Annotated[int, Range(4)] | None = None,
        vocab: str | None = None,
        lower: bool = True,
        seed: Seed = 0,
        num_workers: Workers = 0,
        limit: Count | None = None,
        memory_limit_gb: NonNegative = 0.1,
    ) -> None:
        super().__init__()
        if max_length is not None and max_length < 4:
            raise ValueError(f"--data.max_length={max_length}: [CLS] and [SEP] leave no room")
        if columns is not None and len(columns) not in (2, 3):
            raise ValueError(
                f"--data.columns={list(columns)}: name the columns of both sentences, and "
                "of the label"
            )
        check_labels(labels, scale)
        self.save_hyperparameters(logger=False)
        check_ranges(type(self), self.hparams, "--data.")
        self._root, self.evaluate = root, evaluate or {}
        self.reading = Reading(columns, labels, scale)
        self.files = [files] if isinstance(files, str) else files
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.max_length, self.vocab, self.lower = max_length, vocab, lower
        self.seed, self.num_workers, self.limit = seed, num_workers, limit
        self.memory_limit = memory_limit_gb * 1e9
        self.keep: Keep = IN_MEMORY
        self.tokenizer: Tokenizer | None = None
        self._vocabularies: dict[str, list[str]] = {}  # by what they are of
        self.told: list[str] = []
        self._limited = False
        self._given: set[str | None] = set()
        self._labelled: dict[str, dict[str, Sequence[Labelled]]] | None = None
        self._home: Path | None = None

    @property
    def root(self) -> str | None:
        """The files on this machine, which are copied first if they lie elsewhere."""
        return self._root and at_hand(self._root)

    def path(self, name: str) -> Path:
        """The file of this name in `root`; `pawsx-zh-dev` is embedded."""
        return embedded() if name == EMBEDDED else named(self.root, name)

    def sources(self) -> list[Source]:
        """The training files, with the split that a name in `root` says.

        Raises:
            FileNotFoundError: There is no such file, or none in the folder that can be read.
        """
        found, left_out = self._scanned
        self.told += left_out
        return found

    @cached_property
    def _scanned(self) -> tuple[list[Source], list[str]]:
        """The training files, and what of a folder is left out."""
        if self.files is not None:
            return [Source(self.path(name), None) for name in self.files], []
        if self.root is None:
            return [Source(embedded(), None)], []
        return scanned(Path(self.root), single=self.single)

    def read_file(self, path: Path, unlabelled: bool = False) -> SentenceFile:
        """A file, by what the user said of all."""
        return read_file(
            path, self.reading, single=self.single, unlabelled=unlabelled, keep=self.keep
        )

    def read_sources(self) -> list[tuple[Source, SentenceFile]]:
        """The training files, read.

        Of a folder, files of val or test without labels are left out where those of train have
        some, as the test files of a benchmark are whose labels are kept back.
        """
        # Those of a split may have labels that are kept back.
        files = [(s, self.read_file(s.path, s.split is not None)) for s in self.sources()]
        labelled = any(file.has_labels for source, file in files if source.split is None)
        kept = []
        for source, file in files:
            if labelled and source.split is not None and not file.has_labels and file.pairs:
                self.told.append(f"left out: {source.path.name} (its pairs have no labels)")
            else:
                kept.append((source, file))
        self._given = {source.split for source, _ in kept}
        return kept

    def shares_without_files(self, shares: tuple[float, float]) -> tuple[float, float]:
        """The shares that val and test have of the training files: none where a file is theirs."""
        val, test = shares
        return 0 if "val" in self._given else val, 0 if "test" in self._given else test

    def nothing_left(self, what: str) -> str:
        """The mistake of data without a training item."""
        read = "; ".join(self.told[:_SHOWN])
        fix = f"raise --data.limit={self.limit}" if self._limited else "give more --data.files"
        return f"no {what} is left to train on: {fix} ({read})"

    def limited(self, items: Kept[Item]) -> Kept[Item]:
        """The first `limit` items of a file to train on."""
        if self.limit is None or self.limit >= len(items):
            return items
        self._limited = True
        return self.keep(islice(items, self.limit))

    @property
    def length(self) -> int:
        """Tokens at which sentences are cut: `max_length`, or what the model was trained with."""
        return self.max_length or self.words().length

    def counts(self) -> list[str]:
        """The items of each split, in words."""
        return []

    def describe(self) -> list[str]:
        """What was read, for the block at the start of a verb."""
        where = "the embedded PAWS-X pairs (no --data.root was given)"
        if self.root is not None or self.files not in (None, [EMBEDDED]):
            where = f"sentences of {self.root or ', '.join(self.files or ())}"
        shown = self.told[:_SHOWN]
        more = [f"and {len(self.told) - _SHOWN} files more"] if len(self.told) > _SHOWN else []
        labelled = [
            f"{split} pairs of {name}: {len(pairs):,}"
            for split, sets in (self._labelled or {}).items()
            for name, pairs in sets.items()
        ]
        return [where, *shown, *more, *self.counts(), *labelled]

    @abstractmethod
    def read(self) -> None:
        """Reads the training files; called once."""

    @abstractmethod
    def training_texts(self) -> Iterable[str]:
        """The sentences of the training items, for a vocabulary."""

    def setup(self, stage: str | None = None) -> None:
        """Reads all files, the first time; large ones from their cache."""
        if self._labelled is not None:
            return
        paths = self._paths()
        if store.total(paths) > self.memory_limit:
            self._map(paths)
        else:
            self.read_here()

    def read_here(self) -> None:
        """Reads all files into the memory of this process."""
        self._labelled = {"val": {}, "test": {}}
        for name, file in self.evaluate.items():
            held = read_file(self.path(file), self.reading, keep=self.keep)
            pairs = held.labelled(ranked=True)
            self.told.append(held.told(f"{held.kind(True).told}; {len(pairs)} pairs"))
            for pair in pairs:
                self.hold_out(name, pair, fraction(pair.a) < _VAL_OF_EVALUATED)
        self.read()

    def _paths(self) -> list[Path]:
        """All files that are read."""
        paths = [source.path for source in self._scanned[0]]
        more = [*self.evaluate.values(), *self.hparams.get("general", ())]
        return [path for path in (*paths, *map(self.path, more)) if path.is_file()]

    def _map(self, paths: list[Path]) -> None:
        """Maps what a process of its own has read of these files, now unless it is there."""
        options = {key: value for key, value in self.hparams.items() if key not in _LATER}
        modules = (*_CODE, *(sys.modules[kind.__module__] for kind in type(self).__mro__[:2]))
        code = [Path(module.__file__ or "").read_text("utf-8") for module in modules]
        known = [type(self).__qualname__, os.path.abspath(self.root or ""), options]
        home = cache_folder() / f"sentences-{key_of(known)}"
        files = [[os.path.abspath(path), *stamp(path)] for path in paths]
        made = {"files": files, "code": key_of(code)}
        with locked(home, "sentences"):
            found = store.read(home, made)
            if found is None:
                rank_zero_info(
                    f"reading {store.total(paths) / 1e9:.2g} GB of sentences into {home}"
                )
                with Pool(2) as pool:
                    pool.run(_prepare, type(self), dict(self.hparams), home, made)
                found = store.read(home, made)
            assert found is not None
        sets, self._home = found[0], home
        self.told, self._limited, parts = (found[1][key] for key in ("told", "limited", "parts"))
        self._labelled = {
            split: {name: sets[f"{split}-labelled-{i}"] for i, name in enumerate(names)}
            for split, names in found[1]["labelled"].items()
        }
        self.take(sets, parts)

    @abstractmethod
    def items(self) -> tuple[dict[str, store.Items], list[int]]:
        """The items that were read, by the name of their split, and the sizes of their parts."""

    @abstractmethod
    def take(self, sets: dict[str, store.MappedItems], parts: list[int]) -> None:
        """Takes what `items` gave, mapped."""

    def write(self, home: Path, made: dict[str, Any]) -> None:
        """Writes what was read into the folder of a cache."""
        assert self._labelled is not None
        sets, parts = self.items()
        names = {split: list(held) for split, held in self._labelled.items()}
        for split, held in self._labelled.items():
            for i, pairs in enumerate(held.values()):
                sets[f"{split}-labelled-{i}"] = store.Items("pair", pairs)
        known = {
            "told": self.told, "limited": self._limited, "parts": parts, "labelled": names,
        }  # fmt: skip
        store.write(home, sets, made, known)

    def hold_out(self, name: str, pair: Labelled, val: bool) -> None:
        """Adds a pair to the evaluation set of this name."""
        assert self._labelled is not None
        held = self._labelled["val" if val else "test"].setdefault(name, self.keep())
        assert isinstance(held, list | Spilled)
        held.append(pair)

    def labelled(self, split: Split) -> dict[str, Sequence[Labelled]]:
        """Evaluation pairs of a split, by the name of their set."""
        assert self._labelled is not None, "call setup() first"
        return self._labelled[split]

    def evaluated_texts(self) -> Iterator[str]:
        """All sentences of the evaluation pairs."""
        sets = [pairs for split in SPLITS[1:] for pairs in self.labelled(split).values()]
        return (text for pairs in sets for pair in pairs for text in (pair.a, pair.b))

    def tell_overlap(self, dropped: int) -> None:
        """Notes how many training items had a sentence of an evaluation file."""
        if dropped:
            self.told.append(f"left out: {dropped:,} training items with sentences to evaluate on")

    def vocabulary(self, size: int | None = None) -> list[str]:
        """The tokens for a new model: `vocab`, or the characters of the training items.

        Args:
            size: Number of tokens; as many as there are if not given.
        """
        if self.vocab is not None:
            tokens = read_tokens(self.vocab)
            return pad_tokens(tokens, size or len(tokens))

        def found() -> str:
            return json.dumps(train_tokens(self.training_texts(), size or 100_000, self.lower))

        what = f"vocabulary of {size or 100_000}, {self.lower}"
        files = [] if self._home is None else [self._home / INDEX]
        if what not in self._vocabularies:  # the next fit with the same data asks again
            self._vocabularies[what] = json.loads(
                remembered(files, what, found) if files else found()
            )
        return [
            t for t in self._vocabularies[what] if size is not None or not t.startswith("[unused")
        ]

    def words(self) -> Tokenizer:
        """The tokenizer of the model, or without a model one of all characters."""
        if self.tokenizer is None:
            self.tokenizer = Tokenizer(self.vocabulary(), self.lower)
        return self.tokenizer

    # Loaders

    def train_loader(self, dataset: Any, parts: Sequence[int]) -> EpochLoader:
        """Training batches of this rank; the parts of the data set alternate.

        The length at which they are cut is the model's from then on, and is told. A batch that is
        larger than an epoch is refused.
        """
        self._agree_on_length()
        where = ranks(self)
        batch = self.batch_size * where["world_size"]
        sampler = TextSampler(dataset.lengths, parts, batch, seed=self.seed, **where)
        if batch > sampler.size:
            limit = self.limit if self._limited else None
            many = larger_than(sampler.size, self.batch_size, where["world_size"], limit=limit)
            raise ValueError(many)
        return EpochLoader(
            dataset, sampler=sampler, batch_size=self.batch_size, **worker_options(self)
        )

    def _agree_on_length(self) -> None:
        words = self.words()
        words.max_length = self.length
        texts = list(islice(self.training_texts(), _MEASURED))
        share = words.share_cut(texts, self.length)
        if share > 0:
            rank_zero_info(
                f"{100 * share:.2g} % of the training sentences are longer than {self.length} "
                "tokens and are cut there (--data.max_length), as the model will always do"
            )

    def eval_loader(self, dataset: Any) -> EpochLoader:
        """Every item once, over all ranks, in order."""
        sampler = EpochSampler(len(dataset), train=False, **ranks(self))
        return EpochLoader(
            dataset, sampler=sampler, batch_size=self.val_batch_size, **worker_options(self)
        )

    def labelled_loaders(self, split: Split) -> list[EpochLoader]:
        """A loader of all evaluation pairs of a split, if there are any."""
        sets = self.labelled(split)
        if not sets:
            return []
        pairs: Any = ConcatDataset(list(sets.values()))  # type: ignore[arg-type]  # any sequence
        source = np.repeat(
            np.arange(len(sets), dtype=np.int64), [len(part) for part in sets.values()]
        )
        words = self.words()  # at whose length `encode` cuts too
        dataset = LabelledSet(pairs, source, words, max_length=words.length)
        return [self.eval_loader(dataset)]

    def val_dataloader(self) -> list[EpochLoader]:
        """Every validation item once, over all ranks."""
        return [*self.held_out_loaders("val"), *self.labelled_loaders("val")]

    def test_dataloader(self) -> list[EpochLoader]:
        """Every test item once, over all ranks; ValueError if there is none."""
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
