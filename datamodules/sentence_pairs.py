"""Sentences to train sentence models on: groups of similar ones, labelled pairs, single ones."""

from collections.abc import Iterable
from typing import Annotated, Literal

from datamodules.loader import EpochLoader
from datamodules.sentence_data import (
    EMBEDDED,
    SentenceData,
    Split,
    families,
    fraction,
)
from datamodules.sentence_files import Labelled, read_groups, read_labelled, read_sentences
from datamodules.sentence_sets import GroupSet, LabelledSet, SentenceSet
from zoo.ranges import BelowOne, Count, Range, Seed, Share, Workers, check_ranges
from zoo.simbert.losses import TASKS


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

    Files are JSONL of {"text": ..., "synonyms": [...]}, or TSV of labelled pairs, whose similar
    pairs are groups of two. Groups that share a sentence count as one: none is a negative of
    another, and they are in one split. Splits: by a fixed hash, `val_share` and `test_share` of
    the groups. Without `evaluate`, the held-out pairs of the TSV files, similar or not, are
    evaluated.

    Args:
        files: Files in `root`; `pawsx-zh-dev`, the default, is embedded (PAWS-X of Google LLC).
        general: More such files, of which every second item comes, as in kexue.fm/archives/8454.
        noise: Probability that a source is noised as in BART; 0.5 in RoFormer-Sim.
        segmenter: jieba for noise on whole words; spans of characters if not given.
        val_share: Share of the groups that validation has.
        test_share: Share of the groups that the test has.
        root: Folder of the files.
        evaluate: Files (TSV) of labelled pairs to judge the cosine by, under short names: 30 % of
            their pairs, by a fixed hash of the first sentence, are val and the others test.
        batch_size: Pairs a step and process; each gives two rows.
        val_batch_size: Pairs a step and process in evaluation; `batch_size` if not given.
        max_length: Most tokens of a sentence, [CLS] and [SEP] included; a row is twice as long.
        vocab: A vocab.txt for a model without a vocabulary; characters of the training items if
            not given.
        lower: Lower-case, and drop accents, in a new vocabulary.
        seed: Seed of the order, the choices and the noise.
        num_workers: Processes that make batches.
        limit: Train on the first so many groups of each file only, for short runs.
    """

    purpose = "similar"

    def __init__(
        self,
        *,
        files: list[str] = [EMBEDDED],  # noqa: B006  # never changed; a list, as YAML has it
        general: list[str] = [],  # noqa: B006
        noise: Share = 0.0,
        segmenter: str | None = None,
        val_share: BelowOne = 0.1,
        test_share: BelowOne = 0.1,
        root: str = "data",
        evaluate: dict[str, str] | None = None,
        batch_size: Count = 64,
        val_batch_size: Count | None = None,
        max_length: Annotated[int, Range(4)] = 32,
        vocab: str | None = None,
        lower: bool = True,
        seed: Seed = 0,
        num_workers: Workers = 0,
        limit: Count | None = None,
    ) -> None:
        super().__init__(
            root=root,
            evaluate=evaluate,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            max_length=max_length,
            vocab=vocab,
            lower=lower,
            seed=seed,
            num_workers=num_workers,
            limit=limit,
        )
        self.save_hyperparameters(logger=False)
        check_ranges(type(self), self.hparams, "--data.")
        if not 0 <= noise <= 1:
            raise ValueError(f"--data.noise must be a probability, got {noise}")
        _check_shares(val_share, test_share)
        self.files, self.general, self.noise = files, general, noise
        self.cut = self.segmenter(segmenter)
        self.shares = (val_share, test_share)
        self._groups: dict[Split, list[list[str]]] = {"train": [], "val": [], "test": []}
        self._family: dict[Split, list[int]] = {"train": [], "val": [], "test": []}
        self._parts: list[int] = []

    def read(self) -> None:
        """Reads the groups, and parts them."""
        unseen = self.evaluated_texts()
        all_pairs = self._labelled_pairs() if not self.evaluate else {}
        links = [[pair.a, pair.b] for pairs in all_pairs.values() for pair in pairs]
        sources = [
            (general, group)
            for general, files in enumerate((self.files, self.general))
            for file in files
            for group in read_groups(self.path(file))[: self.limit]
        ]
        # Unlike pairs link sentences as well: a held-out one must not be half known.
        together = [*(group for _, group in sources), *links]
        linked = families(together)
        keys = [together[i][0] for i in linked]
        similar = families(group for _, group in sources)
        parts, dropped = [0, 0], 0
        for (general, group), key, family in zip(sources, keys, similar, strict=False):
            split = _split(key, *self.shares)
            if split == "train":
                if not unseen.isdisjoint(group):
                    dropped += 1
                    continue
                parts[general] += 1
            self._groups[split].append(group)
            self._family[split].append(family)
        self._parts = [size for size in parts if size]
        if not self._parts:
            raise ValueError("no group is left to train on: give more --data.files")
        self.tell_overlap(dropped)
        link_keys = iter(keys[len(sources) :])
        for name, pairs in all_pairs.items():
            for pair in pairs:
                split = _split(next(link_keys), *self.shares)
                if split != "train":
                    self.hold_out(name, pair, split == "val")

    def _labelled_pairs(self) -> dict[str, list[Labelled]]:
        paths = [self.path(file) for file in (*self.files, *self.general)]
        return {
            path.name.split(".")[0]: read_labelled(path)
            for path in paths
            if ".tsv" in path.suffixes
        }

    def training_texts(self) -> Iterable[str]:
        """The sentences of the training groups."""
        return (text for group in self._groups["train"] for text in group)

    def groups(self, split: Split) -> list[list[str]]:
        """The groups of a split."""
        return self._groups[split]

    def _set(self, split: Split) -> GroupSet:
        train = split == "train"
        return GroupSet(
            self._groups[split],
            self._family[split],
            self.words(),
            max_length=self.max_length,
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

    Files are TSV with sentence1, sentence2 and label: 0 and 1; contradiction, neutral, entailment;
    or grades, of which the kind is seen. NLI pairs and the others alternate, as in the post.
    Splits: `val_share` and `test_share` of the pairs by a fixed hash, pairs that share a sentence
    together; these are evaluated beside those of `evaluate`.

    Args:
        files: Files in `root`; `pawsx-zh-dev`, the default, is embedded (PAWS-X of Google LLC).
        val_share: Share of the pairs that validation has.
        test_share: Share of the pairs that the test has.
        root: Folder of the files.
        evaluate: Files (TSV) of labelled pairs to judge the cosine by, under short names: 30 % of
            their pairs, by a fixed hash of the first sentence, are val and the others test.
        batch_size: Pairs a step and process.
        val_batch_size: Pairs a step and process in evaluation; `batch_size` if not given.
        max_length: Most tokens of a sentence, [CLS] and [SEP] included.
        vocab: A vocab.txt for a model without a vocabulary; characters of the training items if
            not given.
        lower: Lower-case, and drop accents, in a new vocabulary.
        seed: Seed of the order.
        num_workers: Processes that make batches.
        limit: Train on the first so many pairs of each file only, for short runs.
    """

    purpose = "labelled"

    def __init__(
        self,
        *,
        files: list[str] = [EMBEDDED],  # noqa: B006
        val_share: BelowOne = 0.0,
        test_share: BelowOne = 0.0,
        root: str = "data",
        evaluate: dict[str, str] | None = None,
        batch_size: Count = 96,
        val_batch_size: Count | None = None,
        max_length: Annotated[int, Range(4)] = 64,
        vocab: str | None = None,
        lower: bool = True,
        seed: Seed = 0,
        num_workers: Workers = 0,
        limit: Count | None = None,
    ) -> None:
        super().__init__(
            root=root,
            evaluate=evaluate,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            max_length=max_length,
            vocab=vocab,
            lower=lower,
            seed=seed,
            num_workers=num_workers,
            limit=limit,
        )
        self.save_hyperparameters(logger=False)
        check_ranges(type(self), self.hparams, "--data.")
        _check_shares(val_share, test_share)
        self.files, self.shares = files, (val_share, test_share)
        self._pairs: list[Labelled] = []
        self._parts: list[int] = []

    def read(self) -> None:
        """Reads the pairs, and parts them."""
        unseen = self.evaluated_texts()
        named = [
            (path.name.split(".")[0], pair)
            for path in map(self.path, self.files)
            for pair in read_labelled(path)[: self.limit]
        ]
        keys = families([pair.a, pair.b] for _, pair in named)
        kinds: list[list[Labelled]] = [[], []]
        dropped = 0
        for (name, pair), key in zip(named, keys, strict=True):
            split = _split(named[key][1].a, *self.shares)
            if split != "train":
                self.hold_out(name, pair, split == "val")
            elif pair.a in unseen or pair.b in unseen:
                dropped += 1
            else:
                kinds[TASKS[pair.task] == "NLI"].append(pair)
        self._pairs = [pair for kind in kinds for pair in kind]
        self._parts = [len(kind) for kind in kinds if kind]
        if not self._pairs:
            raise ValueError("no pair is left to train on: give more --data.files")
        self.tell_overlap(dropped)

    def training_texts(self) -> Iterable[str]:
        """The sentences of the training pairs."""
        return (text for pair in self._pairs for text in (pair.a, pair.b))

    def train_dataloader(self) -> EpochLoader:
        """Batches of pairs."""
        source = [0] * len(self._pairs)
        dataset = LabelledSet(self._pairs, source, self.words(), max_length=self.max_length)
        return self.train_loader(dataset, self._parts)


