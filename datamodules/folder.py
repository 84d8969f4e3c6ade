"""Any images, from a folder or a .zip, sorted into splits and classes by their paths."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.image_data import ImageData, ImageSet, ResidentImages, Split
from datamodules.image_files import ImageFiles, LazyImages, decode, refusal
from zoo.ranges import Count, NonNegative, Seed, Workers

_SPLIT_OF_FOLDER: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def _rank(name: str) -> int:
    """A fixed pseudo-random 63-bit number of a file name, the same on every machine."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


class ImageFolder(ImageData):
    """Any images in a folder (at any depth) or a .zip, centre-cropped and resized to one size.

    Splits: folders train, val (valid, validation) and test directly in `root` are the splits. A
    split without such a folder is parted from the rest by a fixed hash of the file's path (10 % of
    the files each), so that a file stays in its split when others are added. The order inside a
    split is that hash's too, so its first N are a fair sample. If every image lies in a folder of
    its split, the first folder's name is its class; else there is one class, 0.

    Images are decoded once, in parallel threads, into one uint8 tensor. If that would exceed
    `memory_limit_gb`, they are decoded in worker processes whenever a batch needs them.

    Args:
        root: Folder or .zip that holds the images.
        batch_size: Training images a step and process.
        val_batch_size: Images a step and process in evaluation; `batch_size` if not given.
        flip: Mirror each training image left to right with probability 1/2, anew every epoch.
        seed: Seed of the order and the flips.
        num_workers: Processes that fetch batches; by default none for images in memory, else one
            for each CPU up to 8.
        limit: Train on the first so many images only, for short runs.
        size: Side of a square, or [height, width].
        channels: 1 for grey, 3 for RGB.
        broken: What to do with a file that cannot be decoded: warn and skip it, or refuse to run.
        memory_limit_gb: Most memory (10^9 bytes) that the decoded images may take.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: A size is not positive, or a file is broken and `broken` is "refuse".
    """

    def __init__(
        self,
        *,
        root: str = "data",
        batch_size: Count = 128,
        val_batch_size: Count | None = None,
        flip: bool = False,
        seed: Seed = 0,
        num_workers: Workers | None = None,
        limit: Count | None = None,
        size: Count | list[Count] = 64,
        channels: Literal[1, 3] = 3,
        broken: Literal["skip", "refuse"] = "skip",
        memory_limit_gb: NonNegative = 4.0,
    ) -> None:
        super().__init__(
            root=root,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            flip=flip,
            seed=seed,
            num_workers=num_workers or 0,
            limit=limit,
        )
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"--data.size must be a side or [height, width], got {size}")
        if channels not in (1, 3):
            raise ValueError(f"--data.channels must be 1 (grey) or 3 (RGB), got {channels}")
        self.size = sides[0], sides[1]
        self.channels = channels
        self.refuse = broken == "refuse"
        self.memory_limit = memory_limit_gb * 1e9
        self._workers_given = num_workers is not None
        self._files = ImageFiles(Path(root))
        self._names: dict[Split, list[str]] = {}
        self._classes: list[str] = []
        self._class_of: dict[str, str] = {}

    def setup(self, stage: str | None = None) -> None:
        """Lists the files, then loads the splits of a stage, or all."""
        self._list()
        super().setup(stage)

    def _list(self) -> None:
        """Sorts all files into splits and classes."""
        if self._names:
            return
        paths = {name: PurePosixPath(name).parts for name in self._files.names()}
        # An archive often holds everything in one folder: look for the splits inside it.
        while len({p[0] for p in paths.values()}) == 1 and min(map(len, paths.values())) > 1:
            if next(iter(paths.values()))[0].lower() in _SPLIT_OF_FOLDER:
                break
            paths = {name: parts[1:] for name, parts in paths.items()}
        given: dict[Split, dict[str, tuple[str, ...]]] = {}
        for name, parts in paths.items():
            split = _SPLIT_OF_FOLDER.get(parts[0].lower()) if len(parts) > 1 else None
            if split is not None:
                given.setdefault(split, {})[name] = parts[1:]
        if "train" not in given:  # then a folder "test" is only a class of that name
            given = {"train": paths}

        hashed: tuple[Split, Split] = ("val", "test")
        keys = {name: parts for group in given.values() for name, parts in group.items()}
        ranks = {name: _rank("/".join(parts)) for name, parts in keys.items()}
        for decile, split in enumerate(hashed):
            if split not in given:
                part = [name for name in given["train"] if ranks[name] % 10 == decile]
                given[split] = {name: given["train"].pop(name) for name in part}
        self._names = {s: sorted(group, key=lambda n: (ranks[n], n)) for s, group in given.items()}

        if all(len(parts) > 1 for parts in keys.values()):
            self._classes = sorted({parts[0] for parts in keys.values()})
        self._class_of = {name: parts[0] for name, parts in keys.items()}
        self.num_classes = max(len(self._classes), 1)

    def _decode(self, name: str) -> NDArray[np.uint8]:
        return decode(self._files.read(name), self.channels, self.size)

    def load_split(self, split: Split) -> ImageSet:
        """Decodes a split into memory, or prepares to decode it batch by batch."""
        self._list()
        names = self._names[split]
        if split == "train":
            names = names[: self.limit]
        number = {name: i for i, name in enumerate(self._classes)}
        labels = torch.tensor([number.get(self._class_of[n], 0) for n in names], dtype=torch.int64)

        pixels = self.channels * self.size[0] * self.size[1]
        if sum(map(len, self._names.values())) * pixels > self.memory_limit:
            if not self._workers_given:
                self.num_workers = min(8, os.cpu_count() or 1)
            return LazyImages(names, labels, self._decode, self.refuse)

        images = np.empty((len(names), self.channels, *self.size), np.uint8)

        def fill(i: int) -> Exception | None:
            try:
                images[i] = self._decode(names[i])
            except Exception as error:  # a broken image can raise nearly anything
                return error
            return None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            errors = list(pool.map(fill, range(len(names))))
        broken = [(n, e) for n, e in zip(names, errors, strict=True) if e is not None]
        if not broken:
            return ResidentImages(torch.from_numpy(images), labels)
        if self.refuse or len(broken) == len(names):
            raise refusal(broken)
        shown = "; ".join(f"{name} ({error})" for name, error in broken[:5])
        warnings.warn(
            f"{len(broken)} of {len(names)} images of {self.root} are broken and skipped: {shown}"
            + ("; ..." if len(broken) > 5 else ""),
            stacklevel=2,
        )
        good = torch.tensor([error is None for error in errors])
        return ResidentImages(torch.from_numpy(images)[good], labels[good])
