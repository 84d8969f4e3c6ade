"""Map-style data sets of sentences, and their order: mixed parts, batches of like lengths."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.loader import EpochSampler, type_of
from zoo.data.sentences.batches import (
    LabelledBatch,
    TextBatch,
    masked_batch,
    padded,
    seq2seq_batch,
)
from zoo.data.sentences.files import Labelled
from zoo.data.sentences.noise import Segmenter, noised, words_of
from zoo.data.sentences.tokenizer import Tokenizer
from zoo.layers.seeds import mix

_WINDOW = 50  # batches whose items are sorted by length among themselves


class TextSampler(EpochSampler):
    """Training order as a function of (seed, epoch) that yields (turn, item) in one number.

    The number is turn * items + item, so that a data set, in whatever process, knows the turn: its
    noise is a function of (seed, turn, item). An epoch has as many turns as its smallest part is
    gone through. Within windows of 50 batches items are sorted by length, so that a batch has
    little padding, but each turn for itself: copies of an item have one length, and would come
    into one batch. The batches are shuffled.

    Args:
        lengths: Length of each item.
        parts: Sizes of the parts, one after another, that alternate item by item; the smaller ones
            are gone through more than once.
        batch: Items of all processes in a batch.
        **options: seed, rank and world_size of an `EpochSampler`.
    """

    def __init__(
        self, lengths: Sequence[int], parts: Sequence[int], batch: int, **options: Any
    ) -> None:
        assert sum(parts) == len(lengths)
        super().__init__(len(parts) * max(parts), **options)
        self.lengths = torch.tensor(lengths, dtype=torch.int32)
        self.parts, self.batch = list(parts), batch

    def order(self) -> Tensor:
        """Numbers still to come in this epoch, int64; the next call gives a whole epoch."""
        start, self.start = self.start, 0
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        each, items = max(self.parts), len(self.lengths)
        # Four bytes a number where they are enough; both types are shuffled alike.
        dtype = type_of(items * -(-each // min(self.parts)))
        columns, first = [], 0
        for size in self.parts:
            shuffled = [
                first + turn * items + torch.randperm(size, generator=generator, dtype=dtype)
                for turn in range(-(-each // size))
            ]
            columns.append(self._by_length(torch.cat(shuffled)[:each]))
            first += size
        # (each, parts): row by row the parts alternate.
        order = torch.stack(columns, 1).flatten()
        del columns, shuffled
        whole = len(order) // self.batch * self.batch
        if whole:
            batches = order[:whole].reshape(-1, self.batch)
            shuffled_batches = batches[torch.randperm(len(batches), generator=generator)]
            order = torch.cat([shuffled_batches.flatten(), order[whole:]])
            del batches, shuffled_batches
        mine = order[self.rank :: self.world_size][: len(self)][start:]
        return mine.long() + self.epoch * items * -(-each // min(self.parts))

    def _by_length(self, column: Tensor) -> Tensor:
        """The numbers of a part, sorted within windows."""
        items, longest = len(self.lengths), int(self.lengths.max()) + 1
        rows = max(self.batch // len(self.parts), 1)  # of a part in a batch
        windows = []
        for here in torch.split(column, _WINDOW * rows):
            lengths = self.lengths[here % items]
            # First by turn and then by length; then what goes into a batch by its mean length.
            order = (here.long() // items * longest + lengths).argsort(stable=True)
            whole = len(order) // rows * rows
            chunks = order[:whole].reshape(-1, rows)
            chunks = chunks[lengths[chunks].sum(1).argsort(stable=True)]
            windows += [here[chunks.flatten()], here[order[whole:]]]
        return torch.cat(windows)


def _lengths(items: Sequence[Any], length: Callable[[Any], int]) -> Sequence[int]:
    """The length of each item, which a mapped set knows."""
    known: Sequence[int] | None = getattr(items, "lengths", None)
    return [length(item) for item in items] if known is None else known


@dataclass
class GroupSet:
    """Groups of similar sentences; an item is two of them, each once as the source."""

    groups: Sequence[Sequence[str]]
    """The sentences of each group, two or more."""
    family: Sequence[int]
    """For each group a number that groups with a sentence in common share."""
    tokenizer: Tokenizer
    _: KW_ONLY
    max_length: int
    """Tokens of a source, [CLS] and [SEP] included."""
    noise: float = 0.0
    """Probability that a source is noised."""
    cut: Segmenter | None = None
    seed: int = 0
    shuffle: bool = False
    """Take two of the group at random, anew every epoch; else the first two."""

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Characters of the longest sentence of each group."""
        return _lengths(self.groups, lambda group: max(map(len, group)))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitems__(self, numbers: list[int]) -> TextBatch:
        sources, targets, texts, groups, index = [], [], [], [], []
        for number in numbers:
            epoch, i = divmod(number, len(self.groups))
            rng = Random(mix(self.seed, epoch, i))
            two = rng.sample(self.groups[i], 2) if self.shuffle else self.groups[i][:2]
            pair = self.tokenizer.fitting(two, self.max_length - 2)
            ids = self.tokenizer.pieces_of(pair)
            for row, (a, b) in enumerate(((0, 1), (1, 0))):
                sources.append(self._source(pair[a], ids[a], rng))
                targets.append([*ids[b][: self.max_length - 1], self.tokenizer.sep])
                texts.append(pair[a])
                groups.append(self.family[i])
                index.append(2 * i + row)
        return seq2seq_batch(
            sources, targets, pad=self.tokenizer.pad, group=groups, texts=texts, index=index
        )

    def _source(self, text: str, ids: list[int], rng: Random) -> list[int]:
        tokenizer = self.tokenizer
        if self.noise and rng.random() < self.noise:
            ids, _ = noised(words_of(text, tokenizer, self.cut, rng), tokenizer, rng)
        return [tokenizer.cls, *ids[: self.max_length - 2], tokenizer.sep]


