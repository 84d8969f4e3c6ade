"""Tables of sentences: which cells a row has, and which columns are the sentences and the label."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from zoo.data.sentences.kept import IN_MEMORY, Keep, Kept
from zoo.reading import numbered_lines, parsed

_DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons"}
_JSONL = {".jsonl", ".ndjson", ".json"}
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")
_NAME = re.compile(r"[A-Za-z][\w.-]{0,30}")
_SEPARATOR = re.compile(r'"?sep=."?', re.IGNORECASE)  # a first line that is Excel's own
_SNIFFED = 200  # lines that the delimiter is seen from

# Names as `_plain` writes them. GLUE's, SNLI's, SICK's, PAWS-X's and those of the usual hubs.
_PAIRS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("sentencea", "sentenceb"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("sent1", "sent2"),
    ("query1", "query2"),
    ("q1", "q2"),
    ("s1", "s2"),
    ("1string", "2string"),
    ("string1", "string2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("query", "title"),
    ("source", "target"),
    ("句子1", "句子2"),
    ("文本1", "文本2"),
    ("问题1", "问题2"),
)
_SIMILAR = (("anchor", "positive"), ("query", "positive"), ("query", "pos"))  # by what they mean
_LABELS = (
    "label",
    "goldlabel",
    "score",
    "similarity",
    "similarityscore",
    "relatednessscore",
    "entailmentjudgment",
    "isduplicate",
    "duplicate",
    "isparaphrase",
    "paraphrase",
    "quality",
    "grade",
    "rating",
    "标签",
    "相似度",
    "是否相似",
)
_SINGLE = ("sentence", "sentence1", "text", "content", "question", "query", "title")
_KNOWN = {name for pair in (*_PAIRS, *_SIMILAR) for name in pair} | {*_LABELS, *_SINGLE}

ACCEPTED = (
    "taken are .tsv, .csv or tabbed .txt with a header line of sentence1, sentence2, label (or "
    "question1.., text_a.., premise.., anchor..; score, is_duplicate, gold_label), or of two "
    'columns without one, and JSONL of {"text": .., "synonyms": [..]}, {"anchor": .., "positive": '
    '..} or {"sentence1": .., "sentence2": .., "label": ..}; others are named by '
    "--data.columns '[first, second, label]'"
)


class Table(NamedTuple):
    """The rows of a file."""

    path: Path
    dialect: str
    """How cells are parted, in words."""
    rows: Kept[tuple[int, list[str]]]
    """The cells of each row with the line on which it begins."""


class Columns(NamedTuple):
    """Which cells of a row are the sentences and the label."""

    sentences: tuple[int, ...]
    label: int | None
    header: bool
    """Whether the first row is names."""
    told: str
    """The same in words."""


def _plain(name: str) -> str:
    """A column's name without case, spaces and marks."""
    return re.sub(r"[\W_]+", "", name.lower())


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file with their ends, but for the empty last ones."""
    held = list[str]()
    for number, line in numbered_lines(path):
        held.append("\n" if number == 1 and _SEPARATOR.fullmatch(line) else f"{line}\n")
        if line.strip():
            yield from held
            held.clear()


def table_of(path: Path, keep: Keep = IN_MEMORY) -> Table:
    """The cells of a table, by Python's csv module; .gz or plain.

    Whether quotation marks enclose cells is seen from the whole file: they do if every cell that
    begins with one is well-formed and no more rows are broken than without (pandas and spreadsheets
    write so, GLUE's files do not). Where tabs part cells, one in quotes that goes over lines leaves
    lines with too few; if there are not as many of these, two lone marks were taken for a pair.

    Args:
        path: The file.
        keep: Makes what holds its rows.

    Raises:
        ValueError: There is no row, or a cell is larger than any sentence.
    """
    lines: Kept[str] = keep(_lines(path))
    if not lines:
        raise ValueError(f"{path} is empty")
    delimiter = _delimiter(path, lines[:_SNIFFED])
    raw, _ = _cells(path, lines, delimiter, csv.QUOTE_NONE, keep)
    rows, how = raw, "no quotes"
    if any(cell.lstrip().startswith('"') for _, row in raw for cell in row):
        quoted, broken = _cells(path, lines, delimiter, csv.QUOTE_MINIMAL, keep)
        tabs = delimiter == "\t"
        apart = sum(len(row) != len(raw[0][1]) for _, row in raw)
        lone = tabs and len(raw) - len(quoted) > apart
        if broken is None and not lone and _ragged(quoted) <= _ragged(raw):
            rows, how = quoted, "cells in quotes"
        elif not tabs and broken is not None and _ragged(raw) > 0.01 * len(raw):
            raise ValueError(
                f"{path}, line {broken}: a quotation mark that does not end its cell; inside of "
                'quotes it is written ""'
            )
    return Table(path, f"{_DELIMITERS[delimiter]}, {how}", rows)


def is_jsonl(path: Path) -> bool:
    """Whether a file is JSONL by its name."""
    return not _JSONL.isdisjoint(suffix.lower() for suffix in path.suffixes)


def objects_of(path: Path) -> Table:
    """JSONL of objects as a table: the names are those of the first, the cells their values.

    Raises:
        ValueError: A line is no object, or there is none.
    """
    rows, names = list[tuple[int, list[str]]](), list[str]()
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error})") from error
        if not isinstance(row, dict) or any(isinstance(v, list | dict) for v in row.values()):
            raise ValueError(
                f"{path}, line {number}: no object of texts and numbers, such as "
                '{"sentence": ..., "label": ...}'
            )
        names = names or list(row)
        values = [row.get(name) for name in names]
        rows.append((number, ["" if value is None else str(value) for value in values]))
    if not rows:
        raise ValueError(f"{path} is empty")
    return Table(path, "JSONL", [(0, names), *rows])


def is_hidden(labels: Iterable[str]) -> bool:
    """Whether all labels of a file are kept back: empty, or -1 as in exports of GLUE."""
    return {label.strip() for label in labels} <= {"", "-1", "-1.0"}


def _delimiter(path: Path, lines: Sequence[str]) -> str:
    """What parts the cells: that by which most of the first rows have as many as the first."""
    comma = ".csv" in [suffix.lower() for suffix in path.suffixes]
    best, found = 0.0, "," if comma else "\t"
    kinds = [
        (delimiter, quoting)
        for delimiter in ((",", ";", "\t") if comma else _DELIMITERS)
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE)
    ]
    for delimiter, quoting in kinds:
        try:
            rows, broken = _cells(path, lines, delimiter, quoting)
        except ValueError:  # a line without this delimiter is one long cell
            continue
        if broken is not None:  # cut off at the sample's end, or by a lone mark
            rows = rows if broken > len(lines) / 2 else []
        like = sum(len(row) == len(rows[0][1]) for _, row in rows) / len(rows) if rows else 0
        if rows and len(rows[0][1]) > 1 and like > best + 0.1:  # the usual one, if in doubt
            best, found = like, delimiter
    return found


def _cells(
    path: Path, lines: Iterable[str], delimiter: str, quoting: int, keep: Keep = IN_MEMORY
) -> tuple[Kept[tuple[int, list[str]]], int | None]:
    """Rows that are not empty, and the line of the first mistake in quoting, which ends them."""
    rows: Kept[tuple[int, list[str]]] = keep()
    start = 1
    # A lone \r is no end of a row here.
    reader = csv.reader(
        (line.replace("\r", " ") for line in lines),
        delimiter=delimiter,
        quoting=quoting,  # type: ignore[arg-type]  # an int, as csv itself has it
        strict=True,
    )
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append((start, row))
            start = reader.line_num + 1
    except csv.Error as error:
        if "field limit" in str(error) and quoting == csv.QUOTE_NONE:
            raise ValueError(
                f"{path}, line {start}: a cell of more than {csv.field_size_limit():,} characters, "
                "which is no sentence"
            ) from error
        return rows, start
    return rows, None


def _ragged(rows: Sequence[tuple[int, list[str]]]) -> int:
    """Rows with another number of cells than most."""
    if not rows:
        return 0
    return len(rows) - Counter(len(row) for _, row in rows).most_common(1)[0][1]


def is_table(path: Path) -> bool:
    """Whether a file is a table: by its name, or .txt with a header or as many tabs a line."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".tsv" in suffixes or ".csv" in suffixes:
        return True
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    if suffixes[-1:] not in ([".txt"], [".tab"]):
        return False
    counts = Counter[int]()
    for number, line in numbered_lines(path):
        if number == 1 and len(_KNOWN.intersection(map(_plain, line.split("\t")))) > 1:
            return True  # whose cells may hold line breaks
        if line.strip():
            counts[line.count("\t")] += 1
        if number == _SNIFFED:
            break
    usual, how_often = (counts.most_common(1) or [(0, 0)])[0]
    return usual > 0 and how_often >= 0.9 * counts.total()


def _named(table: Table, columns: Sequence[str], header: Sequence[str]) -> Columns:
    """The columns that the user named, by their names or their numbers from 1."""
    plain = [cell.strip().lower() for cell in header]
    found = []
    for name in map(str, columns):
        if name.strip().lower() in plain:
            found.append(plain.index(name.strip().lower()))
        elif name.isdecimal() and 0 < int(name) <= len(header):
            found.append(int(name) - 1)
        else:
            raise ValueError(
                f"{table.path} has no column {name!r} (--data.columns); it has {_shown(header)}"
            )
    if len(set(found)) < len(found):
        raise ValueError(f"--data.columns={list(columns)}: a column is named twice")
    by_number = [str(name).isdecimal() for name in columns]
    _refuse_twice(table, [c for c, number in zip(found, by_number, strict=True) if not number])
    by_name = any(not str(name).isdecimal() for name in columns)
    titled = by_name or not _KNOWN.isdisjoint(map(_plain, header)) or _is_titled(table)
    sentences, label = tuple(found[:2]), found[2] if len(found) > 2 else None
    return _columns(sentences, label, titled, header)


def _columns(
    sentences: tuple[int, ...], label: int | None, titled: bool, header: Sequence[str]
) -> Columns:
    names = [header[c].strip() if titled else f"column {c + 1}" for c in sentences]
    told = " and ".join(names)
    if label is not None:
        told += f" with {header[label].strip() if titled else f'column {label + 1}'}"
    return Columns(sentences, label, titled, told)


def _shown(header: Sequence[str]) -> str:
    cells = [cell.strip()[:20] or "(no name)" for cell in header]
    return ", ".join(cells[:12]) + (f" and {len(cells) - 12} more" if len(cells) > 12 else "")


def columns_of(
    table: Table,
    chosen: Sequence[str] | None = None,
    *,
    single: bool = False,
    unlabelled: bool = False,
) -> Columns:
    """The columns of a table's sentences and label.

    Args:
        table: The table.
        chosen: Names or numbers (from 1) of the columns of both sentences and of the label, if the
            user gave them.
        single: Take a table of one sentence a row too, and no label.
        unlabelled: Take a table that has no label too.

    Raises:
        ValueError: They cannot be told from the names.
    """
    header = table.rows[0][1]
    if chosen is not None:
        return _named(table, chosen, header)
    plain = [_plain(cell) for cell in header]
    for pairs in (_SIMILAR, _PAIRS):
        found = [pair for pair in pairs if set(pair) <= set(plain)]
        if len(found) > 1:
            names = " or ".join("/".join(pair) for pair in found)
            raise ValueError(
                f"{table.path}: which columns are the sentences, {names}? Say --data.columns "
                "'[first, second, label]'"
            )
        if found:
            sentences = (plain.index(found[0][0]), plain.index(found[0][1]))
            label = (
                None if pairs is _SIMILAR else _label(table, plain, header, single or unlabelled)
            )
            _refuse_twice(table, sentences if label is None else (*sentences, label))
            return _columns(sentences, label, True, header)
    alone = [name for name in _SINGLE if name in plain]
    if single and alone:
        label = _label(table, plain, header, True)
        return _columns((plain.index(alone[0]),), label, True, header)
    if len(header) in (2, 3) and _KNOWN.isdisjoint(plain):
        label = 2 if len(header) == 3 else None
        if not any(_numbers(table, column) for column in (0, 1)):
            return _columns((0, 1), label, _is_titled(table), header)
    if single and len(header) == 1 and not _numbers(table, 0):
        return _columns((0,), None, False, header)
    raise ValueError(
        f"{table.path}: which columns are the sentences? It has {_shown(header)}; {ACCEPTED}"
    )


def _label(table: Table, plain: Sequence[str], header: Sequence[str], optional: bool) -> int | None:
    found = [name for name in _LABELS if name in plain]
    if len(found) == 1:
        return plain.index(found[0])
    if optional or len(plain) == 2:
        return None
    raise ValueError(
        f"{table.path}: which column is the label? It has {_shown(header)}; say --data.columns "
        "'[first, second, label]', or '[first, second]' if all pairs are similar"
    )


def _refuse_twice(table: Table, columns: Sequence[int]) -> None:
    """Refuses columns whose names others have too."""
    plain = [_plain(cell) for cell in table.rows[0][1]]
    for column in columns:
        if plain.count(plain[column]) > 1:
            raise ValueError(
                f"{table.path} has {plain.count(plain[column])} columns named "
                f"{table.rows[0][1][column].strip()}: say their numbers, from 1, by --data.columns "
                "'[first, second, label]'"
            )


def _is_titled(table: Table) -> bool:
    """Whether the first row has names for both sentences, of which hardly another row is made."""
    first, *rows = (row[:2] for _, row in table.rows[:_SNIFFED])
    if len(first) < 2 or not all(_NAME.fullmatch(cell.strip()) for cell in first):
        return False
    words = sum(any(_NAME.fullmatch(cell.strip()) for cell in row) for row in rows)
    return len(rows) > 1 and words <= 0.1 * len(rows)


def _numbers(table: Table, column: int) -> bool:
    """Whether a column holds numbers, as one of ids does, and no sentences."""
    numbers = Counter(
        _NUMBER.fullmatch(row[column].strip()) is not None
        for _, row in table.rows
        if column < len(row)
    )
    return numbers[True] > 0.9 * numbers.total()
