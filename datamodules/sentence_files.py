"""Files of sentences: groups (JSONL), labelled pairs (TSV) and plain lines.

Rows that cannot be read are left out, counted, and the first of them named with file and line.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

from zoo.simbert.losses import TASKS
from zoo.simbert.rows import Problems, numbered_lines

NLI = ("contradiction", "neutral", "entailment")
_HEADER = ("sentence1", "sentence2", "label")
SIMILAR_GRADE = 4.0  # graded pairs (0 to 5) from here on are training pairs of similar sentences


class Labelled(NamedTuple):
    """A pair of sentences with a label."""

    a: str
    b: str
    label: float
    """0 or 1; or for NLI 0 contradiction, 1 neutral, 2 entailment; or a grade."""
    task: int
    """Number of the kind of label in `zoo.simbert.losses.TASKS`."""


def _clean(text: str) -> str:
    return text.replace("\ufeff", "").strip()


def read_groups(path: Path) -> list[list[str]]:
    """Groups of similar sentences.

    Args:
        path: JSONL with {"text": ..., "synonyms": [...]} a line; or .tsv of labelled pairs, whose
            pairs labelled 1 (or graded 4 or more) are groups of two.

    Raises:
        ValueError: No row can be read.
    """
    if path.name.removesuffix(".gz").endswith(".tsv"):
        return [
            [row.a, row.b]
            for row in read_labelled(path)
            if (TASKS[row.task] == "yes/no" and row.label == 1)
            or (TASKS[row.task] == "graded" and row.label >= SIMILAR_GRADE)
        ]
    problems, groups = Problems(path), []
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, synonyms = row["text"], row["synonyms"]
        except (json.JSONDecodeError, KeyError, TypeError):
            problems.add(number, 'no JSON of {"text": ..., "synonyms": [...]}')
            continue
        if not isinstance(synonyms, list):
            problems.add(number, "synonyms is no list")
            continue
        texts = [text, *synonyms]
        if not all(isinstance(text, str) for text in texts):
            problems.add(number, "a sentence is no text")
            continue
        # The same sentence twice would teach nothing; the order is kept.
        distinct = list(dict.fromkeys(text for t in texts if (text := _clean(t))))
        if len(distinct) < 2:
            problems.add(number, "fewer than two different sentences")
            continue
        groups.append(distinct)
    problems.tell(len(groups))
    return groups


def read_labelled(path: Path) -> list[Labelled]:
    """Labelled pairs of a TSV with the columns sentence1, sentence2 and label.

    What the labels are is seen from them: entailment, neutral, contradiction; 0 and 1; or grades.

    Args:
        path: The file; without a header line the first three columns are taken.

    Raises:
        ValueError: No row can be read.
    """
    problems, rows = Problems(path), list[tuple[int, str, str, str]]()
    columns = (0, 1, 2)
    for number, line in numbered_lines(path):
        cells = line.replace("\ufeff", "").split("\t")
        if number == 1 and set(_HEADER) <= set(cells):
            columns = (cells.index("sentence1"), cells.index("sentence2"), cells.index("label"))
            continue
        if not line.strip():
            continue
        if len(cells) <= max(columns):
            problems.add(number, f"{len(cells)} columns, need {max(columns) + 1}")
            continue
        a, b, label = (_clean(cells[c]) for c in columns)
        if not a or not b:
            problems.add(number, "a sentence is empty")
            continue
        rows.append((number, a, b, label))
    task = _task([label for *_, label in rows])
    pairs = []
    for number, a, b, label in rows:
        value = _value(label, task)
        if value is None:
            problems.add(number, f"label {label!r} in a file of {task} labels")
        else:
            pairs.append(Labelled(a, b, value, TASKS.index(task)))
    problems.tell(len(pairs))
    return pairs


def _number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _task(labels: list[str]) -> str:
    """The kind that most labels are of."""
    numbers = [value for label in labels if (value := _number(label)) is not None]
    if sum(label in NLI for label in labels) > len(numbers):
        return "NLI"
    # A file of grades has many that are neither 0 nor 1; a slip of the pen in a file of yes and no
    # is rare.
    binary = sum(value in (0, 1) for value in numbers)
    return "yes/no" if binary >= 0.99 * len(numbers) else "graded"


def _value(label: str, task: str) -> float | None:
    if task == "NLI":
        return float(NLI.index(label)) if label in NLI else None
    value = _number(label)
    return None if task == "yes/no" and value not in (0, 1) else value


def read_sentences(path: Path) -> list[str]:
    """Sentences of a file: its lines, or all sentences of a .jsonl or .tsv as above.

    Raises:
        ValueError: No row can be read.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".tsv"):
        texts = [text for row in read_labelled(path) for text in (row.a, row.b)]
    elif name.endswith(".jsonl"):
        texts = [text for group in read_groups(path) for text in group]
    else:
        texts = [text for _, line in numbered_lines(path) if (text := _clean(line))]
        if not texts:
            raise ValueError(f"{path} has no line that is not empty")
    return list(dict.fromkeys(texts))
