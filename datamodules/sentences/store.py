"""What a DataModule of sentences has read, kept in files that are mapped: a cache of items.

A process of its own reads the files, by the way that serves small ones but with its rows on disk,
and writes what it has; the others map that. So the items and their order are the same, and every
refusal.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from zoo.data.cache import INDEX
from zoo.data.sentences.files import Labelled
from zoo.data.sentences.mapped import MappedTexts, TextsWriter, mapped, span
from zoo.files import naming, replacing
from zoo.reading import decoded, parsed, read_bytes
from zoo.waiting import waiting

Kind = Literal["group", "pair", "text"]
_AGAIN = "remove the folder, and it is made again"


class Items(NamedTuple):
    """Items of one kind, as they are written."""

    kind: Kind
    items: Sequence[Any]
    family: Sequence[int] = ()
    """A number of each group."""


class MappedItems(Sequence[Any]):
    """Groups, labelled pairs or single texts, of which memory holds what is used.

    Args:
        stem: Path of their files without suffixes.
        kind: What an item is.
    """

    def __init__(self, stem: Path, kind: Kind) -> None:
        self._made = stem, kind
        self.kind, self._texts = kind, MappedTexts(stem)
        self._ends = mapped(f"{stem}.rows", "<i8")
        self._numbers = mapped(f"{stem}.numbers", "<f8").reshape(-1, 2)
        self.lengths = mapped(f"{stem}.lengths", "<i4")
        """Characters of the longest text of each."""

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedItems, self._made

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        start, stop = span(self._ends, i)
        if not 0 <= start < stop <= len(self._texts) or (self.kind == "pair" and stop - start != 2):
            raise ValueError(f"{self._made[0]}.rows is damaged at {i}: {_AGAIN}")
        texts = self._texts[start:stop]
        if self.kind == "pair":
            (a, b), (label, task) = texts, self._numbers[i].tolist()
            return Labelled(a, b, label, int(task))
        return texts if self.kind == "group" else texts[0]

    @property
    def family(self) -> "Families":
        """The number of each group."""
        return Families(self)


class Families(Sequence[int]):
    """The numbers of mapped groups.

    Args:
        items: The groups.
    """

    def __init__(self, items: MappedItems) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: Any) -> Any:
        return int(self._items._numbers[i, 0])


def _write(stem: Path, found: Items) -> None:
    """Writes items, with a bar."""
    numbers = iter(found.family)
    with TextsWriter(stem) as texts, _Columns(stem) as columns:
        ends = 0
        for item in waiting(found.items, f"write {stem.name}"):
            row: Sequence[str] = item if found.kind == "group" else [item]
            first, second = 0.0, 0.0
            if found.kind == "pair":
                *row, first, second = item
            elif len(found.family):
                first = next(numbers)
            for text in row:
                texts.add(text)
            ends += len(row)
            columns.add(ends, (first, second), max(map(len, row)))


class _Columns:
    def __init__(self, stem: Path) -> None:
        self._files = [open(f"{stem}.{name}", "wb") for name in ("rows", "numbers", "lengths")]  # noqa: SIM115

    def __enter__(self) -> "_Columns":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def add(self, *row: Any) -> None:
        for file, value, dtype in zip(self._files, row, ("<i8", "<f8", "<i4"), strict=True):
            file.write(np.array(value, dtype).tobytes())


def write(home: Path, sets: dict[str, Items], made: dict[str, Any], known: dict[str, Any]) -> None:
    """Writes all sets into a folder, and last what makes it whole.

    Args:
        home: The folder; what it had before goes, and who has mapped that keeps it.
        sets: The items by name.
        made: What they are made of.
        known: What else is to be known of them.
    """
    (home / INDEX).unlink(missing_ok=True)  # before what it tells of is gone
    for file in home.iterdir():
        if not file.name.startswith("."):
            file.unlink()
    with naming(home):
        for name, found in sets.items():
            _write(home / name, found)
        files = [(f.name, f.stat().st_size) for f in home.iterdir() if f.name[0] != "."]
        kinds = {name: found.kind for name, found in sets.items()}
        index = {"made": made, "known": known, "kinds": kinds, "files": files}
        with replacing(home / INDEX) as path:
            path.write_text(json.dumps(index), "utf-8")


def read(home: Path, made: dict[str, Any]) -> tuple[dict[str, MappedItems], dict[str, Any]] | None:
    """The sets of a folder and what is known of them; None if it has none of what was made so.

    Raises:
        FileNotFoundError: A file of it is missing.
        ValueError: A file of it is damaged.
    """
    path = home / INDEX
    if not path.is_file():
        return None
    try:
        index = parsed(decoded(read_bytes(path), path))
        if index["made"] != made:
            return None
        kinds, known = dict(index["kinds"]), index["known"]
        sizes = {home / name: int(size) for name, size in index["files"]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {_AGAIN}") from error
    for file, size in sizes.items():
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {_AGAIN}")
        if file.stat().st_size != size:
            raise ValueError(f"{file} is cut off or changed: {_AGAIN}")
    return {name: MappedItems(home / name, kind) for name, kind in kinds.items()}, known


def total(items: Iterable[Path]) -> int:
    """Bytes of files, unpacked as text usually does."""
    return sum(f.stat().st_size * (4 if f.suffix in (".gz", ".zst") else 1) for f in items)