@dataclass
class SentenceSet:
    """Sentences alone."""

    texts: Sequence[str]
    tokenizer: Tokenizer
    _: KW_ONLY
    max_length: int
    """Tokens of a row."""
    twice: bool = False
    """Each sentence in two rows without noise (SimCSE), instead of one with masked words."""
    cut: Segmenter | None = None
    seed: int = 0

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Characters of each sentence."""
        return _lengths(self.texts, len)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitems__(self, numbers: list[int]) -> TextBatch:
        tokenizer, room = self.tokenizer, self.max_length - 2
        rows, predicted, texts, index = [], [], [], []
        for number in numbers:
            epoch, i = divmod(number, len(self.texts))
            text = tokenizer.fitting([self.texts[i]], room)[0]
            if self.twice:
                ids = tokenizer.pieces_of([text])[0]
                targets = [-1] * len(ids)
            else:
                rng = Random(mix(self.seed, epoch, i))
                ids, targets = noised(words_of(text, tokenizer, self.cut, rng), tokenizer, rng)
            for _ in range(1 + self.twice):
                rows.append([tokenizer.cls, *ids[:room], tokenizer.sep])
                predicted.append([-1, *targets[:room], -1])
                texts.append(text)
                index.append(i)
        return masked_batch(rows, predicted, pad=tokenizer.pad, texts=texts, index=index)


@dataclass
class LabelledSet:
    """Labelled pairs."""

    pairs: Sequence[Labelled]
    source: NDArray[np.int64]
    """Number of the file of each pair."""
    tokenizer: Tokenizer
    _: KW_ONLY
    max_length: int
    """Tokens of a row."""

    @cached_property
    def lengths(self) -> Sequence[int]:
        """Characters of the longer sentence of each pair."""
        return _lengths(self.pairs, lambda pair: max(len(pair.a), len(pair.b)))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, numbers: list[int]) -> LabelledBatch:
        index = [number % len(self.pairs) for number in numbers]
        chosen = [self.pairs[i] for i in index]
        texts = [text for pair in chosen for text in (pair.a, pair.b)]
        tokens, lengths = padded(self.tokenizer.encode(texts, self.max_length), self.tokenizer.pad)
        return LabelledBatch(
            tokens,
            lengths,
            torch.tensor([pair.label for pair in chosen]),
            torch.tensor([pair.task for pair in chosen]),
            torch.tensor([int(self.source[i]) for i in index]),
            texts,
            torch.tensor(index),
        )
