"""What the labels of a file of pairs are: yes and no, NLI, or grades of a scale.

Grades are turned to 0 to 5, of which 4 and more are similar, whatever their own scale is.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

NLI = ("contradiction", "neutral", "entailment")
_BINARY = ("no", "yes")
_TWO_WAY = ("not_entailment", "entailment")  # of RTE and QNLI
_WORDS = {
    "yes/no": {
        **dict.fromkeys(("no", "n", "false", "f", "0", "否", "not_duplicate", "different"), 0.0),
        **dict.fromkeys(("yes", "y", "true", "t", "1", "是", "duplicate", "similar"), 1.0),
    },
    "NLI": {name: float(i) for i, name in enumerate(NLI)},
}
SIMILAR_GRADE, GRADES = 4.0, 5.0  # of 5: graded pairs that are trained on as similar ones
_SIMILAR_SHARE = SIMILAR_GRADE / GRADES
_ACCEPTED = (
    "labels are 0 and 1, yes and no, true and false; contradiction, neutral, entailment; or grades"
)


class Kind(NamedTuple):
    """The labels of a file."""

    task: str
    """Of `zoo.data.sentences.batches.TASKS`."""
    value: Callable[[str], float | None]
    """The number of a label: 0 or 1, 0 to 2 of NLI, or a grade of 0 to 5; None if it is none."""
    told: str
    """The same in words."""


def check_labels(names: Sequence[str] | None, scale: Sequence[float] | None) -> None:
    """Raises ValueError if what the user said of the labels makes no sense."""
    if names is not None and sorted(names) not in map(sorted, (_BINARY, _TWO_WAY, NLI)):
        raise ValueError(
            f"--data.labels={list(names)}: give what 0 and 1 mean, '[no, yes]', or what 0, 1 and 2 "
            "mean, such as '[entailment, neutral, contradiction]'"
        )
    if scale is not None and (
        len(scale) != 2 or not all(map(math.isfinite, scale)) or not scale[0] < scale[1]
    ):
        raise ValueError(
            f"--data.scale={list(scale)}: give the lowest and the highest grade, such as '[0, 100]'"
        )


def _number(label: str) -> float | None:
    """A number, also with a decimal comma."""
    try:
        value = float(label.replace(",", ".")) if label.count(",") == 1 else float(label)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _word(label: str) -> str:
    """A label without case; 1.0 is 1, as data frames write it."""
    word = label.strip().lower().replace(" ", "_")
    return word[:-2] if word in ("0.0", "1.0", "2.0") else word


def _by_words(task: str, told: str, words: dict[str, float]) -> Kind:
    return Kind(task, lambda label: words.get(_word(label)), told)


def _graded(low: float, high: float) -> Kind:
    def value(label: str) -> float | None:
        number = _number(label)
        if number is None or not low <= number <= high:
            return None
        return (number - low) / (high - low) * GRADES

    at = low + _SIMILAR_SHARE * (high - low)
    return Kind("graded", value, f"grades of {low:g} to {high:g}, similar from {at:g}")


def kind_of(
    labels: Iterable[str],
    path: Path,
    *,
    names: Sequence[str] | None = None,
    scale: Sequence[float] | None = None,
    ranked: bool = False,
) -> Kind:
    """What most labels of a file are.

    Args:
        labels: All of them.
        path: The file.
        names: What 0 and 1, or 0, 1 and 2, mean, if the user said it.
        scale: The lowest and the highest grade, if the user said it.
        ranked: Only the order of grades counts, so that their scale may be that of the file.
    """
    spelt, words, graded = Counter(labels), Counter[str](), Counter[float]()
    for label, count in spelt.items():
        words[_word(label)] += count
        if (number := _number(label)) is not None:
            graded[number] += count
    if names is not None and words.keys() & {"0", "1", "2"}:
        kinds = next(kinds for kinds in (NLI, _BINARY, _TWO_WAY) if set(kinds) == set(names))
        task = "NLI" if kinds is NLI else "yes/no"
        numbers = {str(i): float(kinds.index(name)) for i, name in enumerate(names)}
        told = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        return _by_words(task, f"{task} ({told})", numbers)
    of = {task: sum(words[word] for word in known) for task, known in _WORDS.items()}
    if words["not_entailment"]:
        if set(names or ()) == set(_TWO_WAY):
            return _by_words("yes/no", "entailment or not", {"not_entailment": 0, "entailment": 1})
        raise ValueError(
            f"{path}: labels entailment and not_entailment say neither whether two sentences are "
            "similar nor all of NLI: --data.labels '[not_entailment, entailment]' takes them for "
            "no and yes, --data.columns '[first, second]' reads the pairs without"
        )
    if of["NLI"] > spelt.total() / 2:
        return _by_words("NLI", "NLI", _WORDS["NLI"])
    # A file of grades has many that are neither 0 nor 1; a slip of the pen in one of yes and no is
    # rare.
    if of["yes/no"] > spelt.total() / 2 and of["yes/no"] >= 0.99 * (
        of["yes/no"] + sum(n for value, n in graded.items() if value not in (0, 1))
    ):
        return _by_words("yes/no", "yes or no", _WORDS["yes/no"])
    if graded.total() <= spelt.total() / 2:
        shown = ", ".join(repr(word[:20]) for word, _ in words.most_common(4))
        raise ValueError(
            f"{path}: labels {shown} are of no kind that is known: {_ACCEPTED}; --data.columns "
            "'[first, second, label]' names another column, '[first, second]' none"
        )
    return _grades(graded, path, scale, ranked)


def _grades(
    graded: Counter[float], path: Path, scale: Sequence[float] | None, ranked: bool
) -> Kind:
    """The scale of grades: the user's, or 0 to 1 or 0 to 5 where the grades show it."""
    low, high = min(graded), max(graded)
    if scale is not None:
        if low < scale[0] or high > scale[1]:
            raise ValueError(
                f"{path} has grades from {low:g} to {high:g}: outside of --data.scale={list(scale)}"
            )
        return _graded(*scale)
    for top in (1.0, GRADES):
        if low >= 0 and _SIMILAR_SHARE * top <= high <= top:
            return _graded(0, top)
    if ranked and low < high:
        return _graded(low, high)
    asked = [-1.0, 1.0] if -1 <= low < 0 and high <= 1 else [min(low, 0), high]
    if set(graded) <= {-1, 0, 1, 2} and set(graded) != {-1, 1}:
        raise ValueError(
            f"{path} has the labels {', '.join(f'{g:g}' for g in sorted(graded))}: grades, or NLI? "
            "Say --data.labels '[entailment, neutral, contradiction]' in the order of 0, 1, 2, or "
            f"--data.scale '[{asked[0]:g}, {asked[1]:g}]'"
        )
    raise ValueError(
        f"{path} has grades from {low:g} to {high:g}, of which scale? Say it: --data.scale "
        f"'[{asked[0]:g}, {asked[1]:g}]' (lowest, highest); from four fifths of it on pairs are "
        "similar"
    )
