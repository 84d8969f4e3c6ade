"""Which curves stand in one chart, and how they are drawn; no library of charts is meant here."""

import re
from dataclasses import dataclass, replace
from fnmatch import fnmatch

from zoo.report.run import Curve, Run

_SPLITS = ("train", "val", "baseline", "test")
MARKED, _FEW = 60, 8  # points of a curve that can be told apart; those of training's too


@dataclass(frozen=True)
class Line:
    """A curve of a chart.

    Args:
        label: Its entry in the legend.
        curve: Steps and values.
        colour: Number in the palette.
        kind: train, val or baseline, or other.
        dash: Number of its pattern, which tells apart a group's curves where the colour is the
            run's; 0 for a whole line.
    """

    label: str
    curve: Curve
    colour: int
    kind: str
    dash: int = 0

    @property
    def marked(self) -> bool:
        """Whether its points are few enough for a mark each."""
        return len(self.curve[0]) <= (_FEW if self.kind == "train" else MARKED)


def charts(runs: list[Run], pattern: str = "*") -> dict[str, list[Line]]:
    """The curves of all runs by chart: a metric of training beside that of validation.

    What is logged in a group of its own (wasserstein/critic, wasserstein/exact) is one chart, and
    those of a run that are the same, number for number, are one line, as a number of all and of its
    only part are one chart.

    Args:
        runs: The runs, a colour each if there are several.
        pattern: Of the metrics' names.
    """
    found: dict[str, list[Line]] = {}
    colours: dict[str, dict[str, int]] = {}
    curves = [(number, run, run.curves()) for number, run in enumerate(runs)]
    logged = dict.fromkeys(name for _, _, own in curves for name in own)
    names = [name for name in logged if fnmatch(name, pattern)]
    for name in sorted(names, key=lambda name: (_order(name), names.index(name))):
        title, label, kind = _place(name)
        for number, run, own in curves:
            if name not in own:
                continue
            several = len(runs) > 1
            known = colours.setdefault(title, {})
            fixed = label in _SPLITS
            own_colour = _SPLITS.index(label) if fixed else known.setdefault(label, len(known))
            colour, dash = (number, 0 if fixed else own_colour) if several else (own_colour, 0)
            shown = f"{run.name} · {label}" if several else label
            line, lines = Line(shown, own[name], colour, kind, dash), found.setdefault(title, [])
            for i, other in enumerate(lines):
                of_this_run = not several or other.colour == colour
                if of_this_run and (other.curve, other.kind) == (line.curve, kind):
                    lines[i] = replace(other, label=f"{other.label} = {label}")
                    break
            else:
                lines.append(line)
    return _without_repeats(found)


def _without_repeats(found: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """The charts without that of a single part, such as spearman stsb, which is the whole's."""
    drawn = {title: [(line.curve, line.kind) for line in lines] for title, lines in found.items()}
    same = {
        title: part
        for title in found
        for part in found
        if part.startswith(f"{title} ") and drawn[part] == drawn[title]
    }
    return {
        f"{title} = {same[title]}" if title in same else title: lines
        for title, lines in found.items()
        if title not in same.values()
    }


def _place(name: str) -> tuple[str, str, str]:
    """The chart of a metric, its label there and its kind."""
    split, slash, rest = name.partition("/")
    if not slash:
        return name, name, "other"
    if split not in _SPLITS:
        return split, rest.replace("_", " "), "train"
    if quarter := re.fullmatch(r"(.*)_q(\d)", rest):
        return f"{quarter[1]} by quarter of the steps", f"quarter {int(quarter[2]) + 1}", split
    return rest.replace("_", " "), split, split


def _order(name: str) -> int:
    """Losses first, then what else is validated, then the rest."""
    if re.match(r"(train|val)/(loss|objective|bound|elbo)\b", name):
        return 0
    return 1 if name.startswith(("val/", "wasserstein/")) else 2
