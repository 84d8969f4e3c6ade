"""Any images, from a folder or a .zip, sorted into splits and classes by their paths."""

import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.data.images.base import ImageData, ImageSet, ResidentImages, Split
from zoo.data.images.decoding import decode
from zoo.data.images.files import ImageFiles, LazyImages, refusal
from zoo.data.images.layout import Folders, sort_files
from zoo.ranges import Count, NonNegative, Workers


def _rank(name: str) -> int:
    """A fixed pseudo-random 63-bit number of a file name, the same on every machine."""
    digest = blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class ImageFolder(ImageData):
    """Any images in a folder (at any depth) or a .zip, centre-cropped and resized to one size.

    Splits: folders in `root` that are named after splits (train, Training, train2017, val, dev,
    Validate, test, ...; trainA and trainB are two classes of train) are the splits. A split without
    such a folder is parted from train by a fixed hash of the file's path (10 % of the files each),
    so that a file stays in its split when others are added. The order inside a split is that hash's
    too, so its first N are a fair sample. The first folder in a split is the class; a few files
    beside class folders are left out, and where more lie there is one class, 0. What was understood
    and what was left out is said at the start of every verb; what could mean two things is refused.

    Images are decoded once, in parallel threads, into one uint8 tensor. If that would exceed
    `memory_limit_gb`, they are decoded in worker processes whenever a batch needs them.

    Args:
        num_workers: Processes that fetch batches; by default none for images in memory, else one
            for each CPU up to 8.
        size: Side of a square, or [height, width].
        channels: 1 for grey, 3 for RGB.
        folders: Whether the first folders in `root` are splits or classes; auto tells them by their
            names.
        broken: What to do with a file that cannot be decoded: warn and skip it, or refuse to run.
        memory_limit_gb: Most memory (10^9 bytes) that the decoded images may take.
        **loading: What all images have, see `ImageData`.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: A size is not positive, the folders may mean two things, or a file is broken and
            `broken` is "refuse".
    """

    def __init__(
        self,
        *,
        num_workers: Workers | None = None,
        size: Count | list[Count] = 64,
        channels: Literal[1, 3] = 3,
        folders: Folders = "auto",
        broken: Literal["skip", "refuse"] = "skip",
        memory_limit_gb: NonNegative = 4.0,
        **loading: Any,
    ) -> None:
        super().__init__(num_workers=num_workers or 0, **loading)
        sides = [size, size] if isinstance(size, int) else list(size)
        if len(sides) != 2 or min(sides) < 1:
            raise ValueError(f"--data.size must be a side or [height, width], got {size}")
        if channels not in (1, 3):
            raise ValueError(f"--data.channels must be 1 (grey) or 3 (RGB), got {channels}")
        self.size = sides[0], sides[1]
        self.channels = channels
        self.folders: Folders = folders
        self.refuse = broken == "refuse"
        self.memory_limit = memory_limit_gb * 1e9
        self._workers_given = num_workers is not None
        self._files = ImageFiles(Path(self.root))
        self._names: dict[Split, list[str]] = {}
        self._classes: list[str] = []
        self._class_of: dict[str, str] = {}
        self._hashed: list[Split] = []
        self._notes: list[str] = []
        self._left_out: list[str] = []
        self._broken: dict[Split, int] = {}

    def setup(self, stage: str | None = None) -> None:
        """Lists the files, then loads the splits of a stage, or all."""
        self.list_files()
        super().setup(stage)

    def list_files(self) -> None:
        """Sorts all files into splits and classes."""
        if self._names:
            return
        layout = sort_files(self._files.names(), self.root, self.folders)
        given = layout.splits
        keys = {name: parts for group in given.values() for name, parts in group.items()}
        ranks = {name: _rank("/".join(parts)) for name, parts in keys.items()}
        hashed: tuple[Split, Split] = ("val", "test")
        for decile, split in enumerate(hashed):
            if split not in given and "train" in given:
                part = [name for name in given["train"] if ranks[name] % 10 == decile]
                given[split] = {name: given["train"].pop(name) for name in part}
                self._hashed.append(split)
        self._names = {
            split: sorted(given.get(split, {}), key=lambda n: (ranks[n], n))
            for split in ("train", *hashed)
        }
        self._classes = layout.classes
        self._class_of = layout.class_of
        self.num_classes = max(len(self._classes), 1)
        self.unlabelled = frozenset(
            layout.unlabelled | {s for s in self._hashed if "train" in layout.unlabelled}
        )
        self._notes, self._left_out = layout.notes, layout.left_out

    def place(self) -> str:
        """What the data are and where, for messages."""
        return f"pictures in {self.root}"

    def reason(self, split: Split) -> str:
        """How a split came to the number of images that it has, if that needs to be said."""
        count, broken = len(self._names.get(split, ())), self._broken.get(split, 0)
        parts = []
        if split == "train" and self.limit is not None and self.limit < count:
            parts.append(f"the first of {count:,} (--data.limit {self.limit})")
        if split in self._hashed:
            few = "" if count else f", none of so few: give more, or a folder {split}"
            parts.append(f"a tenth of train's, by a hash of their paths{few}")
        elif not count and self._hashed:
            parts.append(
                "all went to val and test, each a tenth by a hash of their paths: give more"
            )
        elif not count:
            there = " and ".join(s for s, names in self._names.items() if names)
            parts.append(f"no folder is named after it, there is {there} only")
        if split in self.unlabelled:
            parts.append("without classes")
        if broken:
            parts.append(f"{broken:,} that cannot be read skipped")
        return f" ({'; '.join(parts)})" if parts else ""

    def describe(self) -> list[str]:
        """What is read: formats, splits, classes, and what was left out and why."""
        first, *splits = super().describe()
        names = [name for group in self._names.values() for name in group]
        kinds = Counter(PurePosixPath(name).suffix.lower() for name in names).most_common()
        lines = [
            f"{first} (resized)",
            "formats: " + ", ".join(f"{n:,} {kind or '(no suffix)'}" for kind, n in kinds),
        ]
        lines += [line for line in splits if not line.startswith("classes: ")]
        shown = ", ".join(self._classes[:10]) + (", ..." if len(self._classes) > 10 else "")
        lines.append(
            f"classes: {len(self._classes)} ({shown})" if self._classes else "classes: none"
        )
        lines += [f"note: {note}" for note in self._notes]
        more = []
        if self._left_out:
            shown = ", ".join(self._left_out[:5]) + (", ..." if len(self._left_out) > 5 else "")
            more = [f"{len(self._left_out):,} outside of the folders ({shown})"]
        return [*lines, *self._files.left_out_lines(more)]

    def _decode(self, name: str) -> NDArray[np.uint8]:
        with self._files.open(name) as file:
            return decode(file, self.channels, self.size)

    def load_split(self, split: Split) -> ImageSet:
        """Decodes a split into memory, or prepares to decode it batch by batch."""
        self.list_files()
        names = self._names[split]
        if split == "train":
            names = names[: self.limit]
        number = {name: i for i, name in enumerate(self._classes)}
        labels = torch.tensor(
            [number.get(self._class_of.get(n, ""), 0) for n in names], dtype=torch.int64
        )

        pixels = self.channels * self.size[0] * self.size[1]
        if sum(map(len, self._names.values())) * pixels > self.memory_limit:
            if not self._workers_given:
                self.num_workers = min(8, os.cpu_count() or 1)
            return LazyImages(names, labels, self._decode, self.refuse, (self.channels, *self.size))

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
        if self.refuse:
            raise refusal(broken)
        if len(broken) == len(names):
            raise ValueError(
                f"none of the {len(names)} {split} images of {self.root} can be read: "
                f"{broken[0][0]} ({broken[0][1]})"
            )
        self._broken[split] = len(broken)
        shown = "; ".join(f"{name} ({error})" for name, error in broken[:5])
        warnings.warn(
            f"{len(broken)} of {len(names)} images of {self.root} cannot be read and are skipped: "
            + shown
            + ("; ..." if len(broken) > 5 else ""),
            stacklevel=2,
        )
        good = torch.tensor([error is None for error in errors])
        return ResidentImages(torch.from_numpy(images)[good], labels[good])
