"""Small image sets with fixed, documented splits, held in memory."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.data.images.base import ImageData, ImageSet, ResidentImages, Split
from zoo.data.images.formats import find_idx, read_cifar_batch, read_idx, read_stl
from zoo.layers.seeds import mix
from zoo.ranges import Whole


class Digits(ImageData):
    """The 1,797 handwritten 8x8 digits that scikit-learn's wheel embeds: no download, 17 levels.

    Splits: the images in a fixed order (sorted by `mix(9119, i)` of their number i, because
    neighbours are of one writer); the first 1,257 are train, the next 180 val, the last 360 test.
    """

    channels = 1
    size = (8, 8)
    num_classes = 10
    levels = 17

    def place(self) -> str:
        """What the data are and where, for messages."""
        if self.root == "data":
            return "Digits of scikit-learn"
        void = f"--data.root {self.root} has no effect: own pictures are read by --data ImageFolder"
        return f"Digits of scikit-learn ({void})"

    def reason(self, split: Split) -> str:
        """How a split came to the number of images that it has, if that needs to be said."""
        limited = split == "train" and self.limit is not None
        return f" (--data.limit {self.limit})" if limited else ""

    def load_split(self, split: Split) -> ImageSet:
        """Takes the images out of scikit-learn."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = torch.tensor(sorted(range(1797), key=lambda i: mix(9119, i)))
        parts = {"train": slice(1257), "val": slice(1257, 1437), "test": slice(1437, None)}
        part = order[parts[split]][: self.limit if split == "train" else None]
        images = torch.from_numpy(digits.images).to(torch.uint8)[part, None]  # (N, 1, 8, 8)
        return ResidentImages(images, torch.from_numpy(digits.target)[part])


