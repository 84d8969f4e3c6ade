"""The curves of runs as a figure of Matplotlib, for papers."""

from fnmatch import fnmatch
from pathlib import Path

from zoo.files import replacing
from zoo.registry import nearest
from zoo.report.curves import Line, charts
from zoo.report.run import Run

# Okabe and Ito's colours, told apart by all.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MOST = 48  # panels; the time to lay them out grows with their square
_FORMATS = (".png", ".pdf", ".svg")


def plot_curves(runs: list[Run], path: Path, *, metrics: str, log: bool) -> None:
    """Writes a panel for each chart.

    Raises:
        ValueError: The format is unknown, or there is nothing to draw.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"--out {path}: the name ends in one of {', '.join(_FORMATS)}")
    logged = {name for run in runs for name in run.curves()}
    if not logged:
        raise ValueError(f"{', '.join(str(run.folder) for run in runs)}: no metric is logged yet")
    if not any(fnmatch(name, metrics) for name in logged):
        raise ValueError(f"--metrics {metrics}: {nearest(metrics, sorted(logged))}")
    found = charts(runs, metrics)
    if len(found) > _MOST:
        raise ValueError(f"--metrics {metrics}: {len(found)} charts, and a figure holds {_MOST}")
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    with rc_context({"svg.fonttype": "none", "pdf.fonttype": 42, "font.size": 9}):
        figure = Figure(figsize=(4 * columns, 2.9 * rows), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for empty in panels[len(found) :]:
            empty.set_axis_off()
        for axes, (title, lines) in zip(panels, found.items(), strict=False):
            for line in lines:
                axes.plot(*line.curve, label=line.label, **_style(line))
            axes.set(title=title, xlabel="step", yscale="log" if log else "linear")
            axes.grid(color="0.9", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            if len(lines) > 1:
                axes.legend(frameon=False, fontsize=8)
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:].lower(), metadata=_no_date(path))


def _style(line: Line) -> dict[str, object]:
    dash = {"baseline": ":", "train": "-"}.get(line.kind, "-")
    return {
        "color": _COLOURS[line.colour % len(_COLOURS)],
        "linestyle": dash,
        "linewidth": 1 if line.kind == "train" else 1.8,
        "marker": "o" if len(line.curve[0]) == 1 else None,
    }


def _no_date(path: Path) -> dict[str, None]:
    """So that the same numbers give the same file."""
    return {{".png": "Software", ".pdf": "CreationDate", ".svg": "Date"}[path.suffix.lower()]: None}