class Sentences(SentenceData):
    """Sentences alone, for a masked-language-model warm-up or SimCSE (kexue.fm/archives/8348).

    Files are plain lines; of .jsonl groups and .tsv pairs all sentences are taken. `val_share` of
    the sentences, by a fixed hash, are validation's.

    Args:
        files: Files in `root`; `pawsx-zh-dev`, the default, is embedded (PAWS-X of Google LLC).
        purpose: mlm masks words to predict; simcse gives each sentence twice.
        segmenter: jieba to mask whole words; spans of characters if not given.
        val_share: Share of the sentences that validation has.
        root: Folder of the files.
        evaluate: Files (TSV) of labelled pairs to judge the cosine by, under short names: 30 % of
            their pairs, by a fixed hash of the first sentence, are val and the others test.
        batch_size: Sentences a step and process.
        val_batch_size: Sentences a step and process in evaluation; `batch_size` if not given.
        max_length: Most tokens of a sentence, [CLS] and [SEP] included.
        vocab: A vocab.txt for a model without a vocabulary; characters of the training items if
            not given.
        lower: Lower-case, and drop accents, in a new vocabulary.
        seed: Seed of the order and the noise.
        num_workers: Processes that make batches.
        limit: Train on the first so many sentences of each file only, for short runs.
    """

    def __init__(
        self,
        *,
        files: list[str] = [EMBEDDED],  # noqa: B006
        purpose: Literal["mlm", "simcse"] = "mlm",
        segmenter: str | None = None,
        val_share: BelowOne = 0.01,
        root: str = "data",
        evaluate: dict[str, str] | None = None,
        batch_size: Count = 64,
        val_batch_size: Count | None = None,
        max_length: Annotated[int, Range(4)] = 64,
        vocab: str | None = None,
        lower: bool = True,
        seed: Seed = 0,
        num_workers: Workers = 0,
        limit: Count | None = None,
    ) -> None:
        super().__init__(
            root=root,
            evaluate=evaluate,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            max_length=max_length,
            vocab=vocab,
            lower=lower,
            seed=seed,
            num_workers=num_workers,
            limit=limit,
        )
        self.save_hyperparameters(logger=False)
        check_ranges(type(self), self.hparams, "--data.")
        _check_shares(val_share, 0)
        self.files, self.purpose, self.val_share = files, purpose, val_share
        self.cut = self.segmenter(segmenter)
        self._texts: dict[Split, list[str]] = {"train": [], "val": [], "test": []}

    def read(self) -> None:
        """Reads the sentences, and parts them."""
        unseen = self.evaluated_texts()
        found = [
            text for file in self.files for text in read_sentences(self.path(file))[: self.limit]
        ]
        distinct = list(dict.fromkeys(found))
        kept = [text for text in distinct if text not in unseen]
        self.tell_overlap(len(distinct) - len(kept))
        for text in kept:
            self._texts[_split(text, self.val_share, 0)].append(text)
        if not self._texts["train"]:
            raise ValueError("no sentence is left to train on: give more --data.files")

    def training_texts(self) -> Iterable[str]:
        """The training sentences."""
        return self._texts["train"]

    def _set(self, split: Split) -> SentenceSet:
        return SentenceSet(
            self._texts[split],
            self.words(),
            max_length=self.max_length,
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
