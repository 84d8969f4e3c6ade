"""Prepared text: numbers of symbols in memory-mapped shards, with an index of its documents."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from zoo.data.cache import INDEX
from zoo.data.protocols import Split
from zoo.data.text.vocabulary import Numbers, Vocabulary
from zoo.reading import decoded, parsed, read_bytes

VOCABULARY = "vocabulary.json"
_CHUNK = 2**24  # symbols that are looked at together
_AGAIN = "remove the folder and prepare the text again"
_CHECKED = 2**27  # symbols of a split that take less than a second to compare with their checksum


class Tokens:
    """Numbers of the symbols of a split, of which memory holds what is used.

    The pages are the file system's, so that all processes of a machine share them.

    Args:
        files: Raw numbers, one file behind the other.
        dtype: Of the numbers.
        size: Symbols of the vocabulary, below which all numbers must be.
    """

    def __init__(self, files: Sequence[Path], dtype: str, size: int = 2**32) -> None:
        self._full = [file for file in files if file.stat().st_size]
        self._shards = [np.asarray(np.memmap(file, dtype, "r")) for file in self._full]
        self._size = size
        self._bounds = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        shard = np.searchsorted(self._bounds, places, side="right") - 1
        numbers = np.empty(places.shape, np.int64)
        for i in np.unique(shard):
            here = shard == i
            numbers[here] = self._shards[i][places[here] - self._bounds[i]]
            if (largest := numbers[here].max()) >= self._size:
                raise ValueError(
                    f"{self._full[i]} holds the number {largest}, and the vocabulary ends at "
                    f"{self._size - 1}: {_AGAIN}"
                )
        return numbers

    def checksum(self) -> int:
        """The CRC-32 of all numbers."""
        total = 0
        for shard in self._shards:
            total = zlib.crc32(shard.data, total)
        return total

    def largest(self) -> int:
        """The greatest number; 0 where there is none."""
        parts = (s[i : i + _CHUNK] for s in self._shards for i in range(0, len(s), _CHUNK))
        return max((int(part.max()) for part in parts), default=0)


class Store:
    """A folder that `zoo prepare text` wrote, or nanoGPT's with its train.bin and val.bin.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: It is no such folder, or a file of it is missing.
        ValueError: A file of it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index: dict[str, Any] = self._read_index()
        self._vocabulary: Vocabulary | None = None
        self._compared = set[Split]()
        for entry in self.index["splits"].values():
            for name, size in entry["files"]:
                file = self.folder / name
                if not file.is_file():
                    raise FileNotFoundError(f"{file} is missing: {_AGAIN}")
                if file.stat().st_size != size:
                    raise ValueError(
                        f"{file} is cut off or changed: it has {file.stat().st_size:,} bytes "
                        f"and needs {size:,}: {_AGAIN}"
                    )

    def _read_index(self) -> dict[str, Any]:
        file = self.folder / INDEX
        if not file.is_file():
            return self._of_nano_gpt()
        try:
            index = parsed(decoded(read_bytes(file), file))
            if _is_index(index):
                return dict(index)
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        raise ValueError(f"{file} is damaged: {_AGAIN}")

    def _of_nano_gpt(self) -> dict[str, Any]:
        """An index of what nanoGPT's prepare.py wrote, whose validation split is the test too."""
        splits = {}
        for split in get_args(Split):
            name = f"{split}.bin" if (self.folder / f"{split}.bin").is_file() else "val.bin"
            file = self.folder / name
            if not file.is_file():
                raise FileNotFoundError(f"{file} is missing: it needs train.bin and val.bin")
            size = file.stat().st_size
            if size % 2:
                raise ValueError(f"{file} is cut off: {size:,} bytes are no numbers of 16 bits")
            splits[split] = {"files": [[name, size]], "bytes": None}
        return {"dtype": "uint16", "splits": splits, "fingerprint": "", "documents": "one"}

    def files(self, split: Split) -> list[Path]:
        """The shards of a split; the index of its documents is no shard."""
        names = [name for name, _ in self.index["splits"][split]["files"]]
        return [self.folder / name for name in names if not name.endswith(".documents.bin")]

    def tokens(self, split: Split) -> Tokens:
        """The numbers of a split, a small one of which is compared with its checksum.

        Raises:
            ValueError: They are not those that were written.
        """
        if "tokenizer" not in self.index:  # nanoGPT's
            return Tokens(self.files(split), self.index["dtype"])
        tokens = Tokens(self.files(split), self.index["dtype"], len(self.vocabulary))
        if split not in self._compared and len(tokens) <= _CHECKED:
            if tokens.checksum() != self.index["splits"][split]["crc"]:
                names = ", ".join(str(file) for file in self.files(split))
                raise ValueError(f"{names}: damaged, the checksum is wrong: {_AGAIN}")
            self._compared.add(split)
        return tokens

    def offsets(self, split: Split) -> NDArray[np.int64]:
        """Where each document begins, and after them where the last one ends.

        Raises:
            ValueError: They are no places of the split in order.
        """
        file, length = self.folder / f"{split}.documents.bin", len(self.tokens(split))
        if not any(name == file.name for name, _ in self.index["splits"][split]["files"]):
            return np.array([0, length])  # nanoGPT's
        offsets = np.asarray(np.memmap(file, "int64", "r"))
        ordered = bool((offsets[1:] >= offsets[:-1]).all())
        if not ordered or (offsets[0], offsets[-1]) != (0 if len(offsets) > 1 else length, length):
            raise ValueError(f"{file} is damaged: {_AGAIN}")
        return offsets

    def counts(self, split: Split) -> NDArray[np.int64] | None:
        """How often each symbol occurs in a split, if that was counted.

        Raises:
            ValueError: The file is damaged.
        """
        file = self.folder / f"{split}.counts.npy"
        if not file.is_file():
            return None
        size, total = len(self.vocabulary), len(self.tokens(split))
        try:
            counts = np.load(file, mmap_mode="r", allow_pickle=False)
            if counts.shape == (size,) and counts.min() >= 0 and counts.sum() == total:
                return np.array(counts, np.int64)
        except Exception:  # a damaged file can raise nearly anything
            pass
        raise ValueError(f"{file} is damaged: {_AGAIN}")

    def bytes_of(self, split: Split) -> int | None:
        """Bytes of UTF-8 that the text of a split had, if that is known."""
        size: int | None = self.index["splits"][split]["bytes"]
        return size

    @property
    def vocabulary(self) -> Vocabulary:
        """What the numbers stand for."""
        if self._vocabulary is None:
            file = self.folder / VOCABULARY
            if file.is_file() or "tokenizer" in self.index:
                self._vocabulary = Vocabulary.read(file)
                if self._vocabulary.digest != self.index.get("tokenizer"):
                    raise ValueError(f"{file} is not the tokenizer that the shards were made with")
            else:
                largest = max(self.tokens(split).largest() for split in get_args(Split))
                self._vocabulary = Numbers(largest + 1)
        return self._vocabulary


