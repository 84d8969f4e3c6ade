"""Checkpoints in several files: what all processes have in one, and what each has in its own.

The head, such as last.ckpt, is a checkpoint like any other, but for the tensors that are spread
over processes, of which it has the shapes alone (meta tensors). Their parts are in a folder beside
it, written by torch.distributed.checkpoint, and the head says where. So a head that is replaced
replaces the whole, and the pickle `.metadata`, which other tools read, is never unpickled here.
"""

import io
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from zoo.files import naming, temporary_beside

SHARDS = "shards"
"""The head's key of its folder and of the parts' places."""
SPREAD = ("state_dict", "current_model_state", "optimizer_states")
"""What of a checkpoint is spread over processes."""
HEAD = "meta.pt"
"""A second name of the head, in the folder, which so is whole by itself."""
Leaf = Callable[[tuple[Any, ...], Any], Any]


def mapped(tree: Any, leaf: Leaf, path: tuple[Any, ...] = ()) -> Any:
    """A checkpoint with `leaf(path, value)` for each value that is neither dict nor list."""
    if isinstance(tree, dict):
        return {key: mapped(value, leaf, (*path, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [mapped(value, leaf, (*path, i)) for i, value in enumerate(tree)]
    return leaf(path, tree)


def is_spread(value: Any) -> bool:
    """Whether a value is a tensor of which each process holds a part."""
    return hasattr(value, "full_tensor")


def is_shape(value: Any) -> bool:
    """Whether a value stands for a tensor of the shards."""
    return isinstance(value, Tensor) and value.is_meta


def without_shapes(checkpoint: dict[str, Any], tensors: Any) -> Any:
    """Those of a checkpoint's named tensors that a head holds itself."""
    if SHARDS not in checkpoint or not isinstance(tensors, dict):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if not is_shape(tensor)}


def new_folder(file: Path, step: int) -> tuple[Path, Path]:
    """Where the shards of a checkpoint are to be, and where they are written before."""
    names = (f"step={step}{f'-{n}' if n else ''}.{SHARDS}" for n in range(10**9))
    folder = next(f for name in names if not (f := file.parent / name).exists())
    return folder, temporary_beside(folder)


def write_shards(
    checkpoint: dict[str, Any], file: Path, folder: Path, temporary: Path, *, first: bool
) -> None:
    """Writes a checkpoint of which each process holds a part; all processes call this together.

    Args:
        checkpoint: The checkpoint; what is no distributed tensor is the same on all of them.
        file: The head's path, which is replaced when all else is written.
        folder: The shards' folder beside it, which is new.
        temporary: What it is called before it is whole.
        first: Whether this process writes the head.

    Raises:
        OSError: A process could not write its part; what was there is as it was.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    parts: dict[str, Any] = {}

    def shape(path: tuple[Any, ...], value: Any) -> Any:
        if not is_spread(value):
            return value
        parts[_key(path)] = value
        return torch.empty(value.shape, dtype=value.dtype, device="meta")

    head = mapped(checkpoint, shape)
    try:
        with naming(file):
            temporary.mkdir(parents=True, exist_ok=True)
            written = _together(save, parts, storage_writer=FileSystemWriter(temporary))
            if not first:
                return
            head[SHARDS] = {"folder": folder.name, "parts": _places(written)}
            with (temporary / HEAD).open("wb") as stream:
                torch.save(head, stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, folder)
            os.link(folder / HEAD, temporary_beside(file))
            os.replace(temporary_beside(file), file)
    finally:
        if first:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_unnamed(folder: Path) -> None:
    """Removes the shards in a folder of which no checkpoint there is the head."""
    named = set()
    for file in folder.glob("*.ckpt") if (found := [*folder.glob(f"*.{SHARDS}")]) else []:
        try:
            head = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            named.add(head.get(SHARDS, {}).get("folder"))
        except Exception:  # somebody's own, which may be the head of any of them
            return
    for path in found:
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def check_shards(checkpoint: dict[str, Any], file: Path) -> None:
    """Compares the shards with the head `file` that holds `checkpoint`, if it is one.

    Raises:
        FileNotFoundError: A file of them is missing.
        ValueError: One is cut off, or they are not those of the tensors.
    """
    if SHARDS not in checkpoint:
        return
    folder, parts = _described(checkpoint, file)
    lengths: dict[str, int] = {}
    for places in parts.values():
        for _, _, name, start, length in places:
            path = folder / name
            if name not in lengths:
                if not path.is_file():
                    raise FileNotFoundError(f"{path} is missing, a shard of {file}")
                lengths[name] = path.stat().st_size
            if start + length > lengths[name]:
                raise ValueError(f"{path} is cut off, a shard of {file}")
    total = sum(lengths.values())

    def measure(path: tuple[Any, ...], value: Any) -> None:
        nonlocal total
        if is_shape(value):
            places = parts.get(_key(path), [])
            volumes = [torch.Size(sizes).numel() for _, sizes, *_ in places]
            inside = all(
                len(at) == len(sizes) == value.ndim
                and all(a + s <= n for a, s, n in zip(at, sizes, value.shape, strict=True))
                for at, sizes, *_ in places
            )
            total -= value.nbytes
            if not inside or sum(volumes) != value.numel() or total < 0:
                raise ValueError(f"{file}: the shards do not make up {_key(path)}")

    mapped(checkpoint, measure)


def read_shards(
    checkpoint: dict[str, Any],
    file: Path,
    keys: Collection[str],
    like: Leaf | None = None,
) -> dict[str, Any]:
    """A checkpoint with the tensors of its shards in the places of their shapes.

    Args:
        checkpoint: What the head `file` holds, checked by `check_shards`.
        file: The head.
        keys: The checkpoint's entries to be filled; others keep the shapes alone.
        like: Makes the tensor that is to be read at a path, on all processes together; without it
            each is whole, on the CPU, and this process reads alone.

    Raises:
        ValueError: A shard is damaged.
    """
    if SHARDS not in checkpoint:
        return checkpoint
    from torch.distributed.checkpoint.state_dict_loader import load

    wanted: dict[str, Any] = {}

    def place(path: tuple[Any, ...], value: Any) -> Any:
        if path[0] not in keys or not is_shape(value):
            return value
        found = like(path, value) if like else torch.zeros(value.shape, dtype=value.dtype)
        return wanted.setdefault(_key(path), found)

    filled = cast(dict[str, Any], mapped(checkpoint, place))
    folder, parts = _described(checkpoint, file)
    try:
        reader = _reader(folder, parts, wanted)
        _together(load, wanted, storage_reader=reader, no_dist=like is None)
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"{folder}: a shard is damaged: {error!r:.200}") from error
    return filled


def _key(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _described(checkpoint: dict[str, Any], file: Path) -> tuple[Path, dict[str, list[Any]]]:
    """The folder of a head's shards, and of each tensor the parts: where they are, in which file.

    A part is its offsets in the tensor, its sizes, file, place there and length.
    """
    match checkpoint[SHARDS]:
        case {"folder": str(name), "parts": dict(parts)} if _in_folder(name):
            good = all(isinstance(places, list) for places in parts.values())
            # A part that stands there twice would take no more bytes, but time.
            good = good and sum(map(len, parts.values())) < file.stat().st_size
            good = good and all(_is_part(part) for places in parts.values() for part in places)
        case _:
            good = False
    if not good:
        raise ValueError(f"{file}: {SHARDS} says not where the parts of the tensors are")
    real = Path(os.path.realpath(file))
    return (real.parent if real.name == HEAD else real.parent / name), parts


def _is_part(part: Any) -> bool:
    match part:
        case [list(at), list(sizes), str(name), int(start), int(length)]:
            numbers = [*at, *sizes, start, length]
            plain = len(numbers) < 100 and all(type(n) is int and 0 <= n < 2**53 for n in numbers)
            return plain and _in_folder(name)
    return False


def _in_folder(name: str) -> bool:
    return Path(name).name == name and name not in ("", "..")


def _places(metadata: Any) -> dict[str, list[Any]]:
    """What `_described` returns, of the Metadata of what was written."""
    parts: dict[str, list[Any]] = {}
    for index, info in metadata.storage_data.items():
        chunks = metadata.state_dict_metadata[index.fqn].chunks
        (sizes,) = (chunk.sizes for chunk in chunks if chunk.offsets == index.offset)
        place = [list(index.offset), list(sizes), info.relative_path, info.offset, info.length]
        parts.setdefault(index.fqn, []).append(place)
    return parts


def _reader(folder: Path, parts: dict[str, list[Any]], wanted: dict[str, Any]) -> Any:
    """A reader of the shards that takes the description of them from the head."""
    from torch.distributed.checkpoint import metadata
    from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageInfo

    described: dict[str, Any] = {}
    stored = {}
    for key, tensor in wanted.items():
        chunks = []
        for at, sizes, name, start, length in parts[key]:
            chunks.append(metadata.ChunkStorageMetadata(torch.Size(at), torch.Size(sizes)))
            stored[metadata.MetadataIndex(key, at)] = _StorageInfo(name, start, length)
        kind = metadata.TensorProperties(tensor.dtype)
        described[key] = metadata.TensorStorageMetadata(kind, tensor.shape, chunks)

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
            return metadata.Metadata(described, storage_data=stored)

        def _slice_file(self, file: Any, sinfo: _StorageInfo) -> Any:
            """The part, a zip, whose checksums PyTorch does not compare."""
            part = io.BytesIO(super()._slice_file(file, sinfo).read())
            try:
                with zipfile.ZipFile(part) as archive:
                    wrong = archive.testzip()
            except Exception:  # a damaged zip can raise nearly anything
                wrong = "its directory"
            if wrong:
                raise ValueError(f"{file.name} is damaged: the checksum of {wrong} is wrong")
            part.seek(0)
            return part

    return Reader(folder)


def _together(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a function of DCP returns; its BaseException becomes the error of the first process."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which it may be
            return function(*args, **kwargs)
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
