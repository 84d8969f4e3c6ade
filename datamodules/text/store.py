"""Prepared text: numbers of symbols in memory-mapped shards, with an index of its documents."""

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


class Tokens:
    """Numbers of the symbols of a split, of which memory holds what is used.

    The pages are the file system's, so that all processes of a machine share them.

    Args:
        files: Raw numbers, one file behind the other.
        dtype: Of the numbers.
    """

    def __init__(self, files: Sequence[Path], dtype: str) -> None:
        full = [file for file in files if file.stat().st_size]
        self._shards = [np.asarray(np.memmap(file, dtype, "r")) for file in full]
        self._bounds = np.cumsum([0, *map(len, self._shards)])

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def __getitem__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        shard = np.searchsorted(self._bounds, places, side="right") - 1
        numbers = np.empty(places.shape, np.int64)
        for i in np.unique(shard):
            here = shard == i
            numbers[here] = self._shards[i][places[here] - self._bounds[i]]
        return numbers

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
        again = "remove the folder and prepare the text again"
        for entry in self.index["splits"].values():
            for name, size in entry["files"]:
                file = self.folder / name
                if not file.is_file():
                    raise FileNotFoundError(f"{file} is missing: {again}")
                if file.stat().st_size != size:
                    raise ValueError(
                        f"{file} is cut off or changed: it has {file.stat().st_size:,} bytes "
                        f"and needs {size:,}: {again}"
                    )

    def _read_index(self) -> dict[str, Any]:
        file = self.folder / INDEX
        if not file.is_file():
            return self._of_nano_gpt()
        try:
            index = parsed(decoded(read_bytes(file), file))
            known = [index["splits"][split]["files"] for split in get_args(Split)]
            assert all(isinstance(size, int) for files in known for _, size in files)
            assert index["dtype"] in ("uint16", "uint32")
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is damaged: prepare the text again") from error
        return dict(index)

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
        """The numbers of a split."""
        return Tokens(self.files(split), self.index["dtype"])

    def offsets(self, split: Split) -> NDArray[np.int64]:
        """Where each document begins, and after them where the last one ends."""
        file = self.folder / f"{split}.documents.bin"
        if not file.is_file():  # nanoGPT's
            return np.array([0, len(self.tokens(split))])
        return np.asarray(np.memmap(file, "int64", "r"))

    def counts(self, split: Split) -> NDArray[np.int64] | None:
        """How often each symbol occurs in a split, if that was counted."""
        file = self.folder / f"{split}.counts.npy"
        return np.load(file) if file.is_file() else None

    def bytes_of(self, split: Split) -> int | None:
        """Bytes of UTF-8 that the text of a split had, if that is known."""
        size: int | None = self.index["splits"][split]["bytes"]
        return size

    @property
    def vocabulary(self) -> Vocabulary:
        """What the numbers stand for."""
        if self._vocabulary is None:
            file = self.folder / VOCABULARY
            if file.is_file():
                self._vocabulary = Vocabulary.unpack(read_bytes(file))
                if self._vocabulary.digest != self.index.get("tokenizer"):
                    raise ValueError(f"{file} is not the tokenizer that the shards were made with")
            else:
                largest = max(self.tokens(split).largest() for split in get_args(Split))
                self._vocabulary = Numbers(largest + 1)
        return self._vocabulary


def is_prepared(root: str | Path | None) -> bool:
    """Whether a folder holds prepared text, nanoGPT's too."""
    if root is None or not Path(root).is_dir():
        return False
    return Path(root, INDEX).is_file() or all(
        Path(root, f"{split}.bin").is_file() for split in ("train", "val")
    )
