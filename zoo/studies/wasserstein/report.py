"""Numbers with their spread, and tables of them in Markdown."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Part(NamedTuple):
    """One experiment of the study."""

    title: str
    protocol: str
    """How the numbers were made."""
    rows: list[dict[str, Any]]
    """The numbers: for JSON."""
    table: str
    """The same in Markdown."""
    findings: list[str]
    """What holds on these data and what does not, in sentences made from the numbers."""

    def markdown(self) -> str:
        """Title, table, findings and protocol."""
        said = "\n".join(f"* {finding}" for finding in self.findings)
        return f"## {self.title}\n\n{self.table}\n\n{said}\n\n{self.protocol}\n"


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return math.fsum(values) / len(values)


def spread(values: Sequence[float]) -> float:
    """Standard deviation of single values; 0 for one value."""
    m = mean(values)
    return math.sqrt(math.fsum((v - m) ** 2 for v in values) / max(len(values) - 1, 1))


def with_spread(values: Sequence[float], digits: int = 2) -> str:
    """`mean ± standard deviation`, or the value alone where there is but one."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {spread(values):.{digits}f}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are aligned in plain text too; all but the first to the right."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            f"{c:<{w}}" if i == 0 else f"{c:>{w}}"
            for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = (
        "|"
        + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths))
        + "|"
    )
    return "\n".join([line(table[0]), rule, *map(line, table[1:])])


def how_many(true: Sequence[bool]) -> str:
    """`holds`, `does not hold`, or in how many of the runs."""
    if all(true):
        return "holds"
    return f"holds in {sum(true)} of {len(true)} runs" if any(true) else "does not hold"
