"""Sentences for masked language models: of text or tables, with their words; and with labels."""

import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.images.base import Split
from zoo.data.sentences.numbered import Linked
from zoo.data.sentences.rows import Problems
from zoo.data.sentences.sources import Source, source_of
from zoo.data.sentences.tables import (
    columns_of,
    is_hidden,
    is_jsonl,
    is_table,
    objects_of,
    table_of,
)
from zoo.data.text.lines import SentenceSet, TextLines
from zoo.data.text.vocabulary import Level, Vocabulary
from zoo.waiting import waiting

Segmenter = Literal["none", "spaces", "jieba"]
_Row = tuple[list[str], int]
"""The sentences of a row, and its class."""


class MaskedBatch(NamedTuple):
    """A batch of sentences to mask, or to classify."""

    tokens: Tensor
    """(B, T) int64, each sentence with its end, then padding (of the end's number)."""
    lengths: Tensor
    """(B,) int64, symbols of each sentence, its end among them."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(B,) int64, each item's number in its split."""
    words: Tensor
    """(B, T) int64, position of the first symbol of each symbol's word."""
    labels: Tensor
    """(B,) int64; all 0 where there are none."""

    def to(self, device: torch.device | str) -> "MaskedBatch":
        """The batch on `device`; the copy from pinned memory does not wait."""
        return MaskedBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class MaskedSet(SentenceSet):
    """Sentences with their words and labels, indexed by a whole batch of numbers.

    Args:
        sentences: Numbers of the symbols of each sentence, without its end.
        starts: Position of the first symbol of each symbol's word, alike.
        labels: Of each sentence.
        end: Number of the end.
    """

    def __init__(
        self,
        sentences: list[NDArray[np.int64]],
        starts: list[NDArray[np.int64]],
        labels: list[int],
        end: int,
    ) -> None:
        super().__init__(sentences, end)
        self.labels = np.array(labels, np.int64)
        self.starts = np.zeros(len(self.symbols), np.int32)
        for offset, sentence in zip(self.offsets, starts, strict=True):
            self.starts[offset : offset + len(sentence)] = sentence
            self.starts[offset + len(sentence)] = len(sentence)  # the end is a word

    def __getitems__(self, indices: list[int]) -> MaskedBatch:  # type: ignore[override]
        tokens, lengths, index, _ = super().__getitems__(indices)
        column = np.arange(tokens.shape[1])
        place = self.offsets[index.numpy()][:, None] + np.minimum(
            column, lengths.numpy()[:, None] - 1
        )
        words = torch.from_numpy(self.starts[place].astype(np.int64))
        return MaskedBatch(tokens, lengths, index, words, torch.from_numpy(self.labels[indices]))


