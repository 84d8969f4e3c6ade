"""The image files of a folder, a .zip or of shards: found, opened, decoded when needed."""

import io
import os
import stat
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.braces import expanded
from zoo.data.images.base import ImageBatch
from zoo.data.images.shards import SUFFIXES, Place, check_numbers, members, read, unread
from zoo.data.images.suffixes import (
    FORMAT_OF_SUFFIX,
    OTHER_PICTURES,
    PACKED,
    SIGNATURE,
    begins_as_picture,
    why_not,
)
from zoo.waiting import waiting

_MOST_FOLDERS = 1_000_000
_MOST_BYTES = 1 << 31
"""Most bytes of a picture's file: 268 million pixels in 16-bit RGB are no more."""
_FOLD, _SMALL = 100, 1 << 26  # a zip's member that expands to more, and more than 100-fold


class ImageFiles:
    """The image files of a folder, a .zip or of shards, readable from threads and other processes.

    Links to files and folders are followed. A folder without pictures may hold shards.

    Args:
        root: The folder, .zip or shard; {000..146} in a name stands for all these shards.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: Counter[str] = Counter()
        """Why files are no images: the number of them for each reason, once `names` was called."""
        self.labelled = False
        """Whether classes are the numbers or words of labels, not folders."""
        self._members: dict[str, Any] = {}

    def names(self) -> list[str]:
        """Paths of all images relative to the root, "/" between the parts.

        Files are known by their suffix; with none, or an unknown one, by how they begin.

        Raises:
            FileNotFoundError: There is no such folder, no image in it, or a shard is missing.
            ValueError: It is neither a folder nor a .zip nor shards, or one is damaged.
        """
        self._check_there()
        self.left_out.clear()
        if self.root.is_dir():
            shards, names = list[Path](), list[str]()
            for name in sorted(name for name, _ in self._walk()):
                if name.lower().endswith(SUFFIXES):
                    shards.append(self.root / name)
                elif self._is_image(name):
                    names.append(name)
            if names and shards:
                self.left_out["shards beside pictures"] = len(shards)
            elif shards:
                check_numbers(shards)
                names = self._of_shards(shards)
        elif self.root.name.lower().endswith(SUFFIXES):
            names = self._of_shards(self._paths())
        else:
            names = [name for name in self._listed() if self._is_image(name)]
        if not names:
            raise FileNotFoundError(
                f"no images in {self.root}{self._only_others()}: --data.root must hold files that "
                f"end in {', '.join(sorted(FORMAT_OF_SUFFIX))}"
            )
        return names

    def _paths(self) -> list[Path]:
        """The root, or the files that its braces stand for."""
        there = self.root.exists()
        return [self.root] if there else [Path(name) for name in expanded(str(self.root))]

    def _check_there(self) -> None:
        for path in self._paths():
            if not path.exists():
                raise FileNotFoundError(
                    f"no folder {path}: set --data.root to a folder or .zip of images, or to shards"
                    + (" (what lies elsewhere must be copied here)" if ":/" in str(path) else "")
                )

    def fingerprint(self) -> str:
        """What tells these pictures from others: names, sizes and times of all files, in any order.

        Takes no memory for them, however many there are.
        """
        self._check_there()
        folder = self.root.is_dir()
        read = {suffix for suffix in FORMAT_OF_SUFFIX if why_not(suffix) is None}
        total = 0
        for name, status in self._walk() if folder else self._given():
            # Nearly all of a million files are told by a look at their names.
            plain = name[name.rfind(".") :] in read and not _is_hidden(name)
            if plain or name.lower().endswith(SUFFIXES) or not folder or self._is_image(name):
                fact = f"{name}\0{status.st_size}\0{status.st_mtime_ns}"
                fact_bytes = fact.encode(errors="surrogateescape")
                total += int.from_bytes(blake2b(fact_bytes, digest_size=16).digest(), "big")
        return f"{total % 2**128:032x}"

    def _given(self) -> Iterator[tuple[str, os.stat_result]]:
        return ((str(path), path.stat()) for path in self._paths())

    def place(self, name: str) -> Any:
        """What `open` of another object takes for a name that this one has found."""
        return self._members.get(name, name)

    def left_out_lines(self, more: Sequence[str] = ()) -> list[str]:
        """The line that says what was left out and why, if anything was."""
        out = [f"{n:,} {reason}" for reason, n in self.left_out.most_common()] + list(more)
        return [f"left out: {'; '.join(out)}"] if out else []

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Files below the root; a link to a folder that it lies in would have no end."""
        folders, count = [("", frozenset[tuple[int, int]]())], 0
        while folders:
            inner, above = folders.pop()
            count += 1
            if count > _MOST_FOLDERS:
                raise ValueError(f"{self.root} has more than {_MOST_FOLDERS:,} folders, with links")
            folder = self.root / inner
            status = folder.stat()
            above |= {(status.st_dev, status.st_ino)}
            empty = bool(inner)
            with os.scandir(folder) as entries:
                for entry in entries:
                    empty = False
                    try:
                        mode = (status := entry.stat()).st_mode
                    except OSError:
                        self.left_out["dangling links" if entry.is_symlink() else "unreadable"] += 1
                        continue
                    if stat.S_ISREG(mode):
                        yield inner + entry.name, status
                    elif not stat.S_ISDIR(mode):
                        self.left_out["pipes, sockets or devices"] += 1
                    elif (status.st_dev, status.st_ino) in above:
                        self.left_out["links to a folder that they lie in"] += 1
                    elif os.access(entry.path, os.R_OK | os.X_OK):
                        folders.append((f"{inner}{entry.name}/", above))
                    else:
                        self.left_out["folders that may not be read"] += 1
            if empty:
                self.left_out["empty folders"] += 1

    def _listed(self) -> Iterator[str]:
        """Files of the .zip. Archives made on Windows may part folders by a backslash."""
        if not self.root.is_file() or not zipfile.is_zipfile(self.root):
            why = f"neither a folder nor a .zip, {', '.join(SUFFIXES)}: set --data.root to one"
            if (suffix := self.root.suffix.lower()) == ".zip":
                why = "a damaged .zip, or cut off: fetch it again"
            elif suffix in PACKED:
                why = f"packed ({suffix}): unpack it"
            raise ValueError(f"{self.root} is {why}")
        members = [
            info for info in self._open().infolist() if info.filename and not info.is_dir()
        ]  # a damaged one can have no name
        self._members = {info.filename.replace("\\", "/"): info.filename for info in members}
        yield from self._members

    def _of_shards(self, shards: list[Path]) -> list[str]:
        found = members(shards, self.root, self._is_image)
        labels = set()
        for name, place, labelled in found:
            self._members[name] = place
            labels.add(labelled)
        self.labelled = True in labels
        for shard in shards:
            if columns := unread(shard):
                self.left_out[f"shards' columns {', '.join(columns[:5])} (classes: label)"] += 1
        return list(self._members)

    def _is_image(self, name: str, place: Place | None = None) -> bool:
        if _is_hidden(name):
            self.left_out["hidden"] += 1
            return False
        suffix = os.path.splitext(name)[1].lower()
        reason = why_not(suffix)
        if (
            reason is not None
            and suffix not in FORMAT_OF_SUFFIX
            and suffix not in OTHER_PICTURES
            and self._begins(name, place)
        ):
            reason = None
        if reason is not None:
            self.left_out[f"{suffix or 'no suffix'} ({reason})"] += 1
        return reason is None

    def _begins(self, name: str, place: Place | None) -> bool:
        """Whether a file that no suffix calls a picture begins as one."""
        try:
            if place is not None:
                return begins_as_picture(read(place, SIGNATURE))
            if self.root.is_dir():
                with (self.root / name).open("rb") as file:
                    return begins_as_picture(file.read(SIGNATURE))
            with self._open().open(self._members[name]) as member:
                return begins_as_picture(member.read(SIGNATURE))
        except Exception:  # a damaged member can raise nearly anything
            return False

    def _only_others(self) -> str:
        text = ", ".join(f"{n:,} {reason}" for reason, n in self.left_out.most_common(5))
        return f", only {text}" if text else ""

    @contextmanager
    def open(self, name: Any) -> Iterator[IO[bytes]]:
        """One file, by its name or place, open for reading.

        Raises:
            ValueError: It is larger than any picture that is read, or expands a hundredfold.
        """
        place = self.place(name)
        if isinstance(place, Place):
            if place.shard.lower().endswith(".tar"):
                _check_size(place.second)
            yield io.BytesIO(read(place))
            return
        if self.root.is_dir():
            with (self.root / name).open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError("it is a pipe or a device, no file")
                _check_size(status.st_size)
                yield file
            return
        archive = self._open()
        info = archive.getinfo(place)
        _check_size(info.file_size)
        if info.file_size > max(_SMALL, _FOLD * info.compress_size):
            raise ValueError(
                f"its {info.compress_size:,} bytes expand to {info.file_size:,}, more than "
                f"{_FOLD}-fold: unpack the .zip if that is right"
            )
        yield io.BytesIO(archive.read(info))

    def _open(self) -> zipfile.ZipFile:
        # One handle a process: a forked worker would share the parent's position in the file.
        status = self.root.stat()
        return _archive(self.root, os.getpid(), status.st_mtime_ns, status.st_size)


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or "/." in name or "/__MACOSX" in name


