"""Pictures decoded once: a cache of uint8 at one size, mapped into memory, whose making can stop.

Processes decode pieces straight into one file, in the order in which the pictures lie. In it they
are by split, in the split's order.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import PIL
import torch
from torch import Tensor

from zoo.data.cache import INDEX, PROGRESS, cache_folder, check_ours, key_of, locked
from zoo.data.images import decoding
from zoo.data.images.base import ImageBatch, ResidentImages
from zoo.data.images.files import ImageFiles, refusal
from zoo.data.images.listing import Known, Listing
from zoo.data.protocols import Split
from zoo.data.workers import Pool, cores
from zoo.files import naming, printable, replacing
from zoo.reading import decoded, parsed, read_bytes
from zoo.waiting import Bar

_IMAGES, _LABELS = "images.bin", "labels.npy"
_PIECE = 64  # pictures that a process decodes at a time
_FEW = 2_000  # pictures that this process decodes before others would have begun
_SECONDS = 10.0  # between notes of how far it is
_AGAIN = "remove the folder and prepare the pictures again"
Shape = tuple[int, int, int]


class MappedImages(ResidentImages):
    """Images of a cache, of which memory holds what is used: all processes share the pages.

    Args:
        folder: The cache.
        shape: (C, H, W) of an image.
        first: Where the split begins in it.
        stop: Where it ends.
        broken: Places between them of pictures that cannot be read, ascending.
    """

    def __init__(
        self, folder: Path, shape: Shape, first: int, stop: int, broken: list[int]
    ) -> None:
        self._made = folder, shape, first, stop, broken
        # Of this process alone if it were written to, as torch wants an array to allow.
        pixels = np.memmap(folder / _IMAGES, np.uint8, "c").reshape(-1, *shape)
        labels = np.load(folder / _LABELS, mmap_mode="c")
        super().__init__(*(torch.from_numpy(array[first:stop]) for array in (pixels, labels)))
        gaps = np.array(broken, np.int64) - first - np.arange(len(broken))
        self._gaps = torch.from_numpy(gaps)

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedImages, self._made

    def __len__(self) -> int:
        return len(self.images) - len(self._gaps)

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        index = torch.from_numpy(np.array(indices, np.int64))
        rows = index + torch.searchsorted(self._gaps, index, right=True)
        images, labels = (t.index_select(0, rows) for t in (self.images, self.labels))
        return ImageBatch(images, labels, index)

    def first(self, count: int | None = None) -> Tensor:
        """The first `count` images, or all, uint8 (N, C, H, W)."""
        if not len(self._gaps):
            return self.images[:count]
        return self.__getitems__(list(range(len(self))[:count])).images


class Store:
    """A folder of decoded pictures.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: A file of it is missing.
        ValueError: A file of it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = parsed(decoded(read_bytes(folder / INDEX), folder / INDEX))
        try:
            self.made: dict[str, Any] = index["made"]
            self.known = Known(**index["known"])
            self.broken: list[tuple[int, str, str]] = [tuple(row) for row in index["broken"]]
            channels, height, width = index["shape"]
            self.shape: Shape = channels, height, width
            sizes: list[tuple[str, int]] = index["files"]
            _check_index(self.known, self.shape, self.broken, dict(sizes))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / INDEX} is damaged: {_AGAIN}") from error
        for name, size in sizes:
            file = folder / name
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing: {_AGAIN}")
            if (there := file.stat().st_size) != size:
                raise ValueError(
                    f"{file} is cut off or changed: it has {there:,} bytes and needs {size:,}: "
                    + _AGAIN
                )
        self.bytes = sum(size for _, size in sizes)
        _check_labels(folder / _LABELS, self.known)

    def split(self, split: Split, limit: int | None = None) -> MappedImages:
        """The images of a split, or of its first `limit` files."""
        first, stop = self._bounds(split, limit)
        broken = [slot for slot, _, _ in self.broken if first <= slot < stop]
        return MappedImages(self.folder, self.shape, first, stop, broken)

    def broken_in(self, split: Split, limit: int | None = None) -> list[tuple[str, Exception]]:
        """Names of files of a split that cannot be read, and why."""
        first, stop = self._bounds(split, limit)
        return [(name, ValueError(why)) for slot, name, why in self.broken if first <= slot < stop]

    def _bounds(self, split: Split, limit: int | None) -> tuple[int, int]:
        ends = [0, *accumulate(self.known.counts[name] for name in get_args(Split))]
        number = get_args(Split).index(split)
        first, stop = ends[number], ends[number + 1]
        return first, stop if limit is None else min(stop, first + limit)


