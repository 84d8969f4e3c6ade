"""What a process makes of a piece of a corpus: its documents, their symbols, or how often each is.

A piece is a part of a file by about so many bytes. It begins and ends at the first places behind
them where a cut changes nothing, which both neighbours find by themselves.
"""

import re
from collections import Counter
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.data.text.corpus import Piece, load_dataset, mapped, parquet, sound, text_in
from zoo.data.text.vocabulary import Subwords, Vocabulary, as_level, split
from zoo.reading import decoded, parsed

Documents = Literal["file", "paragraph", "line"]
_LINE_END = re.compile(r"\r?\n")
_EMPTY_LINES = re.compile(r"\r?\n(?:[^\S\n]*\n)+")  # lines of spaces are empty too
_NEAR = 2**12  # bytes in which a place to cut is looked for


class Reading(NamedTuple):
    """How a corpus is read."""

    documents: Documents
    """What a document of plain text is."""
    column: str
    """Where the text of a row is."""
    tokenizer: str
    """File of the vocabulary; of none only the level is known."""
    level: str
    """Of its symbols."""

    @property
    def words(self) -> Vocabulary | None:
        """The vocabulary, which each process reads once."""
        return _vocabulary(self.tokenizer) if self.tokenizer else None


class Encoded(NamedTuple):
    """The symbols of a piece."""

    split: Any
    symbols: NDArray[np.unsignedinteger]
    """Of its documents, an end between them."""
    starts: NDArray[np.int64]
    """Where each document but the first begins."""
    begins: bool
    """Whether the first begins here, rather than in a piece before."""
    bytes: int
    """Of the text in UTF-8."""
    size: int
    """Bytes or rows of the piece."""


@lru_cache(2)
def _vocabulary(file: str) -> Vocabulary:
    return Vocabulary.read(file)


def parts_of(text: str, documents: Documents) -> list[str]:
    """The documents of a text: itself, its paragraphs (parted by empty lines) or its lines."""
    if documents == "file":
        return [text]
    separator = _EMPTY_LINES if documents == "paragraph" else _LINE_END
    parts = (part.strip("\r\n") for part in separator.split(text))
    return [part for part in parts if part.strip()]


def texts_of(piece: Piece, how: Reading) -> list[str]:
    """The documents of a piece, or as much of one as it has.

    Raises:
        ValueError: A file is not UTF-8, where symbols are not bytes, or a row has no text.
    """
    if piece.kind == "text":
        first, last = (_place(piece, place, how) for place in (piece.first, piece.last))
        return parts_of(_text(piece, first, last, how), how.documents) if first < last else []
    if piece.kind == "jsonl":
        first, last = (_place(piece, place, how) for place in (piece.first, piece.last))
        return [_normal(text, how) for text in _of_lines(piece, first, last, how.column)]
    texts: Any = piece.texts
    if piece.kind == "parquet":
        texts = _of_parquet(piece, how.column)
    elif piece.kind == "dataset":
        data = load_dataset(piece.path)
        rows = data[piece.first : piece.last] if how.column in data.features else data[:1]
        texts = rows.get(how.column)
        if texts is None:
            text_in({name: values[0] for name, values in rows.items()}, how.column, piece.name)
    return [_normal(text, how) for text in texts if text]


def _normal(text: str, how: Reading) -> str:
    return text if how.level == "byte" else text.replace("\r\n", "\n").replace("\r", "\n")


def _text(piece: Piece, first: int, last: int, how: Reading) -> str:
    """What stands between two places."""
    data = mapped(piece.path)[first:last]
    if how.level == "byte":
        return str(data.decode(errors="surrogateescape"))
    try:
        text = decoded(data, piece.name)
    except ValueError:  # now with the number of the line
        decoded(data, piece.name, mapped(piece.path)[:first].count(b"\n"))
        raise
    if first > piece.begin and data.startswith(b"\xef\xbb\xbf"):
        text = f"\ufeff{text}"  # a mark is one at the beginning alone
    return _normal(text, how)


def _of_lines(piece: Piece, first: int, last: int, column: str) -> list[str]:
    """The texts of lines of JSON."""
    data, texts = mapped(piece.path), []
    for number, line in enumerate(data[first:last].split(b"\n")):
        if not line.strip():
            continue
        try:
            texts.append(text_in(parsed(decoded(line, piece.name)), column, piece.name))
        except ValueError as error:
            said = str(error).removeprefix(piece.name).removeprefix(", line 1").removeprefix(": ")
            number += data[:first].count(b"\n") + 1
            if b"\r" in line.strip():
                said = "lines end with \\r alone, as on old Macs: convert it by tr '\\r' '\\n'"
            raise ValueError(f"{piece.name}, line {number}: {said}") from error
    return [text for text in texts if text]


