"""Image files of a folder or a .zip: finding, decoding and reading them when they are needed."""

import io
import os
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.image_data import ImageBatch

_SUFFIXES = frozenset(
    ".jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm".split()  # noqa: SIM905
)


class ImageFiles:
    """The image files of a folder or a .zip, readable from threads and from worker processes.

    Args:
        root: The folder or .zip.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._zip: tuple[int, zipfile.ZipFile] | None = None

    def names(self) -> list[str]:
        """Paths of all images relative to the root, "/" between the parts."""
        if not self.root.exists():
            raise FileNotFoundError(
                f"no folder {self.root}: set --data.root to a folder or .zip of images"
            )
        if self.root.is_dir():
            found = [p.relative_to(self.root).as_posix() for p in self.root.rglob("*")]
        elif zipfile.is_zipfile(self.root):
            found = self._open().namelist()
        else:
            raise ValueError(f"{self.root} is neither a folder nor a .zip: set --data.root to one")
        names = [name for name in map(PurePosixPath, found) if _is_image(name)]
        if not names:
            raise FileNotFoundError(
                f"no images in {self.root}: --data.root must hold files that end in "
                f"{', '.join(sorted(_SUFFIXES))}"
            )
        return [str(name) for name in names]

    def read(self, name: str) -> bytes:
        """The content of one file."""
        if self.root.is_dir():
            return (self.root / name).read_bytes()
        return self._open().read(name)

    def _open(self) -> zipfile.ZipFile:
        # One handle a process: a forked worker would share the parent's position in the file.
        if self._zip is None or self._zip[0] != os.getpid():
            self._zip = os.getpid(), zipfile.ZipFile(self.root)
        return self._zip[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_zip": None}


def _is_image(name: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.parts)
    return name.suffix.lower() in _SUFFIXES and not hidden


def decode(data: bytes, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One image file as an array.

    Turned upright by its EXIF orientation, transparency laid over white, the largest centred part
    with the aspect of `size` resized to it with antialiasing (nothing is resampled if it fits).

    Args:
        data: Content of the file.
        channels: 1 for grey, 3 for RGB.
        size: Height and width.

    Returns:
        uint8 (channels, H, W).

    Raises:
        Exception: Of any kind, if the file is broken.
    """
    from PIL import Image, ImageOps

    height, width = size
    with Image.open(io.BytesIO(data)) as opened:
        # A JPEG is decoded at the smallest scale of 1/1..1/8 that is at least twice the target.
        opened.draft(None, (2 * max(size), 2 * max(size)))
        image: Image.Image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif image.mode in ("I", "F"):
            raise ValueError(f"its mode {image.mode} has no fixed range of grey levels")
        if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        image = image.convert("L" if channels == 1 else "RGB")
        image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
        array = np.asarray(image, dtype=np.uint8)
    return array.reshape(height, width, channels).transpose(2, 0, 1)


class LazyImages:
    """Images that are decoded when a batch asks for them.

    Args:
        names: The files.
        labels: Their classes (N,).
        read: Decodes one file to uint8 (C, H, W).
        refuse: Whether a broken file is an error; else the next readable file takes its place.
    """

    def __init__(
        self, names: list[str], labels: Tensor, read: Callable[[str], Any], refuse: bool
    ) -> None:
        self.names, self.labels, self.read, self.refuse = names, labels, read, refuse
        self.broken: set[int] = set()

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
                    f"{self.names[i]} is broken ({error}): the next image takes its place",
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
            return torch.stack(
                [image for _, image in pool.map(self._item, range(len(self))[:count])]
            )


def refusal(broken: list[tuple[str, Exception]]) -> ValueError:
    """The error that names the first of the broken files, with its reason, and the fix."""
    (name, error), more = broken[0], len(broken) - 1
    others = f" and {more} more are" if more else " is"
    return ValueError(
        f"{name}{others} broken ({error}): remove them, or leave them out with --data.broken skip"
    )
