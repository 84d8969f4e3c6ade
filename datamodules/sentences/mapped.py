"""Texts in two files that are mapped: their bytes, and where each ends."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from zoo.data.sentences.numbered import Numbered
from zoo.untrusted import check_regular


class MappedTexts(Sequence[str]):
    """Texts of which memory holds what is used: all processes of a machine share the pages.

    Args:
        stem: Path of both files without their suffixes, .bin and .ends.

    Raises:
        FileNotFoundError: One is not there.
        ValueError: They are not of one length.
    """

    def __init__(self, stem: Path) -> None:
        self._stem = stem
        self._bytes, self._ends = mapped(f"{stem}.bin", "u1"), mapped(f"{stem}.ends", "<i8")
        if (self._ends[-1] if len(self._ends) else 0) != len(self._bytes):
            raise ValueError(f"{stem}.bin is not of the length that {stem}.ends says")

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedTexts, (self._stem,)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        start, stop = span(self._ends, i)
        with suppress(UnicodeDecodeError):
            if 0 <= start <= stop <= len(self._bytes):
                return self._bytes[start:stop].tobytes().decode()
        raise ValueError(f"{self._stem}.bin is damaged at text {i}: make it anew")


def span(ends: NDArray[Any], i: int) -> tuple[int, int]:
    """Where item i begins and ends, of items that end at `ends`."""
    i = range(len(ends))[i]
    return int(ends[i - 1]) if i else 0, int(ends[i])


def mapped(file: str | Path, dtype: str) -> NDArray[Any]:
    """The numbers of a file, mapped; those of an empty one are none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none, or no whole number of them long.
    """
    path = Path(file)
    check_regular(path)
    if path.stat().st_size % np.dtype(dtype).itemsize:
        raise ValueError(f"{path} is cut off")
    if not path.stat().st_size:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype, "r"))


class TextsWriter:
    """Writes what `MappedTexts` reads.

    Args:
        stem: Path of both files without their suffixes.
    """

    def __init__(self, stem: Path) -> None:
        self._bytes, self._ends = (open(f"{stem}{end}", "wb") for end in (".bin", ".ends"))  # noqa: SIM115
        self._length = 0

    def __enter__(self) -> "TextsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._bytes.close()
        self._ends.close()

    def add(self, text: str) -> None:
        """Writes a text."""
        data = text.encode()
        self._length += self._bytes.write(data)
        self._ends.write(self._length.to_bytes(8, "little"))


def write_distinct(
    stem: Path, texts: Iterable[str], key: Callable[[str], str] | None = None
) -> MappedTexts:
    """Writes texts, each once, where it comes first.

    Args:
        stem: Path of the files without their suffixes.
        texts: The texts.
        key: Of texts for which it gives the same, only the first is written.
    """
    all_of_them = stem.with_name(f"{stem.name}.all")
    numbered = Numbered(stem.parent)
    with TextsWriter(all_of_them) as every:
        for text in texts:
            every.add(text)
            numbered.add(key(text) if key else text)
    written = MappedTexts(all_of_them)
    with TextsWriter(stem) as distinct:
        for i, first in enumerate(numbered.firsts()):
            if first == i:
                distinct.add(written[i])
    for end in (".bin", ".ends"):
        Path(f"{all_of_them}{end}").unlink()
    return MappedTexts(stem)
