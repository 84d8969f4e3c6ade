"""Files of sentences: groups (JSONL), pairs with or without labels (tables, JSONL), plain lines.

Rows that cannot be read are left out, counted, and the first of them named with file and line.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from zoo.data.sentences.batches import TASKS
from zoo.data.sentences.kept import IN_MEMORY, Keep, Kept
from zoo.data.sentences.labels import SIMILAR_GRADE, Kind, kind_of
from zoo.data.sentences.numbered import Numbered
from zoo.data.sentences.rows import Problems
from zoo.data.sentences.tables import (
    ACCEPTED,
    Table,
    columns_of,
    is_hidden,
    is_jsonl,
    is_table,
    table_of,
)
from zoo.reading import numbered_lines, parsed
from zoo.waiting import waiting

_NO_TEXT = (".xlsx", ".xls", ".ods", ".parquet", ".arrow", ".feather", ".zip", ".docx", ".pdf")
_ARRAY = "an array of objects: write one a line, as jq -c '.[]' does"
_GROUP = 'no JSON of {"text": ..., "synonyms": [...]} or of a pair'


class Labelled(NamedTuple):
    """A pair of sentences with a label."""

    a: str
    b: str
    label: float
    """0 or 1; or for NLI 0 contradiction, 1 neutral, 2 entailment; or a grade of 0 to 5."""
    task: int
    """Number of the kind of label in `zoo.data.sentences.batches.TASKS`."""


class Reading(NamedTuple):
    """What the user said of the files."""

    columns: Sequence[str] | None = None
    """Names or numbers of the columns of both sentences and of the label."""
    labels: Sequence[str] | None = None
    """What 0 and 1, or 0, 1 and 2, mean."""
    scale: Sequence[float] | None = None
    """The lowest and the highest grade."""


_NOTHING_SAID = Reading()


@dataclass
class SentenceFile:
    """What a file holds, before its labels are understood."""

    path: Path
    reading: Reading
    how: str = ""
    """How its rows are written, in words."""
    keep: Keep = IN_MEMORY
    """Makes what holds its rows."""
    groups: Kept[list[str]] = field(init=False)
    pairs: Kept[tuple[int, str, str, str | None]] = field(init=False)
    """Line, both sentences and the label."""
    lone: Kept[str] = field(init=False)
    """Single sentences."""

    def __post_init__(self) -> None:
        self.groups, self.pairs, self.lone = (self.keep() for _ in range(3))
        self.problems = Problems(self.path)
        self._kinds: dict[bool, Kind] = {}
        self._told = False  # of rows whose label is bad too

    @cached_property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return any(label is not None for *_, label in self.pairs)

    def kind(self, ranked: bool = False) -> Kind:
        """What the labels are, if that can be told; with `ranked` only grades' order counts."""
        if ranked not in self._kinds:
            labels = (label for *_, label in self.pairs if label is not None)
            names, scale = self.reading.labels, self.reading.scale
            kind = kind_of(labels, self.path, names=names, scale=scale, ranked=ranked)
            self._kinds[ranked] = kind
        return self._kinds[ranked]

    def labelled(self, ranked: bool = False) -> Kept[Labelled]:
        """The labelled pairs.

        Raises:
            ValueError: There are none, or what they are cannot be told.
        """
        if not self.has_labels and (self.pairs or self.groups):
            raise ValueError(f"{self.path} has no labels: {ACCEPTED}")
        kind = self.kind(ranked) if self.has_labels else None
        pairs = self.keep(list[Labelled]())
        bad = Problems(self.path, self.problems.rows, told=self._told)
        for number, a, b, label in self.pairs if kind is not None else ():
            assert kind is not None
            value = None if label is None else kind.value(label)
            if value is None:
                bad.add(number, f"label {label!r} in a file of {kind.task} labels")
            else:
                pairs.append(Labelled(a, b, value, TASKS.index(kind.task)))
        bad.tell(len(pairs))
        self._told = bad.told
        return pairs

    def similar(self) -> Kept[list[str]]:
        """The groups, and of the pairs those that are labelled similar, or all without labels.

        Raises:
            ValueError: No row could be read, or what the labels are cannot be told.
        """
        if self.has_labels:
            similar = ([p.a, p.b] for p in self.labelled() if is_similar(p))
            return self.keep(chain(self.groups, similar))
        self.problems.tell(len(self.groups) + len(self.pairs))
        return self.keep(chain(self.groups, ([a, b] for _, a, b, _ in self.pairs)))

    def texts(self) -> Iterator[str]:
        """All sentences."""
        yield from (text for group in self.groups for text in group)
        yield from (text for _, a, b, _ in self.pairs for text in (a, b))
        yield from self.lone

    def sentences(self) -> Kept[str]:
        """All sentences, each once; ValueError if there is none."""
        numbered = Numbered(self.keep.folder)
        numbered.extend(self.texts())
        if not len(numbered) and not self.problems.rows:
            raise ValueError(f"{self.path} has no line that is not empty")
        self.problems.tell(len(numbered))
        firsts = enumerate(numbered.firsts())
        return self.keep(
            text for text, (i, first) in zip(self.texts(), firsts, strict=True) if first == i
        )

    def told(self, what: str = "") -> str:
        """What was read, in a line; `what` says more of it."""
        labels = self.kind().told if self.has_labels and not what else ""
        bad = len(self.problems.rows)
        parts = (self.how, labels, what, f"left out: {bad} bad rows" if bad else "")
        return f"{self.path.name}: " + "; ".join(part for part in parts if part)


