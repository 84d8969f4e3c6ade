"""A loader whose order is a function of (seed, epoch) and that can start inside an epoch.

Lightning stores a loader's `state_dict` in the checkpoint, so that a run that was killed and
resumed sees exactly the batches that an uninterrupted one would have seen.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from zoo.data.protocols import Split
from zoo.layers.seeds import mix


class BatchDataset(Protocol):
    """A data set that is indexed by a whole batch of indices."""

    def __len__(self) -> int:
        """Number of items."""

    def __getitems__(self, indices: list[int]) -> Any:
        """The batch of these items, collated."""


class EpochSampler(Sampler[int]):
    """Indices of one rank in an order that depends on (seed, epoch) alone.

    Rank r takes entries r, r + world_size, ... of the permutation. Training drops the remainder so
    that all ranks step together; evaluation keeps it, without padding, so every item counts once.

    Args:
        size: Number of items in the data set.
        seed: Seed of the order.
        rank: This process.
        world_size: Number of processes.
        train: Shuffle, and give every rank equally many items.
    """

    def __init__(
        self, size: int, *, seed: int = 0, rank: int = 0, world_size: int = 1, train: bool = True
    ) -> None:
        self.size, self.seed, self.rank, self.world_size = size, seed, rank, world_size
        self.train = train
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose order is drawn next; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.train:
            return self.size // self.world_size
        return len(range(self.rank, self.size, self.world_size))

    def order(self) -> Tensor:
        """The indices still to come in this epoch; the next call gives a whole epoch."""
        start, self.start = self.start, 0
        if self.train:
            generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
            order = torch.randperm(self.size, generator=generator, dtype=type_of(self.size))
        else:
            order = torch.arange(self.size, dtype=type_of(self.size))
        return order[self.rank :: self.world_size][: len(self)][start:]

    def __iter__(self) -> Iterator[int]:
        for part in torch.split(
            self.order(), 2**16
        ):  # as Python's numbers they take 8 times as much
            yield from part.tolist()


def type_of(size: int) -> torch.dtype:
    """The smaller type that counts so far; both are shuffled alike."""
    return torch.int32 if size < 2**31 else torch.int64


def _as_is(batch: Any) -> Any:
    return batch


class EpochLoader(DataLoader):
    """A DataLoader over `EpochSampler` that remembers how many batches of the epoch are done.

    Args:
        dataset: Map-style data set; one with `__getitems__` returning a collated batch is indexed
            by batch, without a Python loop over its items.
        sampler: The order; None where Lightning builds the loader anew for predict, with a
            `batch_sampler` that notes the indices.
        batch_size: Items a batch and process.
        **kwargs: As for `torch.utils.data.DataLoader`.
    """

    sampler: EpochSampler

    # By keyword, so that Lightning can put others in their place, also after an error in a loader's
    # hook (2.6.6), which leaves every loader noting what it was made with.
    def __init__(
        self, dataset: Any, *, sampler: EpochSampler | None, batch_size: int, **kwargs: Any
    ) -> None:
        self.done = 0
        by_batch = hasattr(dataset, "__getitems__")
        own = ("num_workers", "pin_memory", "collate_fn")
        self._direct = by_batch and not any(kwargs.get(name) for name in own)
        if by_batch:
            kwargs.setdefault("collate_fn", _as_is)
        if sampler is None:
            self._direct = False
            super().__init__(dataset, batch_size=batch_size, **kwargs)
            return
        # Its own generator: creating an iterator draws a base seed, which would otherwise come
        # from the global stream and make the run depend on how often it was resumed.
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=sampler.train,
            generator=torch.Generator(),
            **kwargs,
        )

    def state_dict(self) -> dict[str, int]:
        """Batches of the current epoch that were handed out, 0 at its end, and their items."""
        assert self.batch_size is not None
        batches = self.done % max(len(self), 1)
        return {"batches": batches, "items": batches * self.batch_size * self.sampler.world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next iteration start after what is already done.

        That is counted in items of all processes, so that batches of another size, or another
        number of processes, go on from there. Where no whole batch is left, the epoch starts anew.
        """
        assert self.batch_size is not None
        items = state.get("items", state["batches"] * self.batch_size * self.sampler.world_size)
        start = items // self.sampler.world_size
        if start + self.batch_size > len(self.sampler) and self.drop_last:
            start = 0
        self.sampler.start, self.done = start, start // self.batch_size

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.done = self.sampler.start // self.batch_size if self.batch_size else 0
        for batch in self._here() if self._direct else super().__iter__():
            self.done += 1
            yield batch

    def _here(self) -> Iterator[Any]:
        """The batches without the DataLoader's machinery, which costs more than a small batch."""
        assert self.batch_size is not None
        order = self.sampler.order()
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size].tolist()
            if len(indices) == self.batch_size or not self.drop_last:
                yield self.dataset.__getitems__(indices)  # type: ignore[attr-defined]


