"""Sentences to train sentence models on: groups of similar ones, labelled pairs, single ones."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from zoo.data.loader import EpochLoader
from zoo.data.sentences.base import SentenceData, Split, families, fraction
from zoo.data.sentences.batches import TASKS
from zoo.data.sentences.files import Labelled, read_file
from zoo.data.sentences.noise import segmenter as words_by
from zoo.data.sentences.sets import GroupSet, LabelledSet, SentenceSet
from zoo.data.sentences.store import Items, MappedItems
from zoo.ranges import BelowOne, Count, Share

Held = Literal["val", "test"] | None


def _split(key: str, val_share: float, test_share: float) -> Split:
    u = fraction(key)
    return "val" if u < val_share else "test" if u < val_share + test_share else "train"


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
        files += [(True, None, read_file(self.path(name), self.reading)) for name in self.general]
        found: list[tuple[bool, Held, list[str]]] = []
        for general, given, file in files:
            groups = file.similar()
            kind = f"{file.kind().told}; " if file.has_labels else ""
            of = f"{len(groups):,} of {len(file.pairs):,} pairs are similar"
            self.told.append(file.told(f"{kind}{of}" if file.has_labels else "all are similar"))
            found += [
                (general, given, group) for group in (groups if given else self.limited(groups))
            ]
        pairs = [
            (file.path.name.split(".")[0], given, pair)
            for _, given, file in files
            if file.has_labels and not self.evaluate
            for pair in file.labelled()
        ]
        shares = self.shares_without_files(self.shares)
        # Unlike pairs link sentences as well: a held-out one must not be half known.
        together = [*(group for *_, group in found), *([pair.a, pair.b] for *_, pair in pairs)]
        keys = [together[i][0] for i in families(together)]
        for (name, given, pair), key in zip(pairs, keys[len(found) :], strict=True):
            split = given or _split(key, *shares)
            if split != "train":
                self.hold_out(name, pair, split == "val")
        splits = [
            given or _split(key, *shares) for (_, given, _), key in zip(found, keys, strict=False)
        ]
        self._part(found, splits)

    def _part(self, found: list[tuple[bool, Held, list[str]]], splits: list[Split]) -> None:
        """Gives the groups to their splits, those to train on without sentences of the others."""
        unseen = self.evaluated_texts()
        for (*_, group), split in zip(found, splits, strict=True):
            unseen.update(group if split != "train" else ())
        parts, dropped = [0, 0], 0
        groups: dict[Split, list[list[str]]] = {"train": [], "val": [], "test": []}
        numbers: dict[Split, list[int]] = {"train": [], "val": [], "test": []}
        similar = families(group for *_, group in found)
        for (general, _, group), split, family in zip(found, splits, similar, strict=True):
            if split == "train":
                if not unseen.isdisjoint(group):
                    dropped += 1
                    continue
                parts[general] += 1
            groups[split].append(group)
            numbers[split].append(family)
        self._groups, self._family = dict(groups), dict(numbers)
        self._parts = [size for size in parts if size]
        self.tell_overlap(dropped)
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
        found: list[tuple[str, Held, Labelled]] = []
        for source, file in self.read_sources():
            pairs = file.labelled()
            self.told.append(file.told(f"{file.kind().told}; {len(pairs):,} pairs"))
            name = source.path.name.split(".")[0]
            some = pairs if source.split else self.limited(pairs)
            found += [(name, source.split, pair) for pair in some]
        shares = self.shares_without_files(self.shares)
        splits: list[Split] = []
        for (name, given, pair), key in zip(
            found, families([pair.a, pair.b] for *_, pair in found), strict=True
        ):
            splits.append(given or _split(found[key][2].a, *shares))
            if splits[-1] != "train":
                self.hold_out(name, pair, splits[-1] == "val")
        unseen, dropped = self.evaluated_texts(), 0
        kinds: list[list[Labelled]] = [[], []]
        for (*_, pair), split in zip(found, splits, strict=True):
            if split != "train":
                continue
            if pair.a in unseen or pair.b in unseen:
                dropped += 1
            else:
                kinds[TASKS[pair.task] == "NLI"].append(pair)
        self._pairs = [pair for kind in kinds for pair in kind]
        self._parts = [len(kind) for kind in kinds if kind]
        self.tell_overlap(dropped)
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
        found: dict[str, Held] = {}
        for source, file in self.read_sources():
            texts = file.sentences()
            self.told.append(file.told(f"{len(texts):,} sentences"))
            for text in texts if source.split else self.limited(texts):
                found[text] = found.get(text) or source.split  # what is held out anywhere is so
        unseen = self.evaluated_texts()
        kept = {text: given for text, given in found.items() if text not in unseen}
        self.tell_overlap(len(found) - len(kept))
        (share, _) = self.shares_without_files((self.val_share, 0))
        texts_of: dict[Split, list[str]] = {"train": [], "val": [], "test": []}
        for text, given in kept.items():
            texts_of[given or _split(text, share, 0)].append(text)
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
