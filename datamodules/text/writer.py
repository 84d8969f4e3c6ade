"""Shards as they are written, from where a writer that was killed has come."""

import json
import os
import time
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np

from zoo.data.cache import INDEX, PROGRESS, key_of
from zoo.data.protocols import Split
from zoo.data.text.pieces import Documents, Encoded
from zoo.data.text.store import VOCABULARY
from zoo.data.text.vocabulary import Vocabulary
from zoo.files import naming, replacing
from zoo.reading import decoded, parsed, read_bytes

_SHARD = 2**30  # symbols of a file
_SECONDS = 10.0  # between notes of how far it is


class Writer:
    """Shards that grow, and a note of how far they are.

    Args:
        folder: Where; what a writer before noted there is gone on with.
        words: The vocabulary.
        made: What the shards are made of, for the record.
        documents: What a document is.
    """

    def __init__(
        self, folder: Path, words: Vocabulary, made: dict[str, Any], documents: Documents
    ) -> None:
        self.folder, self.words = folder, words
        self.dtype = np.dtype(np.uint16 if len(words) <= 2**16 else np.uint32)
        self.state: dict[str, Any] = {
            "made": made, "documents": documents, "tokenizer": words.digest, "pieces": 0, "read": 0,
            "splits": {s: {"symbols": 0, "documents": 0, "bytes": 0, "crc": 0, "pending": True}
                       for s in get_args(Split)},
        }  # fmt: skip
        self.counts = {split: np.zeros(len(words), np.int64) for split in get_args(Split)}
        note = folder / PROGRESS
        if note.is_file():
            try:
                self.state = parsed(decoded(read_bytes(note), note))
                for split, state in self.state["splits"].items():
                    self.counts[split] = np.array(state.pop("counts"), np.int64)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{note} is damaged: remove {folder} and prepare anew") from error
        self.note()  # before there is a shard, so that the folder is known as ours
        self._cut_back()

    @property
    def pieces(self) -> int:
        """Pieces that are done."""
        return int(self.state["pieces"])

    @property
    def read(self) -> int:
        """Bytes or rows of them."""
        return int(self.state["read"])

    def _shard(self, split: str, number: int) -> Path:
        return self.folder / f"{split}-{number:05}.bin"

    def _index(self, split: str) -> Path:
        return self.folder / f"{split}.documents.bin"

    def _cut_back(self) -> None:
        """Takes away what was written behind the last note."""
        for split, state in self.state["splits"].items():
            full, rest = divmod(state["symbols"], _SHARD)
            sizes = {self._index(split): 8 * state["documents"]}
            sizes |= {self._shard(split, i): _SHARD * self.dtype.itemsize for i in range(full)}
            sizes[self._shard(split, full)] = rest * self.dtype.itemsize
            for file in self.folder.glob(f"{split}-*.bin"):
                if file not in sizes:
                    file.unlink()
            for file, size in sizes.items():
                file.touch()
                if file.stat().st_size < size:
                    raise ValueError(f"{file} is cut off: remove {self.folder} and prepare anew")
                os.truncate(file, size)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.note()

    def add(self, found: Encoded) -> None:
        """Writes the symbols of the next piece."""
        split, symbols, starts = found.split, found.symbols, found.starts
        state = self.state["splits"][split]
        before = state["symbols"]
        state["pending"] |= found.begins
        if len(symbols):
            if state["pending"]:  # a document without symbols is none
                end = [self.words.end] if self.words.ends_documents and before else []
                symbols = np.concatenate([np.array(end, self.dtype), symbols])
                starts = np.concatenate([[0], starts]) + len(end)
            self._append(split, before, symbols)
            with self._index(split).open("ab") as file:
                file.write((starts + before).astype(np.int64).tobytes())
            self.counts[split] += np.bincount(symbols, minlength=len(self.words))
            state["crc"] = zlib.crc32(symbols.tobytes(), state["crc"])
            state |= {"pending": False, "symbols": before + len(symbols)}
            state["documents"] += len(starts)
            state["bytes"] += found.bytes
        self.state["pieces"] += 1
        self.state["read"] += found.size
        if time.monotonic() - self._noted > _SECONDS:
            self.note()

    def _append(self, split: str, before: int, symbols: Any) -> None:
        while len(symbols):
            number, place = divmod(before, _SHARD)
            part = symbols[: _SHARD - place]
            with naming(self._shard(split, number)), self._shard(split, number).open("ab") as file:
                file.write(part.tobytes())
            symbols, before = symbols[len(part) :], before + len(part)

    def note(self) -> None:
        """Writes down how far it is."""
        counted = {
            split: {**state, "counts": self.counts[split].tolist()}
            for split, state in self.state["splits"].items()
        }
        with replacing(self.folder / PROGRESS) as path:
            path.write_text(json.dumps({**self.state, "splits": counted}), "utf-8")
        self._noted = time.monotonic()

    def discard(self) -> None:
        """Removes what was written, the note last."""
        for split in get_args(Split):
            for file in (self._index(split), *self.folder.glob(f"{split}-*.bin")):
                file.unlink(missing_ok=True)
        (self.folder / PROGRESS).unlink(missing_ok=True)

    def finish(self) -> None:
        """Writes the index, with which the folder is whole.

        Raises:
            ValueError: There is no symbol.
        """
        if not any(state["symbols"] for state in self.state["splits"].values()):
            raise ValueError("the text is empty, or its tokenizer knows nothing of it")
        if all(map(self.words.is_blank, self.counts.values())):
            raise ValueError("the text holds nothing but spaces and ends of lines")
        splits = {}
        for split, state in self.state["splits"].items():
            with self._index(split).open("ab") as file:
                file.write(np.int64(state["symbols"]).tobytes())
            np.save(self.folder / f"{split}.counts.npy", self.counts[split])
            shards = sorted(self.folder.glob(f"{split}-*.bin"))
            files = [(f.name, f.stat().st_size) for f in (*shards, self._index(split))]
            splits[split] = {
                **{key: state[key] for key in ("symbols", "documents", "bytes", "crc")},
                "files": files,
            }
        with replacing(self.folder / VOCABULARY) as path:
            path.write_bytes(self.words.pack())
        index = {
            "format": 1, "dtype": self.dtype.name, "tokenizer": self.words.digest,
            "documents": self.state["documents"], "splits": splits, "made": self.state["made"],
            "fingerprint": key_of([splits, self.words.digest]),
        }  # fmt: skip
        with replacing(self.folder / INDEX) as path:
            path.write_text(json.dumps(index, indent=1), "utf-8")
        (self.folder / PROGRESS).unlink(missing_ok=True)