def _clean(text: str) -> str:
    return text.replace("\ufeff", "").strip()


def read_file(
    path: Path,
    reading: Reading = _NOTHING_SAID,
    *,
    single: bool = False,
    unlabelled: bool = False,
    keep: Keep = IN_MEMORY,
) -> SentenceFile:
    """The rows of any file of sentences.

    Args:
        path: A table (.tsv, .csv, tabbed .txt), JSONL, or with `single` plain lines; .gz too.
        reading: What the user said of it.
        single: Take single sentences too.
        unlabelled: Take pairs whose label is not there too.
        keep: Makes what holds its rows.

    Raises:
        ValueError: It is of another kind, or its columns cannot be told.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] and suffixes[-1] in _NO_TEXT:
        raise ValueError(f"{path} is no text: save it as .csv; {ACCEPTED}")
    json_lines, found = is_jsonl(path), SentenceFile(path, reading, keep=keep)
    if not json_lines and is_table(path):
        _of_table(found, table_of(path, keep), single, unlabelled)
    elif json_lines or _begins_as_json(path):
        _of_jsonl(found, single, unlabelled)
    elif single:
        found.how = "a sentence a line"
        found.lone = keep(text for _, line in numbered_lines(path) if (text := _clean(line)))
    else:
        raise ValueError(f"{path} holds single lines, and no pairs: {ACCEPTED}")
    if unlabelled and found.has_labels and is_hidden(label or "" for *_, label in found.pairs):
        found.pairs = keep((number, a, b, None) for number, a, b, _ in found.pairs)
        found.has_labels = False
    return found


def _begins_as_json(path: Path) -> bool:
    for _, line in numbered_lines(path):
        if line.strip():
            try:
                return isinstance(parsed(line), dict | list)
            except ValueError:
                return False
    return False


def _of_table(found: SentenceFile, table: Table, single: bool, unlabelled: bool) -> None:
    """Adds the rows of a table."""
    reading = found.reading
    columns = columns_of(table, reading.columns, single=single, unlabelled=unlabelled)
    found.how = f"{table.dialect}; {columns.told}"
    width = len(table.rows[0][1])
    # Of columns that the user has numbered, a row may have more behind them, as STS-B's have.
    more = reading.columns is not None and not columns.header
    need = 1 + max(*columns.sentences, columns.label or 0) if more else width
    rows = waiting(table.rows, f"read {table.path.name}", unit="rows")
    for number, cells in islice(rows, int(columns.header), None):
        if len(cells) < need or (len(cells) > need and not more):
            found.problems.add(number, f"{len(cells)} columns, need {need}")
            continue
        texts = [_clean(cells[c]) for c in columns.sentences]
        if not all(texts):
            found.problems.add(number, "a sentence is empty")
        elif len(texts) == 1:
            found.lone.append(texts[0])
        else:
            label = None if columns.label is None else cells[columns.label].strip()
            found.pairs.append((number, texts[0], texts[1], label))


def _of_jsonl(found: SentenceFile, single: bool, unlabelled: bool) -> None:
    """Adds the rows of JSONL."""
    path, told = found.path, dict[str, None]()
    for number, line in waiting(numbered_lines(path), f"read {path.name}", unit="rows"):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError as error:
            why = _ARRAY if line.strip() == "[" else _GROUP
            found.problems.add(number, f"{_GROUP}: {error}" if "nested" in str(error) else why)
            continue
        reason = _json_row(found, number, row, single, unlabelled, told)
        if reason is not None:
            found.problems.add(number, reason)
    found.how = f"JSONL; {', '.join(told)}"


def _json_row(
    found: SentenceFile,
    number: int,
    row: Any,
    single: bool,
    unlabelled: bool,
    told: dict[str, None],
) -> str | None:
    """Adds a row of JSONL; returns why it cannot be."""
    if isinstance(row, Mapping) and {"text", "synonyms"} <= row.keys():
        if not isinstance(row["synonyms"], list):
            return "synonyms is no list"
        texts, how = [row["text"], *row["synonyms"]], "text and synonyms"
    elif isinstance(row, Mapping) and isinstance(row.get("set"), list):
        texts, how = row["set"], "sets"
    elif isinstance(row, list) and any(isinstance(one, Mapping) for one in row):
        return _ARRAY
    elif isinstance(row, list):
        texts, how = row, "lists of similar sentences"
    elif isinstance(row, Mapping):
        return _json_pair(found, number, row, single, unlabelled, told)
    else:
        return _GROUP
    if not all(isinstance(text, str) for text in texts):
        return "a sentence is no text"
    # The same sentence twice would teach nothing; the order is kept.
    distinct = list(dict.fromkeys(text for t in texts if (text := _clean(t))))
    if len(distinct) < 2:
        return "fewer than two different sentences"
    found.groups.append(distinct)
    told[how] = None
    return None


def _json_pair(
    found: SentenceFile,
    number: int,
    row: Mapping[str, Any],
    single: bool,
    unlabelled: bool,
    told: dict[str, None],
) -> str | None:
    """Adds a pair whose cells are the values of an object."""
    try:
        table = Table(found.path, "", [(number, list(row))])
        columns = columns_of(table, found.reading.columns, single=single, unlabelled=unlabelled)
    except ValueError as error:
        if number == 1:  # the file is of another kind: said with all that is taken
            raise ValueError(f"{_GROUP}: {error}") from error
        return _GROUP
    if not columns.header:
        return _GROUP
    cells = list(row.values())
    texts = [cells[c] for c in columns.sentences]
    if not all(isinstance(text, str) for text in texts):
        return "a sentence is no text"
    texts = [_clean(text) for text in texts]
    if not all(texts):
        return "a sentence is empty"
    told[columns.told] = None
    if len(texts) == 1:
        found.lone.append(texts[0])
        return None
    label = None if columns.label is None else cells[columns.label]
    missing = columns.label is None or (unlabelled and label is None)
    if not missing and not isinstance(label, str | int | float):
        return "the label is neither text nor number"
    found.pairs.append((number, texts[0], texts[1], None if label is None else str(label)))
    return None


def is_similar(pair: Labelled) -> bool:
    """Whether a labelled pair is one of similar sentences; NLI's never are."""
    kind = TASKS[pair.task]
    return (kind == "yes/no" and pair.label == 1) or (
        kind == "graded" and pair.label >= SIMILAR_GRADE - 1e-9
    )