class _OnDisk(ImageData):
    """A published set in torchvision's on-disk format.

    Args:
        val_images: The last so many of the official training images are val; 0 trains on all.
        download: Fetch the files into `root` if they are not there.
        **loading: What all images have, see `ImageData`.

    Raises:
        FileNotFoundError: The files are not there, or cannot be downloaded.
        ValueError: A file is broken.
    """

    _subfolder: ClassVar[str]
    _other_folders: ClassVar[tuple[str, ...]] = ()
    _files: ClassVar[tuple[str, ...]]

    def __init__(
        self, *, val_images: Whole = 5_000, download: bool = False, **loading: Any
    ) -> None:
        super().__init__(**loading)
        self.val_images = val_images
        self.download = download

    def place(self) -> str:
        """What the data are and where, for messages."""
        return f"{type(self).__name__} in {self.folder() or Path(self.root) / self._subfolder}"

    def reason(self, split: Split) -> str:
        """How a split came to the number of images that it has, if that needs to be said."""
        if split == "val":
            return f" (the last of the training images, --data.val_images {self.val_images})"
        limited = split == "train" and self.limit is not None
        return f" (--data.limit {self.limit})" if limited else ""

    def folder(self) -> Path | None:
        """The folder with all files of the set, if there is one."""
        folders = [Path(self.root) / self._subfolder, *map(Path, self._other_folders)]
        return next((f for f in folders if all(find_idx(f, name) for name in self._files)), None)

    def prepare_data(self) -> None:
        """Downloads the set if that was asked and it is not there."""
        if not self.download or self.folder() is not None:
            return
        import torchvision

        name = type(self).__name__
        try:
            getattr(torchvision.datasets, name)(self.root, download=True)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise FileNotFoundError(
                f"{name} could not be downloaded (is there a network?): "
                f"put {', '.join(self._files)} into {Path(self.root) / self._subfolder} by hand "
                f"({reason})"
            ) from error

    def load_split(self, split: Split) -> ImageSet:
        """Reads the official training or test images and parts val from train."""
        if self.trainer is None:  # a Trainer has called it, on one process a machine
            self.prepare_data()
        folder = self.folder()
        if folder is None:
            looked = [str(Path(self.root) / self._subfolder), *self._other_folders]
            raise FileNotFoundError(
                f"no {type(self).__name__} in {' or '.join(looked)}: set --data.root to the folder "
                f"that holds {self._subfolder}, or fetch it with zoo fit's --data.download true"
            )
        images, labels = self.read(folder, train=split != "test")
        if split == "test":
            return ResidentImages(images, labels)
        if not 0 <= self.val_images < len(images):
            raise ValueError(
                f"--data.val_images must be in 0..{len(images) - 1}, got {self.val_images}"
            )
        cut = len(images) - self.val_images
        part = slice(cut, None) if split == "val" else slice(0, min(cut, self.limit or cut))
        # A clone: a view would keep the other split's images in memory as well.
        return ResidentImages(images[part].clone(), labels[part])

    def read(self, folder: Path, train: bool) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, C, H, W) and labels (N,), official training or test set."""
        stem = "train" if train else "t10k"
        paths = [
            find_idx(folder, f"{stem}-{part}-ubyte") for part in ("images-idx3", "labels-idx1")
        ]
        images, labels = (read_idx(path) for path in paths if path is not None)
        if images.shape[1:] != self.size or len(images) != len(labels):
            raise ValueError(
                f"{folder} holds {stem} images of shape {tuple(images.shape)} and {len(labels)} "
                f"labels, not {self.size[0]}x{self.size[1]} images with a label each"
            )
        if len(labels) and int(labels.max()) >= self.num_classes:
            raise ValueError(
                f"{folder} holds a {stem} label {int(labels.max())}, and there are "
                f"{self.num_classes} classes: fetch it again"
            )
        return images[:, None], labels.long()


class MNIST(_OnDisk):
    """The 70,000 handwritten 28x28 digits, from the IDX files in `root`/MNIST/raw, plain or .gz.

    Splits: train is the first 55,000 official training images, val the last 5,000
    (`val_images`), test the 10,000 official test images.
    """

    channels = 1
    size = (28, 28)
    num_classes = 10
    _subfolder = "MNIST/raw"
    _files = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )


class FashionMNIST(MNIST):
    """The 70,000 28x28 pictures of clothes, from the IDX files in `root`/FashionMNIST/raw.

    Debian's package dataset-fashion-mnist is found by itself where `root` has no such files.
    Splits: train is the first 55,000 official training images, val the last 5,000
    (`val_images`), test the 10,000 official test images.
    """

    _subfolder = "FashionMNIST/raw"
    _other_folders = ("/usr/share/datasets/fashion-mnist",)


class CIFAR10(_OnDisk):
    """The 60,000 32x32 colour images in 10 classes, from `root`/cifar-10-batches-py.

    Splits: train is the first 45,000 official training images, val the last 5,000 (`val_images`;
    0 trains on all 50,000, as the published recipes do), test the 10,000 official test images.
    """

    channels = 3
    size = (32, 32)
    num_classes = 10
    _subfolder = "cifar-10-batches-py"
    _files = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

    def read(self, folder: Path, train: bool) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, 32, 32) and labels (N,), official training or test set."""
        names = self._files[:5] if train else self._files[5:]
        images, labels = zip(*(read_cifar_batch(folder / name) for name in names), strict=True)
        return torch.cat(images), torch.cat(labels)


class STL10(_OnDisk):
    """The 113,000 colour images of STL-10 at 48x48, from `root`/stl10_binary, without labels.

    Splits: train is the 5,000 official training images and the unlabeled ones but the last 5,000,
    which are val (`val_images`; 0 trains on all 105,000, as published recipes do), test the 8,000
    official test images. They take 0.7 GB of memory.
    """

    channels = 3
    size = (48, 48)
    num_classes = 0
    _subfolder = "stl10_binary"
    _files = ("train_X.bin", "unlabeled_X.bin", "test_X.bin")

    def read(self, folder: Path, train: bool) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, 48, 48) and labels (N,), all zero."""
        names = self._files[:2] if train else self._files[2:]
        images = torch.cat([read_stl(folder / name, self.size[0]) for name in names])
        return images, torch.zeros(len(images), dtype=torch.int64)
