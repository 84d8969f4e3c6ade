"""What all image DataModules share: uint8 images, indexed by batch, finished on the device."""

from abc import abstractmethod
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from zoo.data.images.pixels import coin_flips, to_float, to_uint8
from zoo.data.loader import EpochLoader, SplitLoaders, epoch_loader, ranks, worker_options
from zoo.data.protocols import Split as Split
from zoo.data.remote import at_hand
from zoo.ranges import Count, Seed, Workers, check_ranges

_SPLITS_OF_STAGE: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
    None: ("train", "val", "test"),
}


class ImageBatch(NamedTuple):
    """A batch of images.

    Out of the loader the images are integer grey levels (uint8), which is what travels to the
    device; `ImageData.on_after_batch_transfer` makes them float32 in [-1, 1] there.
    """

    images: Tensor
    """(B, C, H, W)."""
    labels: Tensor
    """(B,) int64; all zero where a data set has no classes."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(B,) int64, each item's number in its split."""

    def to(self, device: torch.device | str) -> "ImageBatch":
        """The batch on `device`; the copy from pinned memory does not wait."""
        return ImageBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class ImageSet(Protocol):
    """One split: a map-style data set that is indexed by a whole batch of indices."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        """The uint8 batch of these images."""

    def first(self, count: int | None = None) -> Tensor:
        """The first `count` images, or all, uint8 (N, C, H, W)."""


class ResidentImages:
    """Images in memory: grey levels, uint8 (N, C, H, W), and classes, int64 (N,)."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        assert images.dtype == torch.uint8
        assert images.ndim == 4
        assert labels.shape == images.shape[:1]
        self.images, self.labels = images.contiguous(), labels.long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        index = torch.from_numpy(np.array(indices, np.int64))  # five times as fast as torch.tensor
        images, labels = (t.index_select(0, index) for t in (self.images, self.labels))
        return ImageBatch(images, labels, index)

    def first(self, count: int | None = None) -> Tensor:
        """The first `count` images, or all, uint8 (N, C, H, W)."""
        return self.images[:count]


