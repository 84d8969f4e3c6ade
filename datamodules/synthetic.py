"""Synthetic tasks that ask a language model what it remembers; no file, no end of data."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.data.loader import EpochLoader, SplitLoaders, epoch_loader, ranks
from zoo.data.protocols import Split
from zoo.data.text.language import NO_TARGET, StreamBatch
from zoo.layers.counter_rng import integers, uniform
from zoo.ranges import Count, Seed, Whole, check_ranges

Task = Literal["copy", "induction", "recall"]
_SEEDS: dict[Split, int] = {"train": 1, "val": 2, "test": 3}


def copy_task(seed: int, index: Tensor, length: int, symbols: int) -> tuple[Tensor, Tensor]:
    """Random symbols, a mark, and the same symbols again, which are to be predicted.

    Args:
        seed: Chooses the family of items.
        index: Numbers of the items, int64, shape (B,).
        length: Of an item.
        symbols: Number of symbols; 0 is the mark.

    Returns:
        Tokens and targets, (B, length).
    """
    half = (length - 1) // 2
    text = 1 + integers(seed, index, 0, (half,), high=symbols - 1)
    mark = torch.zeros_like(text[:, :1])
    rest = length - 2 * half - 1
    whole = torch.cat([mark.expand(-1, rest), text, mark, text], 1)
    targets = torch.full_like(whole, NO_TARGET)
    targets[:, rest + half : -1] = text
    return whole, targets


def induction_task(seed: int, index: Tensor, length: int, symbols: int) -> tuple[Tensor, Tensor]:
    """Random symbols; at the end a mark comes for the second time: what followed the first?

    (arXiv 2209.11895; the task of arXiv 2212.14052.) Arguments and result as `copy_task`.
    """
    text = 1 + integers(seed, index, 0, (length,), high=symbols - 1)
    place = integers(seed, index, 1, high=length - 3)
    rows = torch.arange(len(index))
    text[rows, place] = 0
    text[:, -1] = 0
    targets = torch.full_like(text, NO_TARGET)
    targets[:, -1] = text[rows, place + 1]
    return text, targets


def recall_task(
    seed: int, index: Tensor, length: int, symbols: int, pairs: int, gap: int
) -> tuple[Tensor, Tensor]:
    """Pairs of a key and a value, then the keys in another order: what is the value of each?

    Multi-query associative recall (arXiv 2312.04927), without the noise between the queries.

    Args:
        seed: Chooses the family of items.
        index: Numbers of the items, int64, shape (B,).
        length: Of an item.
        symbols: Number of symbols: 0 fills, the lower half are keys, the upper values.
        pairs: Pairs an item; each of them is asked for once.
        gap: Symbols between the pairs and the questions, at least; the rest is before.

    Returns:
        Tokens and targets, (B, length).
    """
    keys_end = (symbols + 1) // 2
    batch = len(index)
    keys = 1 + uniform(seed, index, 0, (keys_end - 1,)).argsort(dim=1, stable=True)[:, :pairs]
    values = keys_end + integers(seed, index, 1, (pairs,), high=symbols - keys_end)
    order = uniform(seed, index, 2, (pairs,)).argsort(dim=1, stable=True)
    told = torch.stack([keys, values], -1).flatten(1)
    answers = values.gather(1, order)
    asked = torch.stack([keys.gather(1, order), answers], -1).flatten(1)
    filler = told.new_zeros(batch, length - 4 * pairs)
    whole = torch.cat([filler[:, gap:], told, filler[:, :gap], asked], 1)
    targets = torch.full_like(whole, NO_TARGET)
    targets[:, length - 2 * pairs :: 2] = answers
    return whole, targets


@dataclass
class SyntheticSet:
    """`count` items of a task, each a function of its number; `pairs` and `gap` are recall's."""

    task: Task
    seed: int
    count: int
    length: int
    symbols: int
    pairs: int
    gap: int

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: list[int]) -> StreamBatch:
        index = torch.tensor(indices)
        if self.task == "recall":
            of_recall = (self.length, self.symbols, self.pairs, self.gap)
            tokens, targets = recall_task(self.seed, index, *of_recall)
        else:
            make = copy_task if self.task == "copy" else induction_task
            tokens, targets = make(self.seed, index, self.length, self.symbols)
        return StreamBatch(tokens, targets, torch.zeros_like(tokens), index)


class Synthetic(SplitLoaders):
    """Tasks of memory, as `StreamBatch`es; what counts is test/accuracy.

    copy repeats a text, induction says what followed a mark, and recall gives the values of keys
    (multi-query associative recall, arXiv 2312.04927). Where the answer is farther back than a
    chunk, only the global part of FLASH can know it.

    Args:
        task: copy, induction or recall.
        sequence_length: Symbols of an item.
        symbols: Number of symbols, for --model.vocab_size.
        pairs: Pairs of recall.
        gap: Symbols between the pairs of recall and the questions.
        items: Training items an epoch; the same in every epoch.
        val_items: Items of validation, and of the test.
        batch_size: Training items a step and process.
        val_batch_size: Items a step and process in evaluation; `batch_size` if not given.
        seed: Seed of the training items and their order.

    Raises:
        ValueError: There is no such task, or an item is too short for it.
    """

    def __init__(
        self,
        *,
        task: Task = "recall",
        sequence_length: Count = 64,
        symbols: Count = 33,
        pairs: Count = 4,
        gap: Whole = 0,
        items: Count = 100_000,
        val_items: Count = 1000,
        batch_size: Count = 32,
        val_batch_size: Count | None = None,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_ranges(type(self), self.hparams, "--data.")
        self.task: Task = task
        self.sequence_length, self.symbols = sequence_length, symbols
        self.pairs, self.gap, self.seed = pairs, gap, seed
        self.items, self.val_items = items, val_items
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        needed = {"copy": 3, "induction": 4, "recall": 4 * pairs + gap}[task]
        if sequence_length < needed or gap < 0 or pairs < 1:
            raise ValueError(
                f"--data.sequence_length={sequence_length}: {task} needs at least {needed}"
            )
        if symbols < 3 or (task == "recall" and (symbols + 1) // 2 - 1 < pairs):
            raise ValueError(f"--data.symbols={symbols}: too few for {pairs} keys and values")

    @property
    def answers(self) -> int:
        """How many symbols an answer can be; a guess among them is right once in so many."""
        marks = (self.symbols + 1) // 2 if self.task == "recall" else 1
        return self.symbols - marks

    def describe(self) -> list[str]:
        """What the items are, and how many."""
        return [
            f"{self.task}, items of {self.sequence_length} out of {self.symbols} symbols, made as "
            "they are needed",
            f"train: {self.items:,} items",
            f"val: {self.val_items:,} items, test: as many",
        ]

    def loader(self, split: Split) -> EpochLoader:
        """The items of a split on this rank; those to train on in an order of (seed, epoch)."""
        train = split == "train"
        data = SyntheticSet(
            self.task,
            _SEEDS[split] + (10 * self.seed if train else 0),
            self.items if train else self.val_items,
            self.sequence_length,
            self.symbols,
            self.pairs,
            self.gap,
        )
        batch_size = self.batch_size if train else self.val_batch_size
        return epoch_loader(data, batch_size, train=train, seed=self.seed, **ranks(self))