class Batches:
    """The batches of a loader, and nothing else of it.

    For predict Lightning takes a DataLoader apart and builds it anew with a sampler of its own;
    what is no DataLoader it leaves alone.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: EpochLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def larger_than(
    size: int,
    batch_size: int,
    world_size: int,
    *,
    advice: Callable[[int], str] | None = None,
    limit: int | None = None,
) -> str:
    """The mistake of a training batch that is larger than the items of an epoch, with its fix.

    The arguments are those of `epoch_loader`; `size` is the number of items.
    """
    on = f" on each of {world_size} processes" if world_size > 1 else ""
    most = size // world_size
    begin = f"a batch of {batch_size}{on} is larger than the training set of {size} items"
    lower = f"lower --data.batch_size to {most} or less"
    if limit is not None:
        more = f"raise --data.limit={limit}" + (
            f" to {batch_size * world_size} or more" if size == limit else ""
        )
        return f"{begin} that --data.limit leaves: {more}" + (
            f", or {lower}" if most and not advice else ""
        )
    if not most:
        return f"{begin}: there must be one for each process"
    return f"{begin}: " + (advice(most) if advice else lower)


def epoch_loader(
    dataset: Sequence[Any] | BatchDataset,
    batch_size: int,
    *,
    train: bool,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    advice: Callable[[int], str] | None = None,
    limit: int | None = None,
    **kwargs: Any,
) -> EpochLoader:
    """A loader over this rank's share of `dataset`.

    Args:
        dataset: Map-style data set.
        batch_size: Items a batch and process.
        train: Shuffle and drop the last incomplete batch; else keep order and every item.
        seed: Seed of the order of training items.
        rank: This process.
        world_size: Number of processes.
        advice: What to say where a batch is larger than so many items; to lower the batch size by
            default.
        limit: The --data.limit that has left so few items, if one has.
        **kwargs: As for `torch.utils.data.DataLoader`.

    Raises:
        ValueError: A training batch on every process is more than the data set holds.
    """
    size = len(dataset)
    if train and batch_size * world_size > size:
        raise ValueError(larger_than(size, batch_size, world_size, advice=advice, limit=limit))
    sampler = EpochSampler(size, seed=seed, rank=rank, world_size=world_size, train=train)
    return EpochLoader(dataset, sampler=sampler, batch_size=batch_size, **kwargs)


class SplitLoaders(LightningDataModule, ABC):
    """A DataModule that has a loader for each split, and where it needs nothing set up."""

    @abstractmethod
    def loader(self, split: Split) -> Any:
        """The items of a split on this rank; those to train on in an order of (seed, epoch)."""

    def setup(self, stage: str | None = None) -> None:
        """Silences the advice to use worker processes, which would only add a copy to a lookup."""
        warnings.filterwarnings("ignore", ".*does not have many workers.*", PossibleUserWarning)

    def train_dataloader(self) -> Any:
        """The items of this rank in an order that depends on (seed, epoch)."""
        return self.loader("train")

    def val_dataloader(self) -> Any:
        """Every validation item once, over all ranks."""
        return self.loader("val")

    def test_dataloader(self) -> Any:
        """Every test item once, over all ranks."""
        return self.loader("test")

    def predict_dataloader(self) -> Any:
        """The test items."""
        loader = self.loader("test")
        return Batches(loader) if isinstance(loader, EpochLoader) else loader


def ranks(data: LightningDataModule) -> dict[str, Any]:
    """Which process of how many this is, as samplers take it."""
    trainer = data.trainer
    rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    return {"rank": rank, "world_size": world_size}


def worker_options(data: Any) -> dict[str, Any]:
    """How a DataLoader is to fetch the batches of a DataModule that has `num_workers`."""
    trainer = data.trainer
    return {
        "num_workers": data.num_workers,
        "persistent_workers": data.num_workers > 0,
        "pin_memory": trainer is not None and trainer.strategy.root_device.type == "cuda",
    }
