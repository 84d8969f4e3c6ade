"""Reading files that others wrote: no code is run, and no more memory taken than their length.

Every reader ends with what it promises or with a ValueError that names the file.
"""

import hashlib
import json
import pickle
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

_DEPTH, _NODES = 64, 1_000_000
_JSON_BYTES = 2**28  # a tokenizer.json of a million tokens has a tenth of that
_CHUNK = 2**20


def check_regular(path: Path) -> None:
    """Raises if `path` is no regular file, such as a FIFO, which would never end."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")


def check_plain(value: Any, what: str, *, tensors: bool = False) -> None:
    """Raises unless `value` is made of dicts, lists, text, numbers, truth values and None.

    Aliases count as often as they are met, so that a few bytes cannot stand for gigabytes. With
    `tensors` these are taken, too; `what` is the value's name in the ValueError.
    """
    kinds = (str, int, float, type(None), *((Tensor,) if tensors else ()))
    left, seen = [(value, 0)], 0
    while left:
        item, depth = left.pop()
        seen += 1
        if seen > _NODES or depth > _DEPTH:
            raise ValueError(f"{what} is nested too deeply or too large")
        if isinstance(item, dict):
            if not all(isinstance(key, str | int | float) for key in item):
                raise ValueError(f"{what} has keys that are neither text nor numbers")
            left += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list | tuple):
            if len(item) > _NODES:
                raise ValueError(f"{what} is nested too deeply or too large")
            left += [(inner, depth + 1) for inner in item]
        elif isinstance(item, int) and abs(item) >= 2**64:
            raise ValueError(f"{what} holds a number of {item.bit_length()} bits")
        elif not isinstance(item, kinds):
            raise ValueError(f"{what} holds a {type(item).__name__}")


def read_json(path: Path) -> Any:
    """What a JSON file holds, which is not nested too deeply."""
    check_regular(path)
    if path.stat().st_size > _JSON_BYTES:
        raise ValueError(f"{path} is too large for a JSON file of this kind")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    left, depth = [value], 0
    while left:  # level by level; its size is bounded by the file's
        depth += 1
        if depth > _DEPTH:
            raise ValueError(f"{path} is nested too deeply")
        left = [
            inner
            for item in left
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file."""
    check_regular(path)
    try:
        return load_file(path)
    except Exception as error:  # its own errors, and those of a name or a dtype that it lacks
        short = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(f"{path} is damaged: {short}") from error


def read_torch(path: Path, *, mmap: bool = False) -> Any:
    """What a file of `torch.save` holds: tensors and plain values only, on the CPU.

    The checksums that the file carries are compared with what is there.

    Args:
        path: The file.
        mmap: Map the tensors instead of reading them.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or holds pickled objects, which could run code.
    """
    check_regular(path)
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        stat = path.stat()
        _verify(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)
    elif start[:1] != b"\x80":  # torch before 1.6 wrote a bare pickle, without checksums
        raise ValueError(f"{path} is cut off or not a checkpoint")
    else:
        mmap = False
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        what = str(error)
        if "Unsupported global" in what or "weights_only" in what.lower():
            name = what.split("GLOBAL ")[-1].split()[0] if "GLOBAL " in what else "an object"
            raise ValueError(
                f"{path} holds pickled code ({name}) and was refused: a checkpoint may hold only "
                "tensors and plain values"
            ) from error
        raise ValueError(f"{path} is cut off or not a checkpoint") from error
    except PermissionError:
        raise
    except Exception as error:  # whatever a pickle made of other bytes leads to
        raise ValueError(f"{path} is cut off or not a checkpoint") from error


def check_tensors(tensors: Any, what: str, length: int) -> dict[str, Tensor]:
    """Tensors by name, once they are no larger than the `length` of the file that they come from.

    Two names may share a tensor, more would be a way to ask for memory without end.
    """
    if not isinstance(tensors, dict):
        raise ValueError(f"{what} is a {type(tensors).__name__}, not tensors by name")
    total = 0
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"{what} holds {name!r}, a {type(tensor).__name__}: not a named tensor"
            )
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f"{what} holds {name!r}, which is no dense tensor")
        total += tensor.nbytes
        if tensor.nbytes > length or total > 4 * length:
            raise ValueError(f"{what} holds {name!r}, which is larger than its file")
    return dict(tensors)


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=8)
def _verify(path: Path, *version: int) -> None:
    """Compares every entry of a zip with its checksum, once for each version of the file."""
    name = "its directory"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or len(names) < len(entries):  # torch writes neither
                raise ValueError(f"{path} is not a checkpoint: its zip has entries of another kind")
            for entry in entries:
                name = entry.filename
                with archive.open(entry) as file:
                    while file.read(_CHUNK):
                        pass
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        if "CRC" in str(error):
            raise ValueError(f"{path} is damaged: the checksum of {name} is wrong") from error
        raise ValueError(f"{path} is cut off or not a checkpoint") from error
