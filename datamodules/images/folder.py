"""Any images, from a folder, a .zip or shards, sorted into splits and classes by their paths."""

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.data.images.base import ImageData, ImageSet, ResidentImages, Split
from zoo.data.images.decoding import decode
from zoo.data.images.files import ImageFiles, LazyImages, refusal
from zoo.data.images.layout import Folders
from zoo.data.images.listing import Known, Listing, list_pictures
from zoo.data.images.store import Store, cached, is_prepared, prepare
from zoo.ranges import Count, NonNegative, Workers
from zoo.waiting import waiting


class ImageFolder(ImageData):
    """Any images in a folder (at any depth), .zip or shards, cropped centrally to one size.

    Shards are .tar files (of WebDataset, with the classes of its .cls files), .parquet and .arrow
    files (a column of pictures and one called label): one, a folder of them, or such a name as
    'train-{000..146}.tar'. A shard named after a split is of it. A folder that `zoo prepare
    pictures` wrote is read as it is.

    Splits: folders in `root` that are named after splits (train, Training, train2017, val, dev,
    Validate, test, ...; trainA and trainB are two classes of train) are the splits. A split without
    such a folder is parted from train by a fixed hash of the file's path (10 % of the files each),
    so that a file stays in its split when others are added. The order inside a split is that hash's
    too, so its first N are a fair sample. The first folder in a split is the class; a few files
    beside class folders are left out, and where more lie there is one class, 0. What was understood
    and what was left out is said at the start of every verb; what could mean two things is refused.

    Images are decoded once, in parallel threads, into one uint8 tensor. If that would exceed
    `memory_limit_gb`, they are decoded into a cache, from which all processes of the machine read.

    Args:
        num_workers: Processes that fetch batches; by default none for images in memory or of the
            cache, else one for each CPU up to 8.
        size: Side of a square, or [height, width].
        channels: 1 for grey, 3 for RGB.
        folders: Whether the first folders in `root` are splits or classes; auto tells them by their
            names.
        broken: What to do with a file that cannot be decoded: warn and skip it, or refuse to run.
        memory_limit_gb: Most memory (10^9 bytes) that the decoded images may take.
        cache: Whether images beyond that are decoded once, into a cache on disk ($ZOO_CACHE, else
            ~/.cache/zoo) that is mapped; else whenever a batch needs them, in worker processes.
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
        memory_limit_gb: NonNegative = 0.1,
        cache: bool = True,
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
        self.memory_limit, self.cache = memory_limit_gb * 1e9, cache
        self._workers_given = num_workers is not None
        self._shape = self.channels, *self.size
        self._names: dict[Split, list[str]] = {}
        self._listing: Listing | None = None
        self._known: Known | None = None
        self._store: Store | None = None
        self._broken: dict[Split, int] = {}

    @cached_property
    def _files(self) -> ImageFiles:
        return ImageFiles(Path(self.root))

    def setup(self, stage: str | None = None) -> None:
        """Lists the files, then loads the splits of a stage, or all."""
        self.list_files()
        super().setup(stage)

    def list_files(self) -> None:
        """Sorts all files into splits and classes, or takes what a cache knows of them.

        Raises:
            ValueError: `root` was prepared at another size, or its folders may mean two things.
        """
        if self._known is not None:
            return
        if is_prepared(self.root):
            self._take(Store(Path(self.root)))
        elif self.cache and (store := cached(self._files, self._shape, self.folders)):
            self._take(store)
        else:
            self._listing = list_pictures(self._files, self.root, self.folders)
            self._names = self._listing.names
            self._know(self._listing.known)

    def _take(self, store: Store) -> None:
        """Reads decoded pictures, and lets go of what was listed."""
        if store.shape != self._shape:
            size = list(store.shape[1:]) if store.shape[1] != store.shape[2] else store.shape[1]
            raise ValueError(
                f"{store.folder} holds pictures prepared with --data.size {size} --data.channels "
                f"{store.shape[0]}, not {list(self.size)} and {self.channels}: give these, or "
                "prepare them anew"
            )
        self._store, self._listing, self._names = store, None, {}
        self._files = ImageFiles(Path(self.root))
        self._know(store.known)

    def _know(self, known: Known) -> None:
        self._known = known
        self.num_classes = max(len(known.classes), 1)
        self.unlabelled = frozenset(known.unlabelled)

    def prepare(self, out: Path, processes: int | None = None) -> None:
        """Decodes all pictures into a folder, unless they are in it; see `zoo prepare pictures`."""
        self.list_files()
        listing = self._listing or list_pictures(self._files, self.root, self.folders)
        shape, refuse = self._shape, self.refuse
        self._take(
            prepare(
                self._files, listing, shape, self.folders, out, refuse=refuse, processes=processes
            )
        )

    def place(self) -> str:
        """What the data are and where, for messages."""
        return f"pictures in {self.root}"

    def reason(self, split: Split) -> str:
        """How a split came to the number of images that it has, if that needs to be said."""
        assert self._known is not None
        count, broken = self._known.counts[split], self._broken.get(split, 0)
        hashed = self._known.hashed
        parts = []
        if split == "train" and self.limit is not None and self.limit < count:
            parts.append(f"the first of {count:,} (--data.limit {self.limit})")
        if split in hashed:
            few = "" if count else f", none of so few: give more, or a folder {split}"
            parts.append(f"a tenth of train's, by a hash of their paths{few}")
        elif not count and hashed:
            parts.append(
                "all went to val and test, each a tenth by a hash of their paths: give more"
            )
        elif not count:
            there = " and ".join(name for name, n in self._known.counts.items() if n)
            parts.append(f"no folder is named after it, there is {there} only")
        if split in self.unlabelled:
            parts.append("without classes")
        if broken:
            parts.append(f"{broken:,} that cannot be read skipped")
        return f" ({'; '.join(parts)})" if parts else ""

    def describe(self) -> list[str]:
        """What is read: formats, splits, classes, the cache, and what was left out and why."""
        assert self._known is not None
        first, *splits = super().describe()
        kinds = self._known.formats
        lines = [
            f"{first} (resized)",
            "formats: " + ", ".join(f"{n:,} {kind or '(no suffix)'}" for kind, n in kinds),
        ]
        lines += [line for line in splits if not line.startswith("classes: ")]
        classes = self._known.classes
        shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        lines.append(f"classes: {len(classes)} ({shown})" if classes else "classes: none")
        lines += [f"note: {note}" for note in self._known.notes]
        if self._store is not None:
            lines.append(f"cache: {self._store.folder}, {self._store.bytes / 1e9:,.1f} GB, mapped")
        return [*lines, *self._known.left_out]

    def _decode(self, name: str) -> NDArray[np.uint8]:
        with self._files.open(name) as file:
            return decode(file, self.channels, self.size)

    def load_split(self, split: Split) -> ImageSet:
        """Decodes a split into memory, or prepares to decode it batch by batch."""
        self.list_files()
        limit = self.limit if split == "train" else None
        listing = self._listing
        if listing is not None:
            total = sum(listing.known.counts.values())
            large = total * math.prod(self._shape) > self.memory_limit
            if large and self.cache:
                self._take(
                    prepare(self._files, listing, self._shape, self.folders, refuse=self.refuse)
                )
        if self._store is not None:
            count = self._store.known.counts[split]
            self._look_at(split, self._store.broken_in(split, limit), min(count, limit or count))
            return self._store.split(split, limit)
        assert listing is not None
        names = listing.names[split][:limit]
        labels = torch.from_numpy(listing.labels(names))
        if large:
            if not self._workers_given:
                self.num_workers = min(8, os.cpu_count() or 1)
            return LazyImages(names, labels, self._decode, self.refuse, self._shape)

        images = np.empty((len(names), self.channels, *self.size), np.uint8)

        def fill(i: int) -> Exception | None:
            try:
                images[i] = self._decode(names[i])
            except Exception as error:  # a broken image can raise nearly anything
                return error
            return None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            errors = list(
                waiting(pool.map(fill, range(len(names))), "decode", len(names), "pictures")
            )
        broken = [(n, e) for n, e in zip(names, errors, strict=True) if e is not None]
        self._look_at(split, broken, len(names))
        good = torch.tensor([error is None for error in errors], dtype=torch.bool)
        pixels = torch.from_numpy(images)
        return (
            ResidentImages(pixels[good], labels[good]) if broken else ResidentImages(pixels, labels)
        )

    def _look_at(self, split: Split, broken: list[tuple[str, Exception]], count: int) -> None:
        """Names the files of a split of so many that cannot be read, or refuses them."""
        if not broken:
            return
        if self.refuse:
            raise refusal(broken)
        if len(broken) == count:
            raise ValueError(
                f"none of the {count} {split} images of {self.root} can be read: "
                f"{broken[0][0]} ({broken[0][1]})"
            )
        self._broken[split] = len(broken)
        shown = "; ".join(f"{name} ({error})" for name, error in broken[:5])
        warnings.warn(
            f"{len(broken)} of {count} images of {self.root} cannot be read and are skipped: "
            + shown
            + ("; ..." if len(broken) > 5 else ""),
            stacklevel=2,
        )