@lru_cache(4)
def _archive(path: Path, *_: int) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} is a damaged .zip ({error})") from error


def _check_size(size: int) -> None:
    if size > _MOST_BYTES:
        raise ValueError(f"its {size:,} bytes are more than the {_MOST_BYTES:,} that are read")


@dataclass
class LazyImages:
    """Images that are decoded when a batch asks for them."""

    names: list[str]
    labels: Tensor
    """Their classes (N,)."""
    read: Callable[[str], Any]
    """Decodes one file to uint8 (C, H, W)."""
    refuse: bool
    """Whether a broken file is an error; else the next readable file takes its place."""
    shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    broken: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.names)

    def _item(self, index: int) -> tuple[int, Tensor]:
        for i in (j % len(self) for j in range(index, index + len(self))):
            if i in self.broken:
                continue
            try:
                return i, torch.from_numpy(np.array(self.read(self.names[i]), order="C"))
            except Exception as error:  # a broken image can raise nearly anything
                if self.refuse:
                    raise refusal([(self.names[i], error)]) from error
                self.broken.add(i)
                warnings.warn(
                    f"{self.names[i]} cannot be read ({error}): the next image takes its place",
                    stacklevel=2,
                )
        raise ValueError(f"none of the {len(self)} images can be read")

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        index, images = zip(*map(self._item, indices), strict=True)
        numbers = torch.tensor(index)
        return ImageBatch(torch.stack(images), self.labels[numbers], numbers)

    def first(self, count: int | None = None) -> Tensor:
        """The first `count` images, or all, uint8 (N, C, H, W)."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            numbers = range(len(self))[:count]
            read = waiting(pool.map(self._item, numbers), "decode", len(numbers), "pictures")
            images = [image for _, image in read]
        return torch.stack(images) if images else torch.empty((0, *self.shape), dtype=torch.uint8)


def refusal(broken: list[tuple[str, Exception]]) -> ValueError:
    """The error that names the first of the broken files, with its reason, and the fix."""
    (name, error), more = broken[0], len(broken) - 1
    others = f" and {more} more" if more else ""
    return ValueError(
        f"{name}{others} cannot be read ({error}): remove them, or leave them out with "
        "--data.broken skip"
    )
