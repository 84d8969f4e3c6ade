"""Sentences to train sentence models on: groups of similar ones, labelled pairs, single ones."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data.loader import EpochLoader
from zoo.data.sentences.base import SPLITS, SentenceData, Split, number_of
from zoo.data.sentences.batches import TASKS
from zoo.data.sentences.files import Labelled
from zoo.data.sentences.kept import Kept
from zoo.data.sentences.noise import segmenter as words_by
from zoo.data.sentences.numbered import Linked
from zoo.data.sentences.sets import GroupSet, LabelledSet, SentenceSet
from zoo.data.sentences.store import Items, MappedItems
from zoo.ranges import BelowOne, Count, Share


def _check_shares(val_share: float, test_share: float) -> None:
    if min(val_share, test_share) < 0 or val_share + test_share >= 1:
        raise ValueError(
            f"--data.val_share={val_share} and --data.test_share={test_share} leave nothing to "
            "train on: give shares of 0 or more, below 1 together"
        )


class SimilarGroups(SentenceData):
    """Groups of similar sentences (kexue.fm/archives/7427): a sample is two of a group.

    Files are JSONL of {"text": ..., "synonyms": [...]} or {"anchor": ..., "positive": ...}, or
    tables (.tsv, .csv, tabbed .txt) of pairs, of which the similar ones are groups of two. Groups
    that share a sentence count as one: none is a negative of another, and they are in one split.
    Splits: by a fixed hash, `val_share` and `test_share` of the groups of files that are not a
    split themselves. Without `evaluate`, the held-out labelled pairs, similar or not, are
    evaluated.

    Args:
        general: More such files, of which every second item comes, as in kexue.fm/archives/8454.
        noise: Probability that a source is noised as in BART; 0.5 in RoFormer-Sim.
        segmenter: jieba for noise on whole words; spans of characters if not given.
        val_share: Share of the groups that validation has.
        test_share: Share of the groups that the test has.
        **files: What all data of sentences have, see `SentenceData`.
    """

    purpose = "similar"

    def __init__(
        self,
        *,
        general: list[str] = [],  # noqa: B006  # never changed; a list, as YAML has it
        noise: Share = 0.0,
        segmenter: str | None = None,
        val_share: BelowOne = 0.1,
        test_share: BelowOne = 0.1,
        **files: Any,
    ) -> None:
        super().__init__(**files)
        _check_shares(val_share, test_share)
        self.general, self.noise = general, noise
        self.cut = words_by(segmenter)
        self.shares = (val_share, test_share)
        self._groups: dict[Split, Sequence[list[str]]] = {"train": [], "val": [], "test": []}
        self._family: dict[Split, Sequence[int]] = {"train": [], "val": [], "test": []}
        self._parts: list[int] = []

    def read(self) -> None:
        """Reads the groups, and parts them."""
        files = [(False, source.split, file) for source, file in self.read_sources()]
        files += [(True, None, self.read_file(self.path(name))) for name in self.general]
        found = self.keep(list[tuple[bool, int, list[str]]]())
        for general, given, file in files:
            groups = file.similar()
            kind = f"{file.kind().told}; " if file.has_labels else ""
            of = f"{len(groups):,} of {len(file.pairs):,} pairs are similar"
            self.told.append(file.told(f"{kind}{of}" if file.has_labels else "all are similar"))
            for group in groups if given else self.limited(groups):
                found.append((general, number_of(given), group))
        pairs = self.keep(
            (file.path.name.split(".")[0], number_of(given), pair)
            for _, given, file in files
            if file.has_labels and not self.evaluate
            for pair in file.labelled()
        )
        # Unlike pairs link sentences as well: a held-out one must not be half known.
        together = chain((group for *_, group in found), ([p.a, p.b] for *_, p in pairs))
        linked = Linked(together, len(found) + len(pairs), self.keep.folder)
        parted = linked.parted(*self.shares_without_files(self.shares))
        for (name, number, pair), split in zip(pairs, parted[len(found) :], strict=True):
            if number or split:
                self.hold_out(name, pair, SPLITS[number or split] == "val")
        self._part(found, linked, parted[: len(found)])

    def _part(
        self, found: Kept[tuple[bool, int, list[str]]], linked: Linked, parted: NDArray[np.int8]
    ) -> None:
        """Gives the groups to their splits, those to train on without sentences of the others."""
        given = np.fromiter((number for _, number, _ in found), np.int8, len(found))
        splits = np.where(given, given, parted)
        similar = linked.families(len(found))
        dropped = linked.touching(splits > 0, self.evaluated_texts()) & (splits == 0)
        parts = [0, 0]
        groups = {split: self.keep(list[list[str]]()) for split in SPLITS}
        for (general, _, group), split, drop in zip(found, splits, dropped, strict=True):
            if not drop:
                parts[general] += not split
                groups[SPLITS[split]].append(group)
        self._groups = dict(groups)
        self._family = {split: similar[(splits == i) & ~dropped] for i, split in enumerate(SPLITS)}
        self._parts = [size for size in parts if size]
        self.tell_overlap(int(dropped.sum()))
        if not self._parts:
            raise ValueError(self.nothing_left("pair of similar sentences"))

    def items(self) -> tuple[dict[str, Items], list[int]]:
        """The groups of each split with their families, and the sizes of the parts."""
        sets: dict[str, Items] = {
            s: Items("group", self._groups[s], self._family[s]) for s in self._groups
        }
        return sets, self._parts

    def take(self, sets: dict[str, MappedItems], parts: list[int]) -> None:
        """Takes mapped groups."""
        self._parts = parts
        for split in self._groups:
            self._groups[split], self._family[split] = sets[split], sets[split].family

    def counts(self) -> list[str]:
        """The groups of each split."""
        return [f"{split}: {len(groups):,} groups" for split, groups in self._groups.items()]

    def training_texts(self) -> Iterable[str]:
        """The sentences of the training groups."""
        return (text for group in self._groups["train"] for text in group)

    def groups(self, split: Split) -> Sequence[list[str]]:
        """The groups of a split."""
        return self._groups[split]

    def _set(self, split: Split) -> GroupSet:
        train = split == "train"
        return GroupSet(
            self._groups[split],
            self._family[split],
            self.words(),
            max_length=self.length,
            noise=self.noise if train else 0.0,
            cut=self.cut,
            seed=self.seed,
            shuffle=train,
        )

    def train_dataloader(self) -> EpochLoader:
        """Batches of pairs, in both directions."""
        return self.train_loader(self._set("train"), self._parts)

    def held_out_loaders(self, split: Split) -> list[EpochLoader]:
        """Held-out groups."""
        return [self.eval_loader(self._set(split))] if self._groups[split] else []


class LabelledPairs(SentenceData):
    """Pairs with labels (kexue.fm/archives/8541): yes/no, NLI, or grades.

    Files are tables (.tsv, .csv, tabbed .txt) or JSONL with sentence1, sentence2 and label: 0 and
    1; contradiction, neutral, entailment; or grades, of which the kind is seen. NLI pairs and the
    others alternate, as in the post. Splits: `val_share` and `test_share` of the pairs by a fixed
    hash, pairs that share a sentence together; these are evaluated beside those of `evaluate`.

    Args:
        val_share: Share of the pairs that validation has.
        test_share: Share of the pairs that the test has.
        batch_size: Pairs a step and process.
        **files: What all data of sentences have, see `SentenceData`.
    """

    purpose = "labelled"

    def __init__(
        self,
        *,
        val_share: BelowOne = 0.0,
        test_share: BelowOne = 0.0,
        batch_size: Count = 96,
        **files: Any,
    ) -> None:
        super().__init__(batch_size=batch_size, **files)
        _check_shares(val_share, test_share)
        self.shares = (val_share, test_share)
        self._pairs: Sequence[Labelled] = []
        self._parts: list[int] = []

    def read(self) -> None:
        """Reads the pairs, and parts them."""
        found = self.keep(list[tuple[str, int, Labelled]]())
        for source, file in self.read_sources():
            pairs = file.labelled()
            self.told.append(file.told(f"{file.kind().told}; {len(pairs):,} pairs"))
            name = source.path.name.split(".")[0]
            for pair in pairs if source.split else self.limited(pairs):
                found.append((name, number_of(source.split), pair))
        rows = ([pair.a, pair.b] for *_, pair in found)
        linked = Linked(rows, len(found), self.keep.folder)
        given = np.fromiter((number for _, number, _ in found), np.int8, len(found))
        parted = linked.parted(*self.shares_without_files(self.shares))
        splits = np.where(given, given, parted)
        for (name, _, pair), split in zip(found, splits, strict=True):
            if split:
                self.hold_out(name, pair, SPLITS[split] == "val")
        nobody = np.zeros(len(found), bool)
        dropped = linked.touching(nobody, self.evaluated_texts()) & (splits == 0)
        kinds = [self.keep(list[Labelled]()) for _ in range(2)]
        for (*_, pair), split, drop in zip(found, splits, dropped, strict=True):
            if not split and not drop:
                kinds[TASKS[pair.task] == "NLI"].append(pair)
        self._pairs = self.keep(pair for kind in kinds for pair in kind)
        self._parts = [len(kind) for kind in kinds if kind]
        self.tell_overlap(int(dropped.sum()))
        if not self._pairs:
            raise ValueError(self.nothing_left("labelled pair"))
        if len(found) > 1 and len({(pair.task, pair.label) for *_, pair in found}) == 1:
            self.told.append(
                f"note: all {len(found):,} pairs have the same label, from which nothing is learnt"
            )

    def items(self) -> tuple[dict[str, Items], list[int]]:
        """The pairs to train on, and the sizes of the parts."""
        return {"train": Items("pair", self._pairs)}, self._parts

    def take(self, sets: dict[str, MappedItems], parts: list[int]) -> None:
        """Takes mapped pairs."""
        self._pairs, self._parts = sets["train"], parts

    def counts(self) -> list[str]:
        """The pairs to train on."""
        return [f"train: {len(self._pairs):,} labelled pairs"]

    def training_texts(self) -> Iterable[str]:
        """The sentences of the training pairs."""
        return (text for pair in self._pairs for text in (pair.a, pair.b))

    def train_dataloader(self) -> EpochLoader:
        """Batches of pairs."""
        source = np.broadcast_to(np.int64(0), len(self._pairs))
        dataset = LabelledSet(self._pairs, source, self.words(), max_length=self.length)
        return self.train_loader(dataset, self._parts)


class Sentences(SentenceData):
    """Sentences alone, for a masked-language-model warm-up or SimCSE (kexue.fm/archives/8348).

    Files are plain lines; of JSONL and tables all sentences are taken. `val_share` of
    the sentences, by a fixed hash, are validation's.

    Args:
        purpose: mlm masks words to predict; simcse gives each sentence twice.
        segmenter: jieba to mask whole words; spans of characters if not given.
        val_share: Share of the sentences that validation has.
        **files: What all data of sentences have, see `SentenceData`.
    """

    single = True

    def __init__(
        self,
        *,
        purpose: Literal["mlm", "simcse"] = "mlm",
        segmenter: str | None = None,
        val_share: BelowOne = 0.01,
        **files: Any,
    ) -> None:
        super().__init__(**files)
        _check_shares(val_share, 0)
        self.purpose, self.val_share = purpose, val_share
        self.cut = words_by(segmenter)
        self._texts: dict[Split, Sequence[str]] = {"train": [], "val": [], "test": []}

    def read(self) -> None:
        """Reads the sentences, and parts them."""
        found = self.keep(list[tuple[int, str]]())
        for source, file in self.read_sources():
            texts = file.sentences()
            self.told.append(file.told(f"{len(texts):,} sentences"))
            for text in texts if source.split else self.limited(texts):
                found.append((number_of(source.split), text))
        linked = Linked(([text] for _, text in found), len(found), self.keep.folder)
        first = linked.families()
        given = np.fromiter((number for number, _ in found), np.int8, len(found))
        held = np.zeros(len(found), np.int8)
        for i in np.flatnonzero(given)[::-1]:  # what is held out anywhere is so, where it is first
            held[first[i]] = given[i]
        parted = linked.parted(*self.shares_without_files((self.val_share, 0)))
        splits = np.where(held, held, parted)
        seen = linked.touching(np.zeros(len(found), bool), self.evaluated_texts())
        dropped = 0
        texts_of = {split: self.keep(list[str]()) for split in SPLITS}
        for i, (_, text) in enumerate(found):
            if first[i] != i:
                continue
            dropped += bool(seen[i])
            if not seen[i]:
                texts_of[SPLITS[splits[i]]].append(text)
        self.tell_overlap(dropped)
        self._texts = dict(texts_of)
        if not self._texts["train"]:
            raise ValueError(self.nothing_left("sentence"))

    def items(self) -> tuple[dict[str, Items], list[int]]:
        """The sentences of each split."""
        return {split: Items("text", texts) for split, texts in self._texts.items()}, []

    def take(self, sets: dict[str, MappedItems], parts: list[int]) -> None:
        """Takes mapped sentences."""
        for split in self._texts:
            self._texts[split] = sets[split]

    def counts(self) -> list[str]:
        """The sentences of each split."""
        return [f"{split}: {len(texts):,} sentences" for split, texts in self._texts.items()]

    def training_texts(self) -> Iterable[str]:
        """The training sentences."""
        return self._texts["train"]

    def _set(self, split: Split) -> SentenceSet:
        return SentenceSet(
            self._texts[split],
            self.words(),
            max_length=self.length,
            twice=self.purpose == "simcse",
            cut=self.cut,
            seed=self.seed,
        )

    def train_dataloader(self) -> EpochLoader:
        """Batches of sentences."""
        return self.train_loader(self._set("train"), [len(self._texts["train"])])

    def held_out_loaders(self, split: Split) -> list[EpochLoader]:
        """Held-out sentences, of a masked language model's validation."""
        if self.purpose == "simcse" or not self._texts[split]:
            return []
        return [self.eval_loader(self._set(split))]