def _check_index(
    known: Known, shape: Shape, broken: list[tuple[int, str, str]], sizes: dict[str, int]
) -> None:
    """Raises an error of any kind where what an index says cannot be, or does not fit together."""
    total = sum(known.counts[split] for split in get_args(Split))
    places = [place for place, _, _ in broken]
    texts = [*known.classes, *known.notes, *known.left_out, *(kind for kind, _ in known.formats)]
    texts += [text for row in broken for text in row[1:]]
    if (
        not all(type(n) is int and n >= 0 for n in (*known.counts.values(), *shape, *places))
        or sizes.keys() != {_IMAGES, _LABELS}
        or sizes[_IMAGES] != total * math.prod(shape)
        or places != sorted(set(places) & set(range(total)))
        or not all(isinstance(text, str) for text in texts)
        or not {*known.unlabelled, *known.hashed} <= set(get_args(Split))
    ):
        raise ValueError("it does not fit together")


def _check_labels(path: Path, known: Known) -> None:
    """Raises ValueError if there is not a class's number for each picture."""
    try:
        labels = np.load(path, mmap_mode="r")
        fits = labels.dtype == np.int64 and labels.shape == (sum(known.counts.values()),)
        if fits and len(labels):
            fits = labels.min() >= 0 and labels.max() < max(len(known.classes), 1)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {_AGAIN}") from error
    if not fits:
        raise ValueError(f"{path} is damaged: {_AGAIN}")


def is_prepared(root: str | Path) -> bool:
    """Whether a folder holds decoded pictures."""
    return Path(root, INDEX).is_file() and any(Path(root, n).is_file() for n in (_IMAGES, _LABELS))


def made_of(files: ImageFiles, shape: Shape, folders: str) -> dict[str, Any]:
    """All that the pixels and their order hang on."""
    return {
        "source": files.fingerprint(),
        "size": list(shape[1:]),
        "channels": shape[0],
        "folders": folders,
        "decoding": key_of(Path(decoding.__file__).read_text("utf-8")),
        "Pillow": PIL.__version__,
    }


def home_of(root: str, shape: Shape, folders: str) -> Path:
    """Where in the user's cache these pictures lie, whatever they are by now."""
    return cache_folder() / f"pictures-{key_of([os.path.abspath(root), shape, folders])}"


def cached(files: ImageFiles, shape: Shape, folders: str) -> Store | None:
    """The cache of these pictures, if there is one and they have not changed."""
    home = home_of(str(files.root), shape, folders)
    if not is_prepared(home):
        return None
    store = Store(home)
    return store if store.made == made_of(files, shape, folders) else None


def prepare(
    files: ImageFiles,
    listing: Listing,
    shape: Shape,
    folders: str,
    out: Path | None = None,
    *,
    refuse: bool = False,
    processes: int | None = None,
) -> Store:
    """The decoded pictures, made now unless they are there.

    Args:
        files: The files.
        listing: Their splits and classes.
        shape: (C, H, W) of an image.
        folders: What the listing took the first folders for.
        out: Folder to write; one of the cache's if not given.
        refuse: Whether a broken file is an error.
        processes: How many decode; if not given as many as there are cores, for few pictures one.

    Raises:
        ValueError: `out` holds something else, or a file is broken and refused.
        OSError: The disk is full; what is written stays, and the same call goes on.
    """
    made = made_of(files, shape, folders)
    home = out or home_of(str(files.root), shape, folders)
    if out is not None:
        check_ours(out, made, "pictures")
    with naming(home), locked(home, "pictures"):
        if is_prepared(home):
            store = Store(home)
            if store.made == made:
                return store
            (home / INDEX).unlink()  # before what it tells of is gone
        try:
            _write(files, listing, shape, home, made, refuse, processes)
        except ValueError:  # a picture is refused, and without it they are others
            for name in (_IMAGES, PROGRESS):
                (home / name).unlink(missing_ok=True)
            raise
    return Store(home)


