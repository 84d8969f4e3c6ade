"""Pictures in shards: members of tar archives (WebDataset's too), rows of Parquet and Arrow.

Shards are indexed, so that pictures are read in any order: of a tar its headers are read once, of a
table the labels.
"""

import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from threading import RLock
from typing import Any, NamedTuple

from zoo.data.images.layout import split_of
from zoo.data.splits import split_named
from zoo.reading import needed

SUFFIXES = (".tar", ".parquet", ".arrow")
_NUMBERED = re.compile(r"(.*?)(\d+)(-of-(\d+))?(\.[a-z]+)")
_PICTURES = re.compile(r"(?:struct<.*\bbytes: )?(?:large_)?binary\b.*")  # types of Arrow
_BLOCK = 512  # bytes of a tar's header


class Place(NamedTuple):
    """Where a picture is: a byte of a tar and how many, or a row group of a table and a row."""

    shard: str
    first: int
    second: int


def check_numbers(shards: Iterable[Path]) -> None:
    """Refuses shards whose numbers have a gap: of 5 all, and others from 0 or 1 to their last.

    Raises:
        FileNotFoundError: One is missing.
    """
    groups: dict[Any, dict[int, Path]] = defaultdict(dict)
    for shard in shards:
        if match := _NUMBERED.fullmatch(shard.name):
            key = (shard.parent, match[1], match[4], len(match[2]))
            groups[key][int(match[2])] = shard
    for (_, _, of, width), group in groups.items():
        low, high = min(group), max(group)
        if of:
            low = int(int(of) in group)  # they may count from 1
            high = low + int(of) - 1
        gap = next((n for n in range(low, high + 1) if n not in group), None)
        if low <= 1 and gap is not None:
            some = group[max(group)]
            number = _NUMBERED.fullmatch(some.name)
            assert number is not None
            name = f"{number[1]}{gap:0{width}}{number[3] or ''}{number[5]}"
            raise FileNotFoundError(
                f"{some.parent / name} is missing: fetch it, or name those that are there as "
                f"--data.root '{some.parent}/{number[1]}{{A,B,...}}{number[3] or ''}{number[5]}'"
            )


def members(
    shards: list[Path], root: Path, is_image: Callable[[str, Place], bool]
) -> Iterator[tuple[str, Place, bool]]:
    """The pictures of shards, in the order in which they lie.

    Args:
        shards: The files.
        root: What they are of: their folder, or the only one.
        is_image: Whether a member of a tar, by its name and place, is a picture.

    Yields:
        A path as of a folder, with split and class for folders; the place; whether its class is
        that of a label, not a folder.

    Raises:
        ValueError: A shard is cut off, damaged, or has no column of pictures.
    """
    for shard in shards:
        above = shard.relative_to(root).parent.parts if root.is_dir() else ()
        split = None if any(map(split_of, above)) else split_named(shard.stem)
        folders = [*above, *([split] if split else [])]
        prefix = "" if shard == root and shard.suffix.lower() == ".tar" else f"{shard.stem}:"
        table = shard.suffix.lower() != ".tar"
        for name, label, place in _rows(shard) if table else _of_tar(shard, is_image):
            path = PurePosixPath(name)
            inner = path.parts[:-1] if label is None else (label.replace("/", "_"),)
            yield "/".join([*folders, *inner, f"{prefix}{path.name}"]), place, label is not None


