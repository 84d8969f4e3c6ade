"""Distributions in the plane, with new points in every batch (arXiv 1704.00028, figure 3)."""

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.loader import EpochLoader, EpochSampler, SplitLoaders, ranks
from zoo.data.protocols import Split
from zoo.layers.counter_rng import integers, normal, uniform
from zoo.ranges import Count, Seed, check_ranges

ToyName = Literal["8gaussians", "25gaussians", "swissroll"]

# Held-out points are the same for every run, so that their numbers compare.
HELD_OUT_SEED = 8244
_STREAMS: dict[Split, int] = {"train": 0, "val": 8, "test": 16}


class PointBatch(NamedTuple):
    """A batch of points."""

    points: Tensor
    """(B, 2) float32."""
    labels: Tensor
    """(B,) int64, each point's mode; all zero where there are none."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(B,) int64, each point's number in its split."""

    def to(self, device: torch.device | str) -> "PointBatch":
        """The batch on `device`."""
        return PointBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


def mixture(name: ToyName) -> tuple[Tensor, float] | None:
    """Centres (K, 2) and standard deviation of a mixture of Gaussians; None for the swiss roll.

    The constants are those of igul222/improved_wgan_training, 1.414 and 2.828 for √2 and 2√2
    included.
    """
    if name == "8gaussians":
        angle = torch.arange(8) * (math.pi / 4)
        return torch.stack([angle.cos(), angle.sin()], 1) * (2 / 1.414), 0.02 / 1.414
    if name == "25gaussians":
        side = torch.arange(-2.0, 3.0) * (2 / 2.828)
        return torch.cartesian_prod(side, side), 0.05 / 2.828
    if name == "swissroll":
        return None
    raise ValueError(f"no distribution {name!r}: choose 8gaussians, 25gaussians or swissroll")


def draw_points(name: ToyName, index: Tensor, *, seed: int, stream: int = 0) -> PointBatch:
    """Points as a function of (seed, stream, number).

    Args:
        name: 8gaussians: on a circle of radius 1.414; 25gaussians: on a grid of spacing 0.707;
            swissroll: the first and last coordinate of scikit-learn's `make_swiss_roll`, noise
            0.25, over 7.5.
        index: Numbers of the points, int64, shape (B,).
        seed: Of the points.
        stream: First of the two streams that a point takes.
    """
    modes = mixture(name)
    noise = normal(seed, index, stream + 1, (2,))
    if modes is not None:
        centres, std = modes
        label = integers(seed, index, stream, high=len(centres))
        return PointBatch(centres.to(index.device)[label] + std * noise, label, index)
    t = 1.5 * math.pi * (1 + 2 * uniform(seed, index, stream))
    roll = torch.stack([t * t.cos(), t * t.sin()], 1)
    return PointBatch((roll + 0.25 * noise) / 7.5, torch.zeros_like(index), index)


class _Points:
    """Points 0, 1, 2, ... of a split, made a block (in training an epoch) of `size` at a time."""

    def __init__(self, name: ToyName, seed: int, split: Split, size: int) -> None:
        self.name, self.seed, self.size = name, seed, size
        self._stream = _STREAMS[split]
        self._block: tuple[int, PointBatch] | None = None

    def __len__(self) -> int:
        return self.size

    def block(self, number: int) -> PointBatch:
        """All points of an epoch, kept until another one is asked for."""
        if self._block is None or self._block[0] != number:
            index = torch.arange(number * self.size, (number + 1) * self.size)
            points = draw_points(self.name, index, seed=self.seed, stream=self._stream)
            self._block = number, points
        return self._block[1]

    def __getitems__(self, indices: list[int]) -> PointBatch:
        number = indices[0] // self.size
        rows = torch.from_numpy(np.array(indices, np.int64) - number * self.size)
        return PointBatch(*(t.index_select(0, rows) for t in self.block(number)))


class _FreshSampler(EpochSampler):
    """Numbers that go on from epoch to epoch: no point comes twice, and none needs shuffling."""

    def order(self) -> Tensor:
        start, self.start = self.start, 0
        first = self.epoch * self.size if self.train else 0
        numbers = torch.arange(first, first + self.size)
        return numbers[self.rank :: self.world_size][: len(self)][start:]


class Toy2D(SplitLoaders):
    """Points of a distribution in the plane; training never sees one twice.

    Point i of the training data is a function of (seed, i), and batches go through the numbers in
    order, so a resumed run sees what the uninterrupted one would have. Held-out points depend on no
    seed.

    Args:
        name: 8gaussians, 25gaussians or swissroll, with igul222's constants.
        batch_size: Training points a step and process.
        val_batch_size: Points a step and process in evaluation; `batch_size` if not given.
        val_size: Held-out points of val, and as many of test.
        epoch_size: Points that Lightning calls an epoch.
        seed: Seed of the training points.

    Raises:
        ValueError: There is no such distribution, or a count is not positive.
    """

    features = 2

    def __init__(
        self,
        *,
        name: ToyName = "8gaussians",
        batch_size: Count = 256,
        val_batch_size: Count | None = None,
        val_size: Count = 2_500,
        epoch_size: Count = 131_072,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_ranges(type(self), self.hparams, "--data.")
        modes = mixture(name)
        if epoch_size < batch_size:
            raise ValueError(f"--data.epoch_size={epoch_size}: need at least a batch, {batch_size}")
        self.name: ToyName = name
        self.num_classes = 0 if modes is None else len(modes[0])
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.val_size, self.epoch_size, self.seed = val_size, epoch_size, seed

    def describe(self) -> list[str]:
        """What the points are, and how many."""
        modes = f"{self.num_classes} modes" if self.num_classes else "no modes"
        return [
            f"{self.name}, points in the plane ({modes}), made as they are needed",
            "train: no end, new points in every batch",
            f"val: {self.val_size:,} points, test: as many",
        ]

    def loader(self, split: Split) -> EpochLoader:
        """The points of a split on this rank; to train on, new ones in every batch."""
        train = split == "train"
        seed = self.seed if train else HELD_OUT_SEED
        size = self.epoch_size if train else self.val_size
        where = ranks(self)
        if train and self.batch_size * where["world_size"] > size:
            raise ValueError(
                f"--data.epoch_size={size} is less than a batch of {self.batch_size} on each of "
                f"{where['world_size']} processes"
            )
        sampler = _FreshSampler(size, train=train, **where)
        points = _Points(self.name, seed, split, size)
        return EpochLoader(
            points, sampler=sampler, batch_size=self.batch_size if train else self.val_batch_size
        )

    def reference_points(self, split: Split, count: int | None = None) -> Tensor:
        """The first points of a split, float32 (count, 2).

        Args:
            split: "train", "val" or "test".
            count: How many; as many as are held out if not given. There is no end to them.
        """
        index = torch.arange(self.val_size if count is None else count)
        seed = self.seed if split == "train" else HELD_OUT_SEED
        return draw_points(self.name, index, seed=seed, stream=_STREAMS[split]).points
