"""Texts by numbers: which are the same, and which rows of them have one in common."""

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.waiting import waiting

_PART = 2**20  # digests that are sorted together, and rows that are looked at


def fraction(text: str) -> float:
    """A fixed pseudo-random number in [0, 1) of a text, the same on every machine."""
    digest = blake2b(text.encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


def column(count: int, dtype: Any, folder: Path | None) -> NDArray[Any]:
    """Room for numbers: in memory, or in a file without a name on the disk of a folder.

    Raises:
        OSError: The disk has no room.
    """
    if folder is None or not count:
        return np.zeros(count, dtype)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, count * np.dtype(dtype).itemsize)
        return np.asarray(np.memmap(file, dtype, "r+", shape=(count,)))


class Numbered:
    """Texts by numbers, of which memory holds none: the same text has that of the first such.

    >>> texts = Numbered()
    >>> texts.extend(["a", "b", "a", "c", "b"])
    >>> texts.firsts().tolist()
    [0, 1, 0, 3, 1]

    Args:
        folder: On whose disk their digests lie; in memory if not given.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder, self._count = folder, 0
        self._file = tempfile.TemporaryFile(dir=folder) if folder else None  # noqa: SIM115
        if self._file is not None:
            weakref.finalize(self, self._file.close)
        self._found = bytearray()

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> None:
        """Adds a text."""
        self._found += blake2b(text.encode(), digest_size=16).digest()
        self._count += 1
        if self._file is not None and len(self._found) >= 2**20:
            self._flush(self._file)

    def extend(self, texts: Iterable[str]) -> None:
        """Adds texts."""
        for text in texts:
            self.add(text)

    def _flush(self, file: Any) -> None:
        file.write(self._found)
        file.flush()
        self._found.clear()

    def firsts(self) -> NDArray[np.int64]:
        """For each text the number of the first that is the same, int64 (N)."""
        if self._file is None:
            return firsts(np.frombuffer(bytes(self._found), np.uint64).reshape(-1, 2))
        self._flush(self._file)
        if not self._count:
            return np.zeros(0, np.int64)
        digests = np.asarray(np.memmap(self._file, np.uint64, "r", shape=(self._count, 2)))
        return firsts(digests, self._folder)


def firsts(digests: NDArray[np.uint64], folder: Path | None = None) -> NDArray[np.int64]:
    """For each of the digests (N, 2) the number of the first that is the same.

    They are parted by a byte of theirs, and those of a part sorted: memory holds one part.

    Args:
        digests: The digests.
        folder: On whose disk the numbers lie; in memory if not given.
    """
    first = column(len(digests), np.int64, folder)
    parts = min(-(-len(digests) // _PART), 255)
    part_of = digests.view(np.uint8)[:, 0] % np.uint8(max(parts, 1))
    for part in range(parts):
        here = np.flatnonzero(part_of == part)
        some = digests[here]
        order = np.lexsort((some[:, 1], some[:, 0]))  # stable: equal ones in their own order
        ranked = some[order]
        new = np.ones(len(order), bool)
        new[1:] = (ranked[1:] != ranked[:-1]).any(1)
        among = np.empty(len(order), np.int64)
        among[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
        first[here] = here[among]
    return first


class Linked:
    """Rows of texts, of which those are linked that have a text in common.

    Args:
        rows: The texts of each, at least one.
        count: How many rows there are.
        folder: On whose disk all numbers of them lie; in memory if not given.
    """

    def __init__(
        self, rows: Iterable[Sequence[str]], count: int, folder: Path | None = None
    ) -> None:
        self._folder, self._texts = folder, Numbered(folder)
        self._ends = column(count, np.int64, folder)
        self._fractions = column(count, np.float64, folder)
        self._first: NDArray[np.int64] | None = None
        for i, row in enumerate(waiting(rows, "link rows", count, "rows")):
            self._texts.extend(row)
            self._ends[i], self._fractions[i] = len(self._texts), fraction(row[0])

    def _firsts(self) -> NDArray[np.int64]:
        if self._first is None or len(self._first) != len(self._texts):
            self._first = self._texts.firsts()
        return self._first

    def families(self, count: int | None = None) -> NDArray[np.int64]:
        """For each row the first row that it is linked to.

        Args:
            count: Only the first so many rows count.
        """
        ends = self._ends[:count]
        texts = int(ends[-1]) if len(ends) else 0
        first = self._firsts()[:texts]
        parent = column(len(ends), np.int64, self._folder)
        for start in range(0, len(ends), _PART):
            parent[start : start + _PART] = np.arange(start, min(start + _PART, len(ends)))

        def root(i: int) -> int:
            while (above := int(parent[i])) != i:
                parent[i] = parent[above]
                i = above
            return i

        for start in range(0, texts, _PART):
            some = first[start : start + _PART]
            again = np.flatnonzero(some != np.arange(start, start + len(some)))
            pairs = (np.searchsorted(ends, at, "right") for at in (some[again], start + again))
            for a, b in zip(*(rows.tolist() for rows in pairs), strict=True):
                low, high = sorted((root(a), root(b)))
                parent[high] = low
        for start in range(0, len(ends), _PART):
            some = parent[start : start + _PART]
            for i in (start + np.flatnonzero(some != np.arange(start, start + len(some)))).tolist():
                parent[i] = root(i)
        return parent

    def parted(self, first: float, second: float) -> NDArray[np.int8]:
        """0 for each row, but for a share `first` of the families 1, and for `second` 2.

        What a family has is a function of the first text of its first row.
        """
        found = np.zeros(len(self._ends), np.int8)
        family = self.families()
        for start in range(0, len(found), _PART):
            u = self._fractions[family[start : start + _PART]]
            found[start : start + _PART] = np.where(
                u < first, 1, np.where(u < first + second, 2, 0)
            )
        return found

    def touching(self, rows: NDArray[np.bool_], texts: Iterable[str]) -> NDArray[np.bool_]:
        """Which rows have a text of some rows, or one of other texts.

        Args:
            rows: Whether each is one of those; fewer are the first ones.
            texts: The other texts.
        """
        own = len(self._texts)
        self._texts.extend(texts)
        first = self._firsts()
        known, found = np.zeros(len(first), bool), np.zeros(len(rows), bool)
        known[first[own:]] = True
        for start, numbers, begins in self._parts(first, len(rows)):
            sizes = np.diff(begins, append=len(numbers))
            known[numbers[np.repeat(rows[start : start + len(begins)], sizes)]] = True
        for start, numbers, begins in self._parts(first, len(rows)):
            found[start : start + len(begins)] = np.logical_or.reduceat(known[numbers], begins)
        return found

    def _parts(
        self, first: NDArray[np.int64], count: int
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """The first row of each part, the numbers of its texts, and where each row of it begins."""
        for start in range(0, count, _PART):
            ends = self._ends[start : min(start + _PART, count)]
            begin = int(self._ends[start - 1]) if start else 0
            begins = np.concatenate([[0], ends[:-1] - begin])
            yield start, first[begin : int(ends[-1])], begins
