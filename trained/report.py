"""RESULTS.md, made of the records of all models of the list."""

from pathlib import Path
from typing import Any

from trained.entries import Entry
from trained.runs import PRETRAINED, RESULTS, read

REPORT = Path(__file__).parents[1] / "RESULTS.md"
_HEAD = """\
# Results

Written by `make zoo` (trained/report.py) from the records of the runs; the list of models is
[trained/list.toml](trained/list.toml). A number is of the very file that ships, but for those of a
validation, which the training took. Hours are those of one core; they are not known of a run that
was begun elsewhere.
"""


def record_of(entry: Entry) -> dict[str, Any]:
    """What is known of a model's training and test; empty before them."""
    shipped, other = PRETRAINED / entry.name / "results.json", RESULTS / f"{entry.folder}.json"
    return read(shipped if entry.ships else other)


def write_report(entries: list[Entry], path: Path = REPORT) -> None:
    """Writes the table and a section for each model that was tested."""
    records = [(entry, record_of(entry)) for entry in entries]
    table = [
        "| model | number | value | goal | | published, or a peer's |",
        "|---|---|---|---|---|---|",
    ]
    sections = []
    for entry, record in records:
        table += _rows(entry, record)
        if record:
            sections.append(_section(entry, record))
    path.write_text("\n".join([_HEAD, *table, "", *sections]), "utf-8")


def _rows(entry: Entry, record: dict[str, Any]) -> list[str]:
    rows = []
    for i, goal in enumerate(entry.goals):
        value = goal.value_in(record.get("metrics", {}))
        verdict = "" if value is None or not goal.bound else "missed"
        if verdict and goal.met_by(value):
            verdict = "met"
        shown = "not yet" if value is None else f"{value:.4g}"
        if (whole := goal.value_in(record.get("float32", {}))) is not None:
            shown += f" (float32 {whole:.4g})"
        first = f"`{entry.name}`" if i == 0 else ""
        rows.append(
            f"| {first} | {goal.name} | {shown} | {goal.bound} | {verdict} | {goal.published} |"
        )
    return rows


def _section(entry: Entry, record: dict[str, Any]) -> str:
    hours = record["hours"]
    took = "hours not known" if hours is None else f"{hours:.2g} core hours"
    flags = f" with {' '.join(record['flags'])}" if record["flags"] else ""
    test = f" and tested with `{' '.join(record['test'])}`" if record["test"] else ""
    lines = [
        f"## {entry.name}",
        "",
        f"`{record['command']}`{flags}, seed {record['seed']}; step {record['step']:,} of "
        f"{record['steps']:,}; {took}, {record['processor']}; "
        f"{record['parameters']:,} parameters, {entry.dtype}{test}; trained on {record['data']} "
        f"({record['licence']}).",
        "",
        *(f"* {name}: {how}" for name, how in record["protocol"].items()),
        "",
    ]
    values = {goal: goal.value_in(record["metrics"]) for goal in entry.goals}
    missed = [goal for goal, value in values.items() if value is None or not goal.met_by(value)]
    if missed:
        curve = ", ".join(f"{step:,}: {value:.4g}" for step, value in record["curve"])
        lines += [f"Missed: {', '.join(g.name for g in missed)}. {entry.reason}".strip(), ""]
        lines += [f"Validation loss by step: {curve}.", ""] if curve else []
    return "\n".join(lines)