def _of_tar(
    shard: Path, is_image: Callable[[str, Place], bool]
) -> Iterator[tuple[str, str | None, Place]]:
    """The pictures of a tar, each with the number in the .cls of its name or, else, of its key.

    A key that has several numbers gives none: a_0.25.png and a_0.50.png have one key, a_0.
    """
    found, own, of_key = [], dict[str, str](), dict[str, set[str]]()
    try:
        with tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which would hold all
                place = Place(str(shard), member.offset_data, member.size)
                if not member.isreg():
                    continue
                if member.name.endswith(".cls"):
                    file.seek(member.offset_data)
                    text = file.read(min(member.size, 20))
                    number = _number(text, f"{shard}: {member.name}")
                    own[member.name.removesuffix(".cls")] = number
                    of_key.setdefault(_key(member.name), set()).add(number)
                else:
                    found.append((member.name, place))
            # Behind the last member tarfile takes anything for the end.
            file.seek(tar.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError("no end")
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{shard} is cut off, damaged or no plain .tar: fetch it again") from error
    for name, place in found:
        if is_image(name, place):
            numbers = of_key.get(_key(name), set())
            one = next(iter(numbers)) if len(numbers) == 1 else None
            yield name, own.get(name.rpartition(".")[0], one), place


# An open Parquet file serves one thread at a time, and pictures are decoded by several.
_one_reader = RLock()


def _key(name: str) -> str:
    """What the files of a sample share: all before the first dot of the name."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _number(text: bytes, where: str) -> str:
    try:
        return str(int(text))
    except ValueError as error:
        raise ValueError(f"{where} holds {text!r}, not the number of a class") from error


def _rows(shard: Path) -> Iterator[tuple[str, str | None, Place]]:
    """The rows of a table: the column of pictures, and label or cls for their class."""
    table, suffix, schema = _table(str(shard)), shard.suffix.lower(), _schema(str(shard))
    label = _label(schema)
    _column(schema, shard)
    row = 0
    if suffix == ".parquet":
        meta = table.metadata
        counts = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
    else:
        counts = [table.num_rows]
    for group, count in enumerate(counts):
        values = _values(str(shard), group, label).to_pylist() if label else [None] * count
        for number, value in enumerate(values):
            # Hubs write -1 for a class that is kept back.
            hidden = value is None or value == -1 or value != value  # NaN
            name = None if hidden else str(value)
            yield f"{row}{suffix}", name, Place(str(shard), group, number)
            row += 1


def _label(schema: Any) -> str | None:
    """The column that holds the classes."""
    return next((n for n in ("label", "labels", "cls", "class") if n in schema.names), None)


def unread(shard: Path) -> list[str]:
    """The columns of a table that are neither its pictures nor their classes."""
    if shard.suffix.lower() == ".tar":
        return []
    schema = _schema(str(shard))
    read = {_column(schema, shard), _label(schema)}
    return [str(field.name) for field in schema if field.name not in read]


def _schema(shard: str) -> Any:
    """The columns of a table, as Arrow has them."""
    table = _table(shard)
    return table.schema if shard.lower().endswith(".arrow") else table.schema_arrow


def _column(schema: Any, shard: Any) -> str:
    """The column that holds the files of pictures."""
    found = [field.name for field in schema if _PICTURES.fullmatch(str(field.type))]
    named = [name for name in found if name.lower() in ("image", "img", "jpg", "png", "webp")]
    if len(found) != 1 and len(named) != 1:
        raise ValueError(
            f"{shard} has {len(found)} columns of pictures' bytes ({', '.join(schema.names)}): "
            "keep one, and call it image"
        )
    return (named if len(named) == 1 else found)[0]


def _table(shard: str) -> Any:
    """A Parquet file, open, or the table of an Arrow file, mapped."""
    return _opened(shard, *_stamp(shard))


def _stamp(shard: str) -> tuple[int, int]:
    status = os.stat(shard)
    return status.st_mtime_ns, status.st_size


@lru_cache(8)
def _opened(shard: str, *_: int) -> Any:
    needed("pyarrow", f"{shard} is read")
    import pyarrow
    import pyarrow.parquet

    try:
        if not shard.lower().endswith(".arrow"):
            return pyarrow.parquet.ParquetFile(shard, memory_map=True)
        data = pyarrow.memory_map(shard)
        if data.read(6) == b"ARROW1":
            return pyarrow.ipc.open_file(data).read_all()
        data.seek(max(data.size() - 8, 0))
        if data.read(8) != b"\xff\xff\xff\xff\0\0\0\0":
            raise pyarrow.ArrowInvalid("no end")
        data.seek(0)
        return pyarrow.ipc.open_stream(data).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{shard} is cut off or damaged: fetch it again") from error


def _values(shard: str, group: int, column: str) -> Any:
    table = _table(shard)
    if shard.lower().endswith(".arrow"):
        return table[column]
    with _one_reader:
        return table.read_row_group(group, columns=[column], use_threads=False)[column]


@lru_cache(2)
def _pictures(shard: str, group: int, *_: int) -> Any:
    return _values(shard, group, _column(_schema(shard), shard))


def read(place: Place, most: int | None = None) -> bytes:
    """The bytes of a picture's file, or the first so many.

    Raises:
        ValueError: There are none, or less than there were.
    """
    if place.shard.lower().endswith(".tar"):
        with open(place.shard, "rb") as file:
            file.seek(place.first)
            return file.read(place.second if most is None else min(most, place.second))
    with _one_reader:
        pictures = _pictures(place.shard, place.first, *_stamp(place.shard))
    value = pictures[place.second].as_py()
    data = value.get("bytes") if isinstance(value, dict) else value
    if data is None:
        raise ValueError("its row holds no bytes")
    return bytes(data)