class ImageData(SplitLoaders):
    """Images of one size with fixed splits, as `ImageBatch`es in [-1, 1] on the device.

    Works with and without a Trainer: `setup()`, then loaders, then `on_after_batch_transfer` on
    each batch. A subclass names `channels`, `size` (H, W), `num_classes` and `levels`, and loads
    its splits; a split is loaded when it is first needed.

    Args:
        root: Folder that holds the data: as torchvision lays it out for published sets, any folder
            or .zip of images for ImageFolder; or its address (s3://, gs://, hf://, https://, ...),
            which is copied into the cache once. Digits comes with scikit-learn and needs none.
        batch_size: Training images a step and process.
        val_batch_size: Images a step and process in evaluation; `batch_size` if not given.
        flip: Mirror each training image left to right with probability 1/2, anew every epoch.
        seed: Seed of the order and the flips.
        num_workers: Processes that fetch batches. Images in memory need none.
        limit: Train on the first so many images only, for short runs.

    Raises:
        ValueError: A count is not positive.
    """

    channels: int
    size: tuple[int, int]
    num_classes: int
    levels: int = 256
    """Grey levels k of the data: x = 2 v / (k - 1) - 1 for v = 0..k-1."""
    unlabelled: frozenset[Split] = frozenset()
    """Splits whose images have no class where others have; their labels are zero."""

    def __init__(
        self,
        *,
        root: str = "data",
        batch_size: Count = 128,
        val_batch_size: Count | None = None,
        flip: bool = False,
        seed: Seed = 0,
        num_workers: Workers = 0,
        limit: Count | None = None,
    ) -> None:
        super().__init__()
        # Not to the logger: a model that shares an argument's name with another value (a seed)
        # would make Lightning refuse to log either.
        self.save_hyperparameters(logger=False)
        check_ranges(type(self), self.hparams, "--data.")
        self._root = root
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.flip = flip
        self.seed = seed
        self.num_workers = num_workers
        self.limit = limit
        self._splits: dict[Split, ImageSet] = {}
        self._coins: tuple[int, Tensor] | None = None

    @property
    def root(self) -> str:
        """The folder on this machine, which is copied first if it lies elsewhere."""
        return at_hand(self._root)

    @abstractmethod
    def load_split(self, split: Split) -> ImageSet:
        """Reads one split from disk."""

    def setup(self, stage: str | None = None) -> None:
        """Loads the splits of a stage ("fit", "validate", "test", "predict"), or all.

        Raises:
            ValueError: The split that the stage is about is empty, or has no classes for a model of
                classes.
        """
        for name in _SPLITS_OF_STAGE[stage]:
            self.split(name)
            model = None if self.trainer is None else self.trainer.lightning_module
            conditional = bool(getattr(model, "num_classes", None))
            if name in self.unlabelled and conditional:
                raise ValueError(
                    f"the {name} images of {self.place()} have no class folders, and this model "
                    "takes classes: sort them into folders as those of train are"
                )
        needed = _SPLITS_OF_STAGE[stage][0]
        if stage is not None and not len(self.split(needed)):
            raise ValueError(f"{self.place()} has no {needed} images{self.reason(needed)}")
        super().setup(stage)

    def split(self, name: Split) -> ImageSet:
        """One split's images."""
        if name not in self._splits:
            self._splits[name] = self.load_split(name)
        return self._splits[name]

    def place(self) -> str:
        """What the data are and where, for messages."""
        return f"{type(self).__name__} in {self.root}"

    def reason(self, split: Split) -> str:
        """How a split came to the number of images that it has, if that needs to be said."""
        return ""

    def describe(self) -> list[str]:
        """What is read, from where, and the images of each split."""
        kind = {1: "grey", 3: "RGB"}.get(self.channels, f"{self.channels} channels")
        size = f"{self.size[0]}x{self.size[1]} {kind}, {self.levels} levels"
        lines = [f"{self.place()}, {size}"]
        lines += [f"{n}: {len(s):,} images{self.reason(n)}" for n, s in self._splits.items()]
        return [*lines, f"classes: {self.num_classes}"] if self.num_classes > 1 else lines

    def reference_images(self, split: Split, count: int | None = None) -> Tensor:
        """Real images to compare samples with, never flipped.

        Args:
            split: "train", "val" or "test".
            count: The first so many only; a fair sample, because no split is sorted by class.

        Returns:
            uint8 (N, C, H, W) in 0..255, whatever `levels` is.
        """
        images = self.split(split).first(count)
        return images if self.levels == 256 else to_uint8(to_float(images, self.levels))

    def loader(self, split: Split) -> EpochLoader | list[EpochLoader]:
        """The images of a split on this rank; those to train on in an order of (seed, epoch)."""
        dataset, train = self.split(split), split == "train"
        if len(dataset) == 0 and not train:
            return []  # the Trainer then skips this loop
        # A model whose steps take several batches knows which flag makes them smaller.
        model = None if self.trainer is None else self.trainer.lightning_module
        return epoch_loader(
            dataset,
            self.batch_size if train else self.val_batch_size,
            train=train,
            seed=self.seed,
            advice=getattr(model, "smaller_batch", None),
            limit=self.limit if len(dataset) == self.limit else None,
            **ranks(self),
            **worker_options(self),
        )

    def on_after_batch_transfer(self, batch: ImageBatch, dataloader_idx: int = 0) -> ImageBatch:
        """Flips the images of a training batch and makes them float in [-1, 1], on the device."""
        images, labels, index = batch
        if self.flip and self.trainer is not None and self.trainer.training:
            coins = self._epoch_coins(images.device).index_select(0, index)
            # Image i is row i, its mirror image row B + i: copying rows is several times as fast
            # as torch.where, and as free of host syncs.
            rows = torch.arange(len(images), device=images.device) + len(images) * coins
            images = torch.cat([images, images.flip(-1)]).index_select(0, rows)
        return ImageBatch(to_float(images, self.levels), labels, index)

    def _epoch_coins(self, device: torch.device) -> Tensor:
        """The epoch's coins, drawn once an epoch, so that a step pays for one lookup."""
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        if self._coins is None or self._coins[0] != epoch or self._coins[1].device != device:
            size = len(self.split("train"))
            self._coins = epoch, coin_flips(self.seed, epoch, size, device)
        return self._coins[1]