class MaskedSentences(TextLines):
    """Sentences of text or of tables, in batches of about one length, as `MaskedBatch`es.

    A table is a .tsv or .csv file whose first line names its columns, or JSONL of objects; its
    sentences are those of the columns `sentence1` and `sentence2`, or `sentence`, each once. With
    `labels` an item is a row, its sentences one after the other with an end between, and its class
    is the column `label`. Tables of a folder that are named after a split (valid, dev_matched,
    test, ...) are it; of the other tables 90, 5 and 5 of 100, or of a split that has a table none.
    Rows that are linked by a sentence in common stay together where that leaves each split some,
    and more than a twentieth so linked are trained on. No item to train on is in another split.

    Args:
        root: A .tsv, .csv or .jsonl file or a folder of them; else as for `TextLines`.
        level: What a symbol is: char, byte, word or wordpunct.
        segmenter: What is masked as a whole: a symbol (none), what spaces part, or a Chinese word
            as jieba finds it.
        labels: Read rows with their classes.
        vocabulary_of: Checkpoint whose symbols to use, to go on with a trained model.

    Raises:
        FileNotFoundError: There is no text at `root`.
        ValueError: A count is not positive, a table lacks a column, or there is no sentence.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        level: Level = "char",
        segmenter: Segmenter = "none",
        labels: bool = False,
        vocabulary_of: str | None = None,
        **lines: Any,
    ) -> None:
        super().__init__(root=root, level=level, **lines)
        self.segmenter, self.labels, self.vocabulary_of = segmenter, labels, vocabulary_of
        if segmenter not in get_args(Segmenter):
            known = ", ".join(get_args(Segmenter))
            raise ValueError(f"--data.segmenter={segmenter!r}: choose one of {known}")
        if segmenter != "none" and level != "char":
            raise ValueError(f"--data.segmenter={segmenter} finds words of characters: level=char")
        self._classes: dict[Split, list[int]] = {}

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the training split, or of the model that `vocabulary_of` names."""
        if self._vocabulary is None and self.vocabulary_of is not None:
            self._vocabulary = _vocabulary_of(self.vocabulary_of, self.level)
        return super().vocabulary

    @property
    def classes(self) -> int:
        """Classes that the labels of the loaded splits need, by the greatest; 0 without labels."""
        if not self.labels:
            return 0
        return 1 + max(label for labels in self._classes.values() for label in labels)

    def texts(self, split: Split) -> list[str]:
        """The sentences of a split; two of a row are parted by a line's end."""
        tables = self._tables()
        if not tables:
            if self.labels:
                root = self.root
                raise ValueError(f"--data.root={root}: labels are read from .tsv or .csv files")
            return super().texts(split)
        if not self._lines:
            self._read(tables)
        return self._lines[split]

    def _read(self, tables: list[Source]) -> None:
        """Reads all tables, and parts their rows."""
        rows: dict[Split, dict[str, int]] = {"train": {}, "val": {}, "test": {}}
        given, free = set[Split](), list[_Row]()
        for source in tables:
            found = self._rows(source)
            if source.split is None:
                free += found
            elif found or not self.labels:
                given.add(source.split)
                for text, label in self._items(found):
                    rows[source.split].setdefault(text, label)
        held_out, overlap = {*rows["val"], *rows["test"]}, set[str]()
        for row, split in zip(free, _parted(free), strict=True):
            for text, label in self._items([row]):
                if text in held_out:
                    overlap.add(text)
                else:
                    own = split or _split_of(text)
                    rows["train" if own in given else own].setdefault(text, label)
        if overlap:
            many = f"{len(overlap):,} items to train on"
            self._notes.append(f"left out: {many} that are in val or test")
        for name, items in rows.items():
            self._lines[name], self._classes[name] = list(items), list(items.values())

    def _tables(self) -> list[Source]:
        path = Path(self.root or "")
        if self.root is None or not path.exists():
            return []
        if path.is_file():
            return [Source(path, None)] if _is_taken(path) else []
        files = sorted(file for file in path.iterdir() if file.is_file() and _is_taken(file))
        sources = [source_of(file) for file in files]
        if sources and all(source.split is not None for source in sources):
            names = ", ".join(file.name for file in files[:5])
            raise FileNotFoundError(f"no table to train on in {path}: {names} are held out by name")
        return sources

    def where(self) -> tuple[str, list[str]]:
        """What is read, in words, and the files of the folder that are not."""
        tables = self._tables()
        if not tables:
            return super().where()
        names = ", ".join(table.path.name for table in tables[:5])
        more = f" and {len(tables) - 5} more" if len(tables) > 5 else ""
        root = Path(self.root or "")
        others = [] if root.is_file() else sorted({f.name for f in root.iterdir()})
        taken = {table.path.name for table in tables}
        return f"tables {names}{more} of {root}", [name for name in others if name not in taken]

    def _items(self, rows: list[_Row]) -> Iterator[tuple[str, int]]:
        """The sentences of rows, or with `labels` the rows, with their classes."""
        for sentences, label in rows:
            yield from [("\n".join(sentences), label)] if self.labels else zip(sentences, repeat(0))

    def _rows(self, source: Source) -> list[_Row]:
        """The rows of a table: their sentences, and with `labels` their classes.

        Of a held-out table without labels, as the test of a benchmark is, there is no row.

        Raises:
            ValueError: Its columns are not named, or a label is no class.
        """
        path, labelled = source.path, self.labels
        table = objects_of(path) if is_jsonl(path) else table_of(path)
        columns = columns_of(table, single=True)
        label_at = columns.label
        hidden = label_at is None or is_hidden(
            cells[label_at] for _, cells in table.rows[1:] if label_at < len(cells)
        )
        if labelled and source.split is not None and columns.header and hidden:
            self._notes.append(f"left out: {path.name} (it has no labels)")
            return []
        if not columns.header or (labelled and columns.label is None):
            raise ValueError(f"{path}: its first line must name sentence1 (and label)")
        problems, rows = Problems(path), list[_Row]()
        good = 0
        for number, cells in waiting(table.rows[1:], f"read {path.name}", unit="rows"):
            if len(cells) != len(table.rows[0][1]):
                problems.add(number, f"{len(cells)} columns, need {len(table.rows[0][1])}")
                continue
            good += 1
            texts = [cells[column].strip().replace("\n", " ") for column in columns.sentences]
            if not labelled:
                if texts := [text for text in texts if text]:
                    rows.append((texts, 0))
                continue
            assert columns.label is not None
            label = cells[columns.label].strip().removesuffix(".0")
            if not (label.isascii() and label.isdecimal() and len(label) < 7):
                raise ValueError(
                    f"{path}, line {number}: label {label!r} is no class: they are 0, 1, ..."
                )
            rows.append((texts, int(label)))
        problems.tell(good)
        return rows

    def load_split(self, split: Split) -> MaskedSet:
        """Encodes the sentences of a split."""
        words, lines = self.vocabulary, self.texts(split)
        labels = self._classes.get(split, [0] * len(lines))
        items = [
            (*self._encode(words, line), label)
            for line, label in zip(
                waiting(lines, "tokenise", unit="sentences"), labels, strict=True
            )
        ]
        if split == "train":
            items = self.shortened(items)
        if not items:
            where = self.root or "the text"
            raise ValueError(f"the {split} split of {where} has no sentence")
        tokens, starts, classes = map(list, zip(*items, strict=True))
        return MaskedSet(tokens, starts, classes, words.end)

    @staticmethod
    def symbols_of(item: Any) -> int:
        """How many symbols an item has: a sentence, where its words start and its class."""
        return len(item[0])

    def unigram(self) -> Tensor:
        """Probability of each symbol by its count in the training split, from 1; of no end."""
        counts = np.bincount(self.split("train").symbols, minlength=len(self.vocabulary))
        counts[self.vocabulary.end] = 0
        return _from_one(counts)

    def majority(self, classes: int) -> Tensor:
        """Probability of each class by its count in the training split, from 1."""
        return _from_one(np.bincount(self.split("train").labels, minlength=classes))

    def _encode(self, words: Vocabulary, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        parts = [words.encode(part) for part in text.split("\n")]
        tokens = np.concatenate([x for p in parts for x in (p, np.array([words.end]))][:-1])
        starts = np.arange(len(tokens))
        if self.segmenter != "none":
            lengths = [len(w) for w in _segment(text, self.segmenter)]
            assert sum(lengths) == len(tokens), text
            starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
        return tokens, starts


def _is_taken(file: Path) -> bool:
    """Whether a file is a table; .txt is text, whatever tabs it holds."""
    text = file.name.lower().removesuffix(".gz").endswith(".txt")
    return is_jsonl(file) or (not text and is_table(file))


def _from_one(counts: NDArray[np.int64]) -> Tensor:
    """Probabilities by counts that begin at 1."""
    return torch.from_numpy((counts + 1) / (counts + 1).sum())


def _vocabulary_of(path: str, level: str) -> Vocabulary:
    """The symbols that a checkpoint of a language model holds.

    Raises:
        ValueError: It holds none, or those of another level.
    """
    from zoo.loading import find_checkpoint, read_checkpoint

    packed = read_checkpoint(find_checkpoint(path))["state_dict"].get("words.symbols")
    if packed is None or not len(packed):
        raise ValueError(f"--data.vocabulary_of={path}: that model has no symbols")
    words = Vocabulary.unpack(packed.cpu().numpy().tobytes())
    if words.level != level:
        raise ValueError(f"--data.vocabulary_of={path}: set --data.level {words.level} as there")
    return words


def _segment(text: str, segmenter: Segmenter) -> list[str]:
    """The words of a text, which together are the text."""
    if segmenter == "jieba":
        import logging

        import jieba

        jieba.setLogLevel(logging.WARNING)
        return list(jieba.cut(text))
    words, word = [], ""
    for character in text:
        if character.isspace():
            words += [word, character] if word else [character]
            word = ""
        else:
            word += character
    return [*words, word] if word else words


def _parted(rows: list[_Row]) -> list[Split | None]:
    """The split of each row: one for all that are linked by sentences in common.

    Only so is no half of a pair trained on and the other, nearly the same, held out. None for each
    where that would leave a split without a row: then an item's own text has to tell.
    """
    families = Linked((sentences for sentences, _ in rows), len(rows)).families().tolist()
    large = {family for family, size in Counter(families).items() if size > len(rows) / 20 + 1}
    splits: list[Split | None] = [
        "train" if i in large else _split_of(rows[i][0][0]) for i in families
    ]
    return splits if len(set(splits)) == len(get_args(Split)) else [None] * len(rows)


def _split_of(text: str) -> Split:
    """A split that depends on the text alone."""
    place = zlib.crc32(text.encode()) % 20
    return "train" if place < 18 else "val" if place == 18 else "test"
