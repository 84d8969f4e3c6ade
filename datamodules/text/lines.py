"""Sentences as items: a line a sentence, in batches of about one length."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.images.base import Split
from zoo.data.loader import EpochLoader, EpochSampler
from zoo.data.text.base import TextData
from zoo.data.text.vocabulary import Level
from zoo.layers.seeds import mix
from zoo.ranges import Count
from zoo.waiting import waiting


class TextBatch(NamedTuple):
    """A batch of sentences."""

    tokens: Tensor
    """(B, T) int64, each sentence with its end, then padding (of the end's number)."""
    lengths: Tensor
    """(B,) int64, symbols of each sentence, its end among them."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(B,) int64, each item's number in its split."""
    real: Tensor
    """(N,) int64, where in the flattened tokens no padding stands: known here, on the host, so that
    no device has to be asked."""

    def to(self, device: torch.device | str) -> "TextBatch":
        """The batch on `device`; the copy from pinned memory does not wait."""
        return TextBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class SentenceSet:
    """Sentences in memory, indexed by a whole batch of numbers.

    Args:
        sentences: Numbers of the symbols of each sentence, without its end.
        end: Number of the end.
    """

    def __init__(self, sentences: list[NDArray[np.int64]], end: int) -> None:
        self.end = end
        self.lengths = np.array([len(s) + 1 for s in sentences], np.int64)
        self.offsets = np.cumsum(self.lengths) - self.lengths
        self.symbols = np.full(self.lengths.sum(), end, np.int32)
        for offset, sentence in zip(self.offsets, sentences, strict=True):
            self.symbols[offset : offset + len(sentence)] = sentence

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitems__(self, indices: list[int]) -> TextBatch:
        index = np.array(indices, np.int64)
        lengths, offsets = self.lengths[index], self.offsets[index]
        column = np.arange(lengths.max(initial=1))
        inside = column < lengths[:, None]
        # Where a row is over, its last symbol: the end.
        tokens = self.symbols[offsets[:, None] + np.minimum(column, lengths[:, None] - 1)]
        assert (tokens[~inside] == self.end).all()
        parts = (tokens.astype(np.int64), lengths, index, np.flatnonzero(inside))
        return TextBatch(*map(torch.from_numpy, parts))


class BucketSampler(EpochSampler):
    """A random order in which neighbours are of about one length; a function of (seed, epoch).

    The permutation of the epoch is cut into pools, a pool sorted by length and cut into batches,
    and the batches of all pools are shuffled. Every process steps through the same batches, of
    which it takes its stride, so all have about equally long ones.

    Args:
        lengths: Length of each item.
        batch_size: Items a batch and process.
        pool: Batches a pool; 1 sorts nothing across batches.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        *,
        batch_size: int,
        pool: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(len(lengths), seed=seed, rank=rank, world_size=world_size)
        self.lengths = torch.from_numpy(lengths)
        self.whole = batch_size * world_size
        self.pool = pool

    def order(self) -> Tensor:
        """The indices still to come in this epoch, int64; the next call gives a whole epoch."""
        start, self.start = self.start, 0
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        order = torch.randperm(self.size, generator=generator)
        # What fills no batch is dropped, and must be parted before the sorting: else it would be
        # the longest sentences of a pool.
        full = self.size // self.whole * self.whole
        parts = []
        for pool in torch.split(order[:full], self.pool * self.whole):
            by_length = pool[self.lengths[pool].sort(stable=True).indices]
            parts.append(by_length.reshape(-1, self.whole))
        batches = torch.cat(parts)
        batches = batches[torch.randperm(len(batches), generator=generator)]
        order = torch.cat([batches.flatten(), order[full:]])
        return order[self.rank :: self.world_size][: len(self)][start:]


class TextLines(TextData):
    """Sentences of any text, a line each, as `TextBatch`es; empty lines are left out.

    The vocabulary is the training split's. Evaluation is in the order of the text. The Penn
    Treebank's folder (train, valid and test) gives its 10,000 symbols, `</s>` among them.

    >>> data = TextLines(batch_size=8)
    >>> len(next(iter(data.train_dataloader())).lengths)
    8

    Args:
        level: What a symbol is: word (text with spaces between words and punctuation), wordpunct
            (other text), char or byte.
        max_length: Leave longer sentences out of training, where memory is short; in symbols.
        pool: Training batches that are sorted by length together; 1 for batches of all lengths.

    Raises:
        FileNotFoundError: There is no text at `root`.
        ValueError: A count is not positive, or the text has no line.
    """

    by_line = True
    unit = "sentences"

    def __init__(
        self,
        *,
        level: Level = "word",
        max_length: Count | None = None,
        pool: Count = 100,
        **text: Any,
    ) -> None:
        super().__init__(level=level, **text)
        self.max_length, self.pool = max_length, pool
        self._lines: dict[Split, list[str]] = {}

    def texts(self, split: Split) -> list[str]:
        """The lines of a split that are not empty."""
        if split not in self._lines:
            documents = super().texts(split)
            lines = (line.strip() for text in documents for line in text.split("\n"))
            self._lines[split] = [line for line in lines if line]
        return self._lines[split]

    def shortened(self, encoded: list[Any]) -> list[Any]:
        """The training sentences that `max_length` and `limit` leave; notes what they do not."""
        longest, limit = self.max_length, self.limit
        kept = encoded if longest is None else [s for s in encoded if self.symbols_of(s) < longest]
        if len(kept) < len(encoded):
            self._notes.append(
                f"left out: {len(encoded) - len(kept):,} training sentences of "
                f"--data.max_length={longest} symbols or more"
            )
        if limit is not None and limit < len(kept):
            self._limited = True
            self._notes.append(f"left out: {len(kept) - limit:,} by --data.limit={limit}")
        return kept[:limit]

    @staticmethod
    def symbols_of(item: Any) -> int:
        """How many symbols an item has."""
        return len(item)

    def load_split(self, split: Split) -> SentenceSet:
        """Encodes the lines of a split."""
        lines = waiting(self.texts(split), "tokenise", unit="sentences")
        encoded = [self.vocabulary.encode(line) for line in lines]
        if split == "train":
            encoded = self.shortened(encoded)
        if not encoded:
            where = self.root or "the text"
            raise ValueError(f"the {split} split of {where} has no sentence: give more text")
        return SentenceSet(encoded, self.vocabulary.end)

    def train_dataloader(self) -> EpochLoader:
        """Batches of this rank in an order that depends on (seed, epoch)."""
        loader = super().train_dataloader()  # checks that a batch is not larger than the set
        if self.pool == 1:
            return loader
        order = loader.sampler
        sampler = BucketSampler(
            self.split("train").lengths,
            batch_size=self.batch_size,
            pool=self.pool,
            seed=order.seed,
            rank=order.rank,
            world_size=order.world_size,
        )
        return EpochLoader(
            self.split("train"),
            sampler=sampler,
            batch_size=self.batch_size,
            pin_memory=loader.pin_memory,
        )
