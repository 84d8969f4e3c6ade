"""The curves of runs as a figure of Matplotlib, for papers."""

import math
from fnmatch import fnmatch
from pathlib import Path
from warnings import catch_warnings, filterwarnings

from zoo.files import replacing
from zoo.registry import nearest
from zoo.report.curves import Line, charts
from zoo.report.run import Run

# Okabe and Ito's colours, told apart by all.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", (0, (7, 2)), ":", (0, (5, 1, 1, 1, 1, 1)))
_MOST = 48  # panels; the time to lay them out grows with their square
_FORMATS = (".png", ".pdf", ".svg")
_CHINESE = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
)


def plot_curves(runs: list[Run], path: Path, *, metrics: str, log: bool) -> list[str]:
    """Writes a panel for each chart.

    Returns:
        What the figure does not show as it should, a sentence each.

    Raises:
        ValueError: The format is unknown, or there is nothing to draw.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

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
    linear = [title for title, lines in found.items() if log and not _positive(lines)]
    notes = [f"not logarithmic, since not all is positive: {', '.join(linear)}"] if linear else []
    texts = "".join([*found, *(line.label for lines in found.values() for line in lines)])
    beyond, more = "".join(dict.fromkeys(filter(_is_beyond, texts))), _more_fonts()
    if beyond and not more:
        notes.append(f"no font here has {beyond}: install one, such as {_CHINESE[0]}")
    texts_stay = rc_context({"svg.fonttype": "none", "pdf.fonttype": 42})
    fonts = rc_context({"font.size": 9, "font.family": ["sans-serif", *more]})
    with texts_stay, fonts, catch_warnings():
        filterwarnings("ignore", "Glyph")  # told in a line
        figure = Figure(figsize=(4 * columns, 2.9 * rows), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
        for empty in panels[len(found) :]:
            empty.set_axis_off()
        for axes, (title, lines) in zip(panels, found.items(), strict=False):
            for line in lines:
                axes.plot(*line.curve, **_style(line))
            scale = "log" if log and title not in linear else "linear"
            axes.set(title=_plain(title), xlabel="step", yscale=scale)
            axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))
            axes.set_xlim(left=0)
            axes.grid(color="0.9", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            if len(lines) > 1:
                drawn = axes.get_lines()
                names = [str(i) for i in range(len(drawn))]
                legend = axes.legend(drawn, names, frameon=False, fontsize=8)
                # Matplotlib before 3.10 would leave out lines whose label begins with "_".
                for text, line in zip(legend.get_texts(), lines, strict=True):
                    text.set_text(_plain(line.label))
        with replacing(path) as file:
            figure.savefig(file, format=path.suffix[1:].lower(), metadata=_no_date(path))
    return notes


def _style(line: Line) -> dict[str, object]:
    return {
        "color": _COLOURS[line.colour % len(_COLOURS)],
        "linestyle": ":" if line.kind == "baseline" else _DASHES[line.dash % len(_DASHES)],
        "linewidth": 1 if line.kind == "train" else 1.8,
        "marker": "o" if line.marked else None,
        "markersize": 3,
    }


def _positive(lines: list[Line]) -> bool:
    """Whether nothing that is drawn would be lost on a logarithmic axis."""
    return all(value > 0 for line in lines for value in line.curve[1] if math.isfinite(value))


def _plain(text: str) -> str:
    """Text for Matplotlib, which reads what stands between two dollars as a formula."""
    return text.replace("$", r"\$")


def _is_beyond(letter: str) -> bool:
    """Whether Matplotlib's own font lacks it for being Chinese, Japanese or Korean."""
    return "\u2e80" <= letter <= "\uffdc" or letter > "\U00020000"


def _more_fonts() -> list[str]:
    from matplotlib.font_manager import fontManager

    here = set(fontManager.get_font_names())
    return [name for name in _CHINESE if name in here][:1]


def _no_date(path: Path) -> dict[str, None]:
    """So that the same numbers give the same file."""
    return {{".png": "Software", ".pdf": "CreationDate", ".svg": "Date"}[path.suffix.lower()]: None}
