"""The files of MNIST (IDX), CIFAR-10 (pickled batches) and STL-10, read without running code."""

import gzip
import math
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.waiting import waiting

_MOST_EXPANSION = 1032  # bytes that deflate makes of one, at most
_CIFAR_BYTES = 1 << 27  # four times a batch file of CIFAR-10


def _empty(*_: object) -> np.ndarray:
    """What numpy's pickles begin an array with, whatever size they ask for."""
    return np.empty(0, np.uint8)


def find_idx(folder: Path, name: str) -> Path | None:
    """The IDX file `name` or `name`.gz in `folder`, if there is one."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def read_idx(path: Path) -> Tensor:
    """An IDX file of unsigned bytes, gzipped or not.

    The layout is 0, 0, the type (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian uint32, and the values.

    Returns:
        uint8, of the shape that the file states.

    Raises:
        ValueError: The file is not IDX, or shorter than it states.
    """
    length = path.stat().st_size
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zeros, kind, ndim = struct.unpack(">HBB", file.read(4))
            if (zeros, kind) != (0, 8):
                raise ValueError(f"{path} is not an IDX file of unsigned bytes: fetch it again")
            shape = struct.unpack(f">{ndim}I", file.read(4 * ndim))
            count, room = math.prod(shape), length - file.tell()
            if path.suffix == ".gz":
                room = length * _MOST_EXPANSION
            if count > room:
                raise ValueError(f"{path} holds {max(room, 0)} of {shape} values: fetch it again")
            data = file.read(count + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(
            f"{path} cannot be read as an IDX file ({error}): fetch it again"
        ) from error
    if len(data) != count:
        held = "more than" if len(data) > count else f"{len(data)} of"
        raise ValueError(f"{path} holds {held} {shape} values: fetch it again")
    return torch.from_numpy(np.frombuffer(data, np.uint8).reshape(shape).copy())


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays, dicts, lists, strings and numbers; anything else is refused."""

    _allowed = {  # noqa: RUF012
        ("multiarray", "_reconstruct"): _empty,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module: str, name: str) -> Any:
        """The one function that numpy's pickles need, wherever that numpy version kept it."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "multiarray"
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return self._allowed[module, name]


def read_cifar_batch(path: Path) -> tuple[Tensor, Tensor]:
    """One batch file of the Python version of CIFAR-10.

    Returns:
        Images uint8 (N, 3, 32, 32) and labels int64 (N,).

    Raises:
        ValueError: The file is broken, or holds anything but arrays, lists and strings.
    """
    try:
        if (length := path.stat().st_size) > _CIFAR_BYTES:
            raise ValueError(f"{length:,} bytes")
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="latin1").load()
        images = torch.from_numpy(np.array(batch["data"], np.uint8)).view(-1, 3, 32, 32)
        labels = torch.tensor(batch["labels"], dtype=torch.int64)
        if labels.shape != images.shape[:1] or not ((labels >= 0) & (labels < 10)).all():
            raise ValueError(f"its {len(images)} images have not a label of 0 to 9 each")
        return images, labels
    except Exception as error:  # a broken pickle can raise nearly anything
        raise ValueError(f"{path} is not a CIFAR-10 batch ({error}): fetch it again") from error


def read_stl(path: Path, size: int, chunk: int = 1000) -> Tensor:
    """Images of a binary file of STL-10, which are 96x96, at another size.

    Bilinear with antialiasing, as torchvision's `Resize` of a PIL image; in chunks, because the
    unlabeled images take 2.8 GB at their own size.

    Args:
        path: The file: every image 3 planes, each column by column.
        size: Side to resize to.
        chunk: Images at a time.

    Returns:
        uint8 (N, 3, size, size).

    Raises:
        ValueError: The file does not hold whole images.
    """
    if (length := path.stat().st_size) == 0 or length % (3 * 96 * 96):
        raise ValueError(f"{path} of {length} bytes does not hold whole STL-10 images: fetch again")
    columns = np.memmap(path, np.uint8, mode="r").reshape(-1, 3, 96, 96)
    parts = []
    for start in waiting(range(0, len(columns), chunk), "resize", unit=f"times {chunk} pictures"):
        images = torch.from_numpy(columns[start : start + chunk].swapaxes(2, 3).copy())
        parts.append(F.interpolate(images, (size, size), mode="bilinear", antialias=True))
    return torch.cat(parts)
