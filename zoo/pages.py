"""What a model offers on a page in a browser: families say it, `zoo serve` draws it.

A tab is a function and its controls. A control knows what it may be given and checks it, since what
comes over the network need not come from the page.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from zoo.ranges import Range, find_fault
from zoo.reading import numbered_lines

_SIDE = 4096  # pixels of a drawing
LINES = 10_000  # of an uploaded file
_LETTERS = 2000


@dataclass(frozen=True)
class Number:
    """A number on a slider.

    Args:
        label: Its name on the page.
        value: What it is at first.
        low: The least.
        high: The greatest.
        step: From one value to the next; 1 for whole numbers.
    """

    label: str
    value: float
    low: float = 0
    high: float = 1
    step: float = 1

    def checked(self, given: Any) -> float:
        """The number, a whole one where steps are of 1; ValueError where it is none, or too far."""
        kind: Any = int if self.step == 1 else float
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise ValueError(f"{self.label}: needs a number, got {given!r:.40}")
        if fault := find_fault(Annotated[kind, Range(self.low, self.high)], given):
            raise ValueError(f"{self.label} {given}: {fault}")
        return kind(given)


SEED = Number("Seed", 0, 0, 2**31 - 1)
IMAGES = Number("Number", 16, 1, 64)


@dataclass(frozen=True)
class Choice:
    """One of a few words.

    Args:
        label: Its name on the page.
        options: The words, the first being what it is at first.
    """

    label: str
    options: list[str]

    def checked(self, given: Any) -> str:
        """The word; ValueError where it is none of them."""
        if not isinstance(given, str) or given not in self.options:
            shown = ", ".join(self.options[:12]) + ", ..." * (len(self.options) > 12)
            raise ValueError(f"{self.label} {given!r:.40}: choose one of {shown}")
        return given


@dataclass(frozen=True)
class Switch:
    """Yes or no.

    Args:
        label: Its name on the page.
        value: What it is at first.
    """

    label: str
    value: bool = False

    def checked(self, given: Any) -> bool:
        """The answer; ValueError where it is none."""
        if not isinstance(given, bool):
            raise ValueError(f"{self.label}: needs true or false, got {given!r:.40}")
        return given


@dataclass(frozen=True)
class Text:
    """A text that is typed.

    Args:
        label: Its name on the page.
        value: What it is at first.
        lines: Lines of the field.
        empty: Whether there may be none.
    """

    label: str
    value: str = ""
    lines: int = 1
    empty: bool = False

    def checked(self, given: Any) -> str:
        """The text; ValueError where it is none, or too long."""
        if not isinstance(given, str):
            raise ValueError(f"{self.label}: needs a text, got {given!r:.40}")
        if len(given) > _LETTERS:
            raise ValueError(f"{self.label}: {len(given)} characters, at most {_LETTERS}")
        if not (given.strip() or self.empty):
            raise ValueError(f"{self.label}: type something first")
        if any("\ud800" <= letter <= "\udfff" for letter in given):
            raise ValueError(f"{self.label}: half a surrogate pair is no character")
        return given


@dataclass(frozen=True)
class Upload:
    """A text file of one sentence a line.

    Args:
        label: Its name on the page.
    """

    label: str

    def checked(self, given: Any) -> list[str]:
        """The different lines that are not empty; ValueError where there are none, or too many."""
        if not isinstance(given, str):
            raise ValueError(f"{self.label}: choose a file first")
        lines = list(dict.fromkeys(line for _, line in numbered_lines(given) if line.strip()))
        if not 0 < len(lines) <= LINES:
            raise ValueError(f"{self.label}: {len(lines)} sentences, from 1 to {LINES}, one a line")
        return lines


@dataclass(frozen=True)
class Sketch:
    """A drawing in white, or in colours, on black.

    Args:
        label: Its name on the page.
        shape: Of the images that it stands for, (C, H, W).
    """

    label: str
    shape: tuple[int, int, int]

    def checked(self, given: Any) -> np.ndarray:
        """The drawing, uint8 (H, W, 3) of any size; ValueError where it is none."""
        if not isinstance(given, np.ndarray) or given.dtype != np.uint8:
            raise ValueError(f"{self.label}: draw something first")
        if given.ndim != 3 or given.shape[2] != 3 or max(given.shape) > _SIDE:
            raise ValueError(f"{self.label}: needs an RGB image of at most {_SIDE} pixels a side")
        return given


_IN_TURN, _NO_CLASS = "each in turn", "none"


def class_choice(classes: int, *, none: bool = False) -> dict[str, Choice]:
    """The control `label` of a model with so many classes, and with samples of none if it may."""
    words = [_IN_TURN, *map(str, range(classes)), *[_NO_CLASS] * none]
    return {"label": Choice("Class", words)} if classes else {}


def class_of(label: str, classes: int) -> int | None:
    """What `sample` takes as labels for a word of that control."""
    return {_IN_TURN: None, _NO_CLASS: classes}[label] if not label.isdigit() else int(label)


Control = Number | Choice | Switch | Text | Upload | Sketch


@dataclass(frozen=True)
class Result:
    """What a function gives.

    Args:
        kind: images: a tensor (N, C, H, W) in [-1, 1], or points (N, 2); text; table: rows.
        label: Its name on the page.
        layout: Images a row, lines of a text's field, or of a table the names of its columns, each
            with its share of the width in percent.
    """

    kind: Literal["images", "text", "table"]
    label: str
    layout: Any = None


@dataclass(frozen=True)
class Tab:
    """A function of a model with its controls.

    Args:
        title: Its name on the page.
        run: Takes the controls' values by name and gives a value for each result, or is a generator
            that yields such tuples as they come.
        controls: Its arguments.
        results: What it gives.
        note: How to use it, in a sentence.
        button: What starts it; nothing where a change of any control does.
    """

    title: str
    run: Callable[..., Any]
    controls: Mapping[str, Control]
    results: list[Result]
    note: str = ""
    button: str | None = "Run"

    def __call__(self, **given: Any) -> Iterator[tuple[Any, ...]]:
        """What the function gives, or each of what it yields, for values that are checked first.

        Raises:
            ValueError: A value is of another kind or out of range, or the model refuses it.
        """
        values = {name: control.checked(given[name]) for name, control in self.controls.items()}
        found = self.run(**values)
        yield from [found] if isinstance(found, tuple) else found