def _is_index(index: Any) -> bool:
    """Whether an index has what its writer wrote, of those kinds: files of this folder alone."""
    width = {"uint16": 2, "uint32": 4}[index["dtype"]]
    good = list(index["splits"]) == list(get_args(Split))
    good = good and all(isinstance(index[name], str) for name in ("tokenizer", "fingerprint"))
    good = good and isinstance(index["made"], dict)
    for split, held in index["splits"].items():
        numbers = [held[name] for name in ("symbols", "documents", "bytes", "crc")]
        *shards, last = held["files"]
        sizes = [size for _, size in shards]
        good = good and all(type(number) is int and number >= 0 for number in (*numbers, *sizes))
        names = [f"{split}-{i:05}.bin" for i in range(len(shards))]
        good = good and [name for name, _ in shards] == names
        good = good and sum(sizes) == width * held["symbols"] and not any(s % width for s in sizes)
        good = good and last == [f"{split}.documents.bin", 8 * (held["documents"] + 1)]
    return good


def is_prepared(root: str | Path | None) -> bool:
    """Whether a folder holds prepared text, nanoGPT's too."""
    if root is None or not Path(root).is_dir():
        return False
    return Path(root, INDEX).is_file() or all(
        Path(root, f"{split}.bin").is_file() for split in ("train", "val")
    )
