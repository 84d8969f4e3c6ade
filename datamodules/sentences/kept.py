"""Sequences that grow on disk: what is read of files that are larger than memory."""

import os
import pickle
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

T = TypeVar("T")
_BLOCK = 1024  # items that are written together


class Spilled(Sequence[T]):
    """Items in a file without a name, of which memory holds a block and where the others are.

    Args:
        items: The first of them.
        folder: On whose disk they lie.
    """

    def __init__(self, items: Iterable[T] = (), *, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # as long as this lives
        weakref.finalize(self, self._file.close)
        self._places: list[int] = []
        self._last: list[T] = []
        self._held = (-1, list[T]())
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        """Adds an item."""
        self._last.append(item)
        if len(self._last) == _BLOCK:
            self._places.append(self._file.seek(0, os.SEEK_END))
            pickle.dump(self._last, self._file, pickle.HIGHEST_PROTOCOL)
            self._last = []

    def __len__(self) -> int:
        return len(self._places) * _BLOCK + len(self._last)

    def __iter__(self) -> Iterator[T]:
        for number in range(len(self._places)):
            yield from self._block(number)
        yield from self._last

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        number, place = divmod(range(len(self))[i], _BLOCK)
        if number == len(self._places):
            return self._last[place]
        if self._held[0] != number:
            self._held = number, self._block(number)
        return self._held[1][place]

    def _block(self, number: int) -> list[T]:
        self._file.seek(self._places[number])
        block: list[T] = pickle.load(self._file)  # which nobody else can have written
        return block


Kept = list[T] | Spilled[T]


@dataclass(frozen=True)
class Keep:
    """Makes what holds items that are read."""

    folder: Path | None = None
    """On whose disk they lie; in memory if not given."""

    def __call__(self, items: Iterable[T] = ()) -> Kept[T]:
        """A sequence of these items, which grows."""
        return list(items) if self.folder is None else Spilled(items, folder=self.folder)


IN_MEMORY = Keep()