def _of_parquet(piece: Piece, column: str) -> list[str]:
    """The texts of rows of a table, which lie in one row group."""
    file, before = parquet(piece.path), 0
    if column not in file.schema_arrow.names:
        text_in(dict.fromkeys(file.schema_arrow.names, ""), column, piece.name)
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        if before <= piece.first < before + count:
            with sound(piece.path):
                rows = file.read_row_group(group, columns=[column])
            rows = rows.slice(piece.first - before, piece.last - piece.first)
            return [text for text in rows[column].to_pylist() if text]
        before += count
    return []


def _place(piece: Piece, place: int, how: Reading) -> int:
    """The first place from `place` on where the text of a piece can be cut."""
    if place <= piece.begin or place >= piece.end:
        return min(max(place, piece.begin), piece.end)
    data = mapped(piece.path)
    words = how.words
    whole = piece.kind == "text" and how.documents == "file"
    if whole and how.level == "byte":
        return place
    by_line = how.documents == "line" or (whole and how.level in ("word", "wordpunct"))
    if piece.kind == "jsonl" or by_line:
        found = data.find(b"\n", place - 1, piece.end)
        return int(piece.end if found < 0 else found + 1)
    if whole and not isinstance(words, Subwords):
        place = _character(data, place, piece.end)
        return place + int(data[place - 1 : place + 1] == b"\r\n")
    while place < piece.end:
        found = _near(piece, place, words if whole and isinstance(words, Subwords) else None)
        if found is not None:
            return found
        place += _NEAR // 2
    return piece.end


def _character(data: Any, place: int, end: int) -> int:
    """The first place where a character begins."""
    while place < end and data[place] & 0xC0 == 0x80:
        place += 1
    return place


def _near(piece: Piece, place: int, words: Subwords | None) -> int | None:
    """Where near behind a place subwords, or without them paragraphs, can be cut."""
    data, errors = mapped(piece.path), "surrogateescape"
    first, place, last = (
        _character(data, min(max(where, piece.begin), piece.end), piece.end)
        for where in (place - _NEAR, place, place + _NEAR)
    )
    before, after = data[first:place].decode(errors=errors), data[place:last].decode(errors=errors)
    text = before + after
    if words is not None:
        found = words.cut(text, len(before))
    else:
        ends = (m.end() for m in _EMPTY_LINES.finditer(text))
        inside = (p for p in ends if len(before) <= p < len(text) and not text[p].isspace())
        found = next(inside, None)
    if found is None:
        return None
    return place + len(text[len(before) : found].encode(errors=errors))


def encode(piece: Piece, how: Reading) -> Encoded:
    """The symbols of a piece."""
    words = how.words
    assert words is not None
    dtype = np.uint16 if len(words) <= 2**16 else np.uint32
    none, size = np.zeros(0, np.int64), piece.last - piece.first
    if piece.kind == "text" and how.documents == "file":
        first, last = (_place(piece, place, how) for place in (piece.first, piece.last))
        begins = piece.first == piece.begin
        if first >= last:
            return Encoded(piece.split, none.astype(dtype), none, begins, 0, size)
        if how.level == "byte":
            symbols: Any = np.frombuffer(mapped(piece.path)[first:last], np.uint8)
            return Encoded(piece.split, symbols.astype(dtype), none, begins, last - first, size)
        text = _text(piece, first, last, how)
        if isinstance(words, Subwords):
            begin = max(first - 4 * words.AROUND, piece.begin)
            begin = _character(mapped(piece.path), begin, first)
            before = _text(piece, begin, first, how) if begin < first else ""
            symbols = words.encode(text, before)
        else:
            symbols = words.encode_documents([text])[0]
        count = len(text.encode())
        return Encoded(piece.split, symbols.astype(dtype), none, begins, count, size)
    texts = texts_of(piece, how)
    found = words.encode_documents(texts)
    count = sum(len(text.encode(errors="surrogateescape")) for text in texts)
    kept = [document for document in found if len(document)]
    if not kept:
        return Encoded(piece.split, none.astype(dtype), none, False, 0, size)
    end = np.array([words.end] if words.ends_documents else [], np.int64)
    joined = np.concatenate([part for document in kept for part in (document, end)])
    starts = np.cumsum([len(document) + len(end) for document in kept])[:-1]
    symbols = joined[: len(joined) - len(end)].astype(dtype)
    return Encoded(piece.split, symbols, starts, True, count, size)


def count(piece: Piece, how: Reading) -> tuple[dict[str, int], int]:
    """How often each symbol occurs in a piece, and the piece's size."""
    counts = Counter[str]()
    for text in texts_of(piece, how):
        if how.level == "char":
            codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
            found = np.bincount(codes)
            counts.update({chr(code): int(found[code]) for code in np.flatnonzero(found)})
        else:
            counts.update(split(text, as_level(how.level)))
    return dict(counts), piece.last - piece.first
