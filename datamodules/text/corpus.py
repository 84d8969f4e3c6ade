"""A corpus of any size as pieces that are read apart: bytes of text and JSONL, rows of tables."""

import mmap
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, get_args

from zoo.data.cache import key_of, stamp
from zoo.data.protocols import Split
from zoo.data.splits import SPLIT_WORDS
from zoo.data.text.files import STREAM, FileKind, kind_of, ranges_of, text_files
from zoo.files import replacing
from zoo.reading import decoded, needed, opened, parsed, read_bytes

_PART = 2**22  # bytes that are copied, or of a stream's piece


class Piece(NamedTuple):
    """A part of a file, of which one process makes numbers."""

    split: Split
    kind: FileKind
    path: str
    """What is read, unpacked."""
    name: str
    """What a message calls it."""
    begin: int
    """Where the split's part of the file begins and ends: bytes, or rows."""
    end: int
    first: int
    """Where about the piece does."""
    last: int
    texts: tuple[str, ...] = ()
    """The documents of a stream."""


class Corpus:
    """The files of a text and their splits.

    Args:
        root: As `--data.root`, or `hf:NAME` for what `datasets` streams.
        column: Of JSONL, tables and data sets: where the text is.
        by_line: Whether no split may cut a line, or where there are few a word or a character.
        unpacked: Folder for what packed files hold, which must not vanish before the last piece.

    Raises:
        FileNotFoundError: There is no text.
        ValueError: A file is damaged, or has no such column.
    """

    def __init__(self, root: str, column: str, by_line: bool, unpacked: Path) -> None:
        for kept in (mapped, load_dataset, parquet):  # the files may be others by now
            kept.cache_clear()
        self.root, self.column, self.unpacked = root, column, unpacked
        self.ends: tuple[bytes | None, ...] = (b"\n", b" \t\n", None) if by_line else ()
        self.kind = kind_of(root)
        self.whole: list[Piece] = [] if self.kind == "stream" else list(self._parts())

    def _parts(self) -> Iterator[Piece]:
        """The part that each split has of each file."""
        found: Any = saved_dataset(self.root) or text_files(self.root)
        some = next(iter(found.values())) if isinstance(found, dict) else found
        kind = kind_of(some[0])
        if isinstance(found, dict):
            for split in get_args(Split):
                for file in found[split]:
                    path = self._unpack(file)
                    size = self._size(path, kind)
                    yield Piece(split, kind, path, str(file), 0, size, 0, size)
            return
        paths = [self._unpack(file) for file in found]
        for split in get_args(Split):
            for number, first, last in self._ranges(paths, kind, split):
                name = str(found[number])
                yield Piece(split, kind, paths[number], name, first, last, first, last)

    def _unpack(self, file: Any) -> str:
        if Path(file).suffix.lower() not in (".gz", ".zst"):
            return str(file)
        # Named after what it is of: a call that was stopped may have been for another text.
        key = key_of([str(Path(file).resolve()), *stamp(Path(file))])
        target = self.unpacked / f"unpacked-{key}"
        if not target.is_file():
            with opened(file) as (source, most), replacing(target) as path, path.open("wb") as sink:
                shutil.copyfileobj(source, sink, _PART)
                if sink.tell() > most:
                    raise ValueError(f"{file} unpacks to too much for a text: unpack it yourself")
        return str(target)

    def _size(self, path: str, kind: FileKind) -> int:
        return len(_Content(path)) if kind in ("text", "jsonl") else rows_of(kind, path)

    def _ranges(self, paths: list[str], kind: FileKind, split: Split) -> list[tuple[int, int, int]]:
        if kind == "text":
            return ranges_of([_Content(path) for path in paths], split, self.ends)
        if kind == "jsonl":
            return ranges_of([_Content(path) for path in paths], split, (b"\n",))
        return ranges_of([range(rows_of(kind, path)) for path in paths], split, ())

    def pieces(self, step: int) -> Iterator[Piece]:
        """All pieces, in order; those of text about `step` bytes."""
        if self.kind == "stream":
            yield from self._streamed()
        for part in self.whole:
            bounds = [*range(part.begin, part.end, step), part.end]
            if part.kind == "parquet":
                bounds = _groups(part)
            elif part.kind == "dataset":
                bounds = [*range(part.begin, part.end, 1000), part.end]
            for first, last in pairwise(bounds):
                yield part._replace(first=first, last=last)

    def _streamed(self) -> Iterator[Piece]:
        """The documents of a stream, of which the text alone says the split: 90, 5 and 5 of 100."""
        name, _, config = self.root.removeprefix(STREAM).partition(":")
        library = needed("datasets", f"{self.root} is streamed")
        streams = library.load_dataset(name, config or None, streaming=True)
        names = _by_split(streams, self.root)
        for own, stream in names.items():
            texts: dict[Split, list[str]] = {split: [] for split in get_args(Split)}
            size = 0
            for row in streams[stream]:
                text = text_in(row, self.column, self.root)
                place = max(zlib.crc32(text.encode()) % 20 - 17, 0)
                texts[own if len(names) > 1 else get_args(Split)[place]].append(text)
                size += len(text)
                if size > _PART:
                    yield from self._of_stream(texts)
                    size = 0
            yield from self._of_stream(texts)

    def _of_stream(self, texts: dict[Split, list[str]]) -> Iterator[Piece]:
        for split, group in texts.items():
            size = sum(map(len, group))
            if group:
                yield Piece(split, "stream", "", self.root, 0, size, 0, size, tuple(group))
            group.clear()