class _Reading(NamedTuple):
    """How pictures are decoded, and where to."""

    root: Path
    shape: Shape
    file: Path


Piece = list[tuple[int, str, Any]]  # number, name and place of pictures


def _decode(piece: Piece, how: _Reading) -> list[tuple[int, str, str]]:
    """Decodes pictures into the file; gives number, name and reason of those that are broken."""
    files, broken = ImageFiles(how.root), []
    with naming(how.file), how.file.open("r+b") as sink:
        for number, name, place in piece:
            try:
                with files.open(place) as file:
                    pixels = decoding.decode(file, how.shape[0], how.shape[1:])
            except Exception as error:  # a broken image can raise nearly anything
                broken.append((number, printable(name), printable(str(error))))
                continue
            sink.seek(number * pixels.size)
            sink.write(pixels.tobytes())
    return broken


def _pieces(files: ImageFiles, names: list[str], done: int) -> Iterator[Piece]:
    """Pictures in the order in which they lie, without the first `done`."""
    order = sorted(range(len(names)), key=lambda number: files.place(names[number]))
    for first in range(done, len(order), _PIECE):
        part = order[first : first + _PIECE]
        yield [(number, names[number], files.place(names[number])) for number in part]


def _state(note: Path, images: Path, size: int, made: dict[str, Any]) -> dict[str, Any]:
    """How far a call before has come: not at all if its pixels are cut off or of others."""
    begun: dict[str, Any] = {"made": made, "done": 0, "broken": []}
    if not note.is_file() or not images.is_file() or images.stat().st_size != size:
        return begun
    try:
        before = parsed(decoded(read_bytes(note), note))
        if before["made"] == made and type(before["done"]) is int:
            return {name: before[name] for name in begun}
    except (KeyError, TypeError, ValueError):
        pass  # the note is damaged
    return begun


def _write(
    files: ImageFiles,
    listing: Listing,
    shape: Shape,
    home: Path,
    made: dict[str, Any],
    refuse: bool,
    processes: int | None,
) -> None:
    """Decodes all pictures, from where a call before has come."""
    names = [name for split in get_args(Split) for name in listing.names[split]]
    note, images = home / PROGRESS, home / _IMAGES
    size = len(names) * math.prod(shape)
    state = _state(note, images, size, made)

    def tell() -> None:
        with replacing(note) as path:
            path.write_text(json.dumps(state), "utf-8")

    tell()  # before there is a file, so that the folder is known as ours
    if not state["done"]:
        images.unlink(missing_ok=True)  # who has mapped it keeps it
    with naming(images), images.open("ab") as file:
        there = file.tell()
        try:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now
        except OSError:
            file.truncate(there)
            raise

    def noted() -> None:
        with images.open("rb") as file:
            os.fsync(file.fileno())
        tell()

    how, last = _Reading(files.root, shape, images), time.monotonic()
    processes = processes or (cores() if len(names) > _FEW else 1)
    bar = Bar("decode", len(names), "pictures", state["done"])
    try:
        with bar, Pool(processes) as pool:
            for broken in pool.map(_decode, _pieces(files, names, state["done"]), how):
                if broken and refuse:
                    raise refusal([(name, ValueError(why)) for _, name, why in broken])
                state["broken"] += broken
                state["done"] = min(state["done"] + _PIECE, len(names))
                bar.update(state["done"] - bar.n)
                if time.monotonic() - last > _SECONDS:
                    noted()
                    last = time.monotonic()
    finally:
        noted()
    with replacing(home / _LABELS) as path, path.open("wb") as sink:
        np.save(sink, listing.labels(names))
    index = {
        "format": 1, "shape": shape, "known": asdict(listing.known), "made": made,
        "broken": sorted(state["broken"], key=lambda row: row[0]),
        "files": [(name, (home / name).stat().st_size) for name in (_IMAGES, _LABELS)],
    }  # fmt: skip
    with replacing(home / INDEX) as path:
        path.write_text(json.dumps(index, indent=1), "utf-8")
    note.unlink()
