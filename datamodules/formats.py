"""The file formats of MNIST (IDX) and CIFAR-10 (pickled batches), read without running code."""

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read()
        zeros, kind, ndim = struct.unpack_from(">HBB", data)
        if (zeros, kind) != (0, 8):
            raise ValueError(f"{path} is not an IDX file of unsigned bytes: fetch it again")
        shape = struct.unpack_from(f">{ndim}I", data, 4)
    except (OSError, EOFError, struct.error) as error:
        raise ValueError(f"{path} cannot be read as an IDX file ({error})") from error
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * ndim)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} holds {values.size} of {shape} values: fetch it again")
    return torch.from_numpy(values.reshape(shape).copy())


class _ArraysOnly(pickle.Unpickler):
    """Unpickles arrays, dicts, lists, strings and numbers; anything else is refused."""

    _allowed = {  # noqa: RUF012
        ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
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
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="latin1").load()
        images = torch.from_numpy(np.array(batch["data"], np.uint8)).view(-1, 3, 32, 32)
        return images, torch.tensor(batch["labels"])
    except Exception as error:  # a broken pickle can raise nearly anything
        raise ValueError(f"{path} is not a CIFAR-10 batch ({error}): fetch it again") from error
