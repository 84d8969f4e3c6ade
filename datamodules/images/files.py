"""The image files of a folder or a .zip: found, opened and decoded when they are needed."""

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
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.images.base import ImageBatch
from zoo.data.images.suffixes import (
    FORMAT_OF_SUFFIX,
    OTHER_PICTURES,
    SIGNATURE,
    begins_as_picture,
    why_not,
)

_MOST_FOLDERS = 1_000_000
_MOST_BYTES = 1 << 31
"""Most bytes of a picture's file: 268 million pixels in 16-bit RGB are no more."""
_FOLD, _SMALL = 100, 1 << 26  # a zip's member that expands to more, and more than 100-fold


class ImageFiles:
    """The image files of a folder or a .zip, readable from threads and from worker processes.

    Links to files and folders are followed.

    Args:
        root: The folder or .zip.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: Counter[str] = Counter()
        """Why files are no images: the number of them for each reason, once `names` was called."""
        self._zip: tuple[int, zipfile.ZipFile] | None = None
        self._members: dict[str, str] = {}

    def names(self) -> list[str]:
        """Paths of all images relative to the root, "/" between the parts.

        Files are known by their suffix; with none, or an unknown one, by how they begin.

        Raises:
            FileNotFoundError: There is no such folder, or no image in it.
            ValueError: It is neither a folder nor a .zip, or the .zip is damaged.
        """
        if not self.root.exists():
            raise FileNotFoundError(
                f"no folder {self.root}: set --data.root to a folder or .zip of images"
            )
        self.left_out.clear()
        found = self._walk() if self.root.is_dir() else self._listed()
        names = [name for name in found if self._is_image(PurePosixPath(name))]
        if not names:
            raise FileNotFoundError(
                f"no images in {self.root}{self._only_others()}: --data.root must hold files that "
                f"end in {', '.join(sorted(FORMAT_OF_SUFFIX))}"
            )
        return names

    def left_out_lines(self, more: Sequence[str] = ()) -> list[str]:
        """The line that says what was left out and why, if anything was."""
        out = [f"{n:,} {reason}" for reason, n in self.left_out.most_common()] + list(more)
        return [f"left out: {'; '.join(out)}"] if out else []

    def _walk(self) -> Iterator[str]:
        """Files below the root; a link to a folder that it lies in would have no end."""
        folders, count = [(self.root, frozenset[tuple[int, int]]())], 0
        while folders:
            folder, above = folders.pop()
            count += 1
            if count > _MOST_FOLDERS:
                raise ValueError(f"{self.root} has more than {_MOST_FOLDERS:,} folders, with links")
            status = folder.stat()
            above |= {(status.st_dev, status.st_ino)}
            with os.scandir(folder) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    path = folder / entry.name
                    try:
                        mode = (status := entry.stat()).st_mode
                    except OSError:
                        self.left_out["dangling links" if entry.is_symlink() else "unreadable"] += 1
                        continue
                    if stat.S_ISREG(mode):
                        yield path.relative_to(self.root).as_posix()
                    elif not stat.S_ISDIR(mode):
                        self.left_out["pipes, sockets or devices"] += 1
                    elif (status.st_dev, status.st_ino) in above:
                        self.left_out["links to a folder that they lie in"] += 1
                    elif os.access(path, os.R_OK | os.X_OK):
                        folders.append((path, above))
                    else:
                        self.left_out["folders that may not be read"] += 1

    def _listed(self) -> Iterator[str]:
        """Files of the .zip. Archives made on Windows may part folders by a backslash."""
        if not self.root.is_file() or not zipfile.is_zipfile(self.root):
            raise ValueError(f"{self.root} is neither a folder nor a .zip: set --data.root to one")
        members = [
            info for info in self._open().infolist() if info.filename and not info.is_dir()
        ]  # a damaged one can have no name
        self._members = {info.filename.replace("\\", "/"): info.filename for info in members}
        yield from self._members

    def _is_image(self, name: PurePosixPath) -> bool:
        suffix = name.suffix.lower()
        if any(part.startswith((".", "__MACOSX")) for part in name.parts):
            self.left_out["hidden"] += 1
            return False
        reason = why_not(suffix)
        if suffix not in FORMAT_OF_SUFFIX and suffix not in OTHER_PICTURES and self._begins(name):
            reason = None
        if reason is not None:
            self.left_out[f"{suffix or 'no suffix'} ({reason})"] += 1
        return reason is None

    def _begins(self, name: PurePosixPath) -> bool:
        """Whether a file that no suffix calls a picture begins as one."""
        try:
            if self.root.is_dir():
                with (self.root / name).open("rb") as file:
                    return begins_as_picture(file.read(SIGNATURE))
            archive = self._open()
            with archive.open(self._members[str(name)]) as member:
                return begins_as_picture(member.read(SIGNATURE))
        except Exception:  # a damaged member can raise nearly anything
            return False

    def _only_others(self) -> str:
        text = ", ".join(f"{n:,} {reason}" for reason, n in self.left_out.most_common(5))
        return f", only {text}" if text else ""

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """One file, open for reading.

        Raises:
            ValueError: It is larger than any picture that is read, or expands a hundredfold.
        """
        if self.root.is_dir():
            with (self.root / name).open("rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ValueError("it is a pipe or a device, no file")
                _check_size(status.st_size)
                yield file
            return
        archive = self._open()
        info = archive.getinfo(self._members.get(name, name))
        _check_size(info.file_size)
        if info.file_size > max(_SMALL, _FOLD * info.compress_size):
            raise ValueError(
                f"its {info.compress_size:,} bytes expand to {info.file_size:,}, more than "
                f"{_FOLD}-fold: unpack the .zip if that is right"
            )
        yield io.BytesIO(archive.read(info))

    def _open(self) -> zipfile.ZipFile:
        # One handle a process: a forked worker would share the parent's position in the file.
        if self._zip is None or self._zip[0] != os.getpid():
            try:
                self._zip = os.getpid(), zipfile.ZipFile(self.root)
            except zipfile.BadZipFile as error:
                raise ValueError(f"{self.root} is a damaged .zip ({error})") from error
        return self._zip[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}


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
                return i, torch.from_numpy(np.ascontiguousarray(self.read(self.names[i])))
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
            images = [image for _, image in pool.map(self._item, range(len(self))[:count])]
        return torch.stack(images) if images else torch.empty((0, *self.shape), dtype=torch.uint8)


def refusal(broken: list[tuple[str, Exception]]) -> ValueError:
    """The error that names the first of the broken files, with its reason, and the fix."""
    (name, error), more = broken[0], len(broken) - 1
    others = f" and {more} more" if more else ""
    return ValueError(
        f"{name}{others} cannot be read ({error}): remove them, or leave them out with "
        "--data.broken skip"
    )
