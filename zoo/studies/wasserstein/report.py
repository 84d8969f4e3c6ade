"""Numbers with their spread, and tables of them in Markdown."""

from collections.abc import Sequence
from statistics import fmean as mean
from statistics import stdev
from typing import Any, NamedTuple

Row = dict[str, Any]


class Part(NamedTuple):
    """One experiment of the study."""

    title: str
    protocol: str
    """How the numbers were made."""
    rows: list[Row]
    """The numbers: for JSON."""
    table: str
    """The same in Markdown."""
    findings: list[str]
    """What holds on these data and what does not, in sentences made from the numbers."""

    def markdown(self) -> str:
        """Title, table, findings and protocol."""
        said = "\n".join(f"* {finding}" for finding in self.findings)
        return f"## {self.title}\n\n{self.table}\n\n{said}\n\n{self.protocol}\n"


def by(key: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each value of a key, in the order in which the values come first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def spread(values: Sequence[float]) -> float:
    """Standard deviation of single values; 0 for one value."""
    return stdev(values) if len(values) > 1 else 0.0


def with_spread(values: Sequence[float], digits: int = 2) -> str:
    """`mean ± standard deviation`, or the value alone where there is but one."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {spread(values):.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are aligned in plain text too; all but the first to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    sides = ["<", *">" * (len(widths) - 1)]
    lines = [
        " | ".join(f"{c:{s}{w}}" for c, s, w in zip(cells, sides, widths, strict=True))
        for cells in table
    ]
    rule = [
        "-" * (w + 2) if s == "<" else "-" * (w + 1) + ":"
        for s, w in zip(sides, widths, strict=True)
    ]
    head, *body = [f"| {line} |" for line in lines]
    return "\n".join([head, f"|{'|'.join(rule)}|", *body])


def how_many(true: Sequence[bool]) -> str:
    """`holds`, `does not hold`, or in how many of the runs."""
    if all(true):
        return "holds"
    return f"holds in {sum(true)} of {len(true)} runs" if any(true) else "does not hold"
