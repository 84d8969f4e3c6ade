"""The figures of the study of post 8244, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean as mean
from typing import TYPE_CHECKING, Any

from zoo.studies.wasserstein.report import by, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by all; a marker each, for print without colours.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000")
_BLUE, _, _GREEN, _RED, _SKY, _, _BLACK = _COLOURS
_MARKERS = "osD^vPX"
_DPI = 110


def check_matplotlib() -> None:
    """Raises ModuleNotFoundError, with the remedy, if there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the study's figures need matplotlib: pip install 'lightning-model-zoo[study]', or "
            "--figures false for the tables alone"
        ) from error


def _figure(panels: int, columns: int, title: str) -> tuple[Figure, list[Axes]]:
    # No pyplot: it keeps figures in global state and may want a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    lines = -(-panels // columns)
    figure = Figure(figsize=(4.3 * columns, 3.4 * lines + 0.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False).flatten().tolist()
    for empty in grid[panels:]:
        empty.set_axis_off()
    figure.suptitle(title, fontsize=11)
    for axes in grid[:panels]:
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid[:panels]


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version of matplotlib in it, the same numbers give the same file.
    figure.savefig(path, metadata={"Software": None})
    return path


def _curve(
    axes: Axes, x: Sequence[float], values: Sequence[Sequence[float]], number: int, label: str
) -> None:
    axes.errorbar(
        x,
        [mean(v) for v in values],
        [spread(v) for v in values],
        color=_COLOURS[number],
        marker=_MARKERS[number],
        markersize=5,
        capsize=3,
        linewidth=1.5,
        label=label,
    )


def batches_figure(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """W1 of a held-out batch to a real one, to centres and to the mean; a panel a population.

    The rows are as `study_batches` makes them.
    """
    data = by("data", [row for row in rows if "centres" in row])
    curve = [row for row in rows if "dimension" in row]
    title = "Exact W1 of a held-out batch to another batch (lower is nearer)"
    figure, panels = _figure(len(data) + 1, 3, title)
    for (name, own), axes in zip(data.items(), panels, strict=False):
        sizes = [row["batch"] for row in own]
        labels = {"real": "real images", "centres": "k-means centres", "mean": "the mean item"}
        for i, (key, label) in enumerate(labels.items()):
            _curve(axes, sizes, [row[key] for row in own], i, label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set(title=name, xlabel="batch size", ylabel="W1 (Euclidean)")
        axes.set_ylim(bottom=0)
    axes = panels[-1]
    dims = [row["dimension"] for row in curve]
    axes.plot(dims, [r["limit_real"] for r in curve], "--", color=_BLUE, label="√(2d)")
    axes.plot(dims, [r["limit_mean"] for r in curve], ":", color=_GREEN, label="√d")
    _curve(axes, dims, [r["real"] for r in curve], 0, "real points")
    _curve(axes, dims, [r["mean"] for r in curve], 2, "the mean")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(dims, [str(d) for d in dims])
    axes.minorticks_off()
    axes.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes.set(title="N(0, I) in d dimensions, batch 64", xlabel="d", ylabel="W1 (Euclidean)")
    panels[0].legend(fontsize=8, frameon=False, loc="lower left")
    axes.legend(fontsize=8, frameon=False)
    return _save(figure, path)


def static_figure(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Each critic's value between the two distances that it may mean; a panel a problem.

    The rows are as `study_static` makes them.
    """
    problems = by("problem", rows)
    columns = 2 if len(problems) in (2, 4) else 3
    figure, panels = _figure(len(problems), columns, "Value of trained critics")
    for (problem, own), axes in zip(problems.items(), panels, strict=True):
        places = list(range(len(own)))[::-1]
        axes.barh(
            places,
            [mean(row["critic"]) for row in own],
            xerr=[spread(row["critic"]) for row in own],
            color=_SKY,
            capsize=3,
            height=0.65,
        )
        truth, exact = mean(own[0]["truth"]), mean(own[0]["exact"])
        axes.axvline(truth, color=_RED, linewidth=2, label="W1 of the distributions")
        axes.axvline(exact, color=_BLACK, ls="--", linewidth=2, label="W1 of the batches of 64")
        axes.set_yticks(places, [row["critic_name"] for row in own])
        axes.set(title=problem, xlabel="critic's value on batches")
        axes.title.set_fontsize(10)
    labels = panels[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=2, frameon=False)
    return _save(figure, path)


def training_figure(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Critic estimate and exact W1 over a training; below, the Fréchet distances of all runs.

    The rows are as `study_training` makes them: one of each run.
    """
    data, objectives = by("data", rows), list(by("objective", rows))
    used = len(objectives) + 1
    each = -(-used // 3) * 3  # a new line for each population
    title = "What critics estimate while the generator learns"
    figure, panels = _figure(each * len(data), 3, title)
    for number, (name, of_data) in enumerate(data.items()):
        *places, quality = panels[number * each : number * each + used]
        empty = panels[number * each + used : (number + 1) * each]
        for axes in empty:
            axes.set_axis_off()
        for i, (objective, axes) in enumerate(zip(objectives, places, strict=True)):
            own = by("objective", of_data)[objective]
            for j, row in enumerate(own):
                # One entry in the legend for all seeds.
                names = ("exact W1 of the batch", "critic's value", objective)
                exact, critic, made = names if j == 0 else (None, None, None)
                curves, colour = row["curves"], _COLOURS[i]
                step, axis = curves["step"], curves["quality_step"]
                axes.plot(step, curves["exact"], "--", color=_BLACK, linewidth=1.2, label=exact)
                axes.plot(step, curves["critic"], color=colour, linewidth=1.5, label=critic)
                point: Any = {"marker": _MARKERS[i], "markersize": 4, "label": made}
                quality.plot(axis, curves["frechet_distance"], color=colour, **point)
            axes.axhline(mean(own[0]["real"]), color="0.5", ls=":", label="W1 of two real batches")
            axes.set(title=f"{name}, {objective}", xlabel="generator iterations", ylabel="W1")
            axes.legend(fontsize=8, frameon=False)
        top = max(max(row["curves"]["exact"]) for row in of_data)
        least = min(0.0, *(min(row["curves"]["critic"]) for row in of_data))
        for axes in places:  # one scale, so that panels compare
            axes.set_ylim(1.05 * least, 1.05 * top)
        real = of_data[0]["curves"]["baseline_frechet_distance"][-1]
        quality.axhline(real, color="0.5", ls=":", label="real images")
        quality.set(title=f"{name}, samples", xlabel="generator iterations")
        quality.set(ylabel="Fréchet distance (lower is better)", yscale="log")
        beside = empty[0] if empty else quality
        beside.legend(*quality.get_legend_handles_labels(), frameon=False, loc="center left")
    return _save(figure, path)