def saved_dataset(root: str | Path) -> dict[Split, list[str]] | list[str] | None:
    """The folders that `save_to_disk` of the library `datasets` wrote; None where it did not."""
    index = Path(root, "dataset_dict.json")
    if index.is_file():
        names = _by_split(parsed(decoded(read_bytes(index), index)).get("splits", []), str(root))
        paths = {split: [str(Path(root, name))] for split, name in names.items()}
        return paths["train"] if len(paths) == 1 else paths
    return [str(root)] if Path(root, "state.json").is_file() else None


def _by_split(names: Iterable[str], what: str) -> dict[Split, str]:
    """Which of the names is which split: of all three, or train alone."""
    known = {name.lower(): name for name in names}
    named = {split: known[word] for word, split in SPLIT_WORDS.items() if word in known}
    if len(named) != len(get_args(Split)) and list(named) != ["train"]:
        raise ValueError(
            f"{what} has the splits {', '.join(known.values())}: it needs train, validation and "
            "test, or train alone"
        )
    return {split: named[split] for split in get_args(Split) if split in named}


@lru_cache(8)
def load_dataset(path: str) -> Any:
    """What `datasets` saved in a folder, mapped by it."""
    return needed("datasets", f"{path} is read").load_from_disk(path)


@lru_cache(64)
def mapped(path: str) -> Any:
    """The bytes of a file, of which memory holds what is used."""
    with open(path, "rb") as file:
        if not Path(path).stat().st_size:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Content:
    """The bytes of a file, which is mapped when they are looked at: a process may open few files.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path, self.size = path, Path(path).stat().st_size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> int:
        return int(mapped(self.path)[place])

    def find(self, part: bytes, start: int) -> int:
        """The first place from `start` on where these bytes are; -1 if they are not."""
        return int(mapped(self.path).find(part, start))


@lru_cache(8)
def parquet(path: str) -> Any:
    """A Parquet file, open."""
    needed("pyarrow", f"{path} is read")
    import pyarrow.parquet

    with sound(path):
        return pyarrow.parquet.ParquetFile(path, memory_map=True)


@contextmanager
def sound(path: str) -> Iterator[None]:
    """Makes what pyarrow says of a damaged file a ValueError that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:  # OSError of what it cannot unpack
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is cut off, damaged or not Parquet") from error


def rows_of(kind: FileKind, path: str) -> int:
    """How many rows a table or a saved data set has."""
    if kind == "dataset":
        return len(load_dataset(path))
    return int(parquet(path).metadata.num_rows)


def _groups(part: Piece) -> list[int]:
    """Rows at which the row groups of a Parquet file begin, inside of a part."""
    metadata, starts = parquet(part.path).metadata, [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    inner = [start for start in starts if part.begin < start < part.end]
    return [part.begin, *inner, part.end]


def text_in(row: Any, column: str, where: str) -> str:
    """The text of a row.

    Raises:
        ValueError: It has none in this column.
    """
    if isinstance(row, dict) and isinstance(row.get(column), str):
        return str(row[column])
    known = [name for name, value in row.items() if isinstance(value, str)] if row else []
    raise ValueError(
        f"{where}: no text in the column {column!r}: name it with --column or --data.column"
        + (f" (there are {', '.join(map(str, known[:10]))})" if known else "")
    )
