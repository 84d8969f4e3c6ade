"""`zoo report` and `zoo plot`; the docstrings are their help."""

import sys
from pathlib import Path

from zoo.report.page import PAGE, check_extra, write_page
from zoo.report.run import read_runs


def report(runs: list[str], *, out: str | None = None) -> None:
    """Writes what runs did as one self-contained page: curves, samples, results, config, machine.

    Reads the run directories alone: no model is loaded and nothing is fetched.

    Args:
        runs: Run directories; of several the curves are laid over each other.
        out: The page to write; report.html in the run directory of one run, here of several.
    """
    found = read_runs(runs)
    path = Path(out) if out else (found[0].folder if len(found) == 1 else Path()) / PAGE
    write_page(found, path)
    print(f"written to {path}")


def plot(
    runs: list[str], *, out: str = "curves.png", metrics: str = "*", log: bool = False
) -> None:
    """Draws the curves of runs for a paper.

    Args:
        runs: Run directories; of several the curves are laid over each other.
        out: The figure to write: .png, .pdf or .svg.
        metrics: Which, as a pattern such as 'val/*'.
        log: Whether values stand on a logarithmic axis, where all are positive.
    """
    found = read_runs(runs)
    check_extra()
    from zoo.report.plot import plot_curves

    notes = plot_curves(found, Path(out), metrics=metrics, log=log)
    print(f"written to {out}")
    sys.stderr.writelines(f"zoo: {note}\n" for note in notes)
