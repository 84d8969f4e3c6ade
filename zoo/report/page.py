"""Runs as one self-contained page: no server, no network, no script or font of another place."""

import base64
import gzip
import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from zoo.files import replacing
from zoo.registry import MODELS
from zoo.report.curves import charts
from zoo.report.drawing import Chart, curve_chart, draw, png_source
from zoo.report.run import Run, read_table
from zoo.version import zoo_version

PAGE = "report.html"
_NEEDED = {"paraphrase": " TEXT", "similar": " -i FILE --query TEXT"}  # arguments of verbs
_NOT_SAID = "—"  # of an option
_GRIDS, _GRID_BYTES = 25, 8 * 2**20  # sample grids of a run
_HERE = Path(__file__).parent


@dataclass
class Card:
    """A picture of the page, and all its steps.

    Args:
        title: Above it.
        charts: What is shown at each step.
        steps: What the slider says of each.
        note: How to read it.
        log: Whether its axis may be logarithmic.
    """

    title: str
    charts: list[Chart]
    steps: list[str] = field(default_factory=list)
    note: str = ""
    log: bool = False

    @property
    def columns(self) -> list[str]:
        """Names below the columns of images."""
        return [str(name) for name in self.charts[-1].get("columns", [])]

    @property
    def rows(self) -> list[str]:
        """Names beside the rows of images."""
        return [str(name) for name in self.charts[-1].get("rows", [])]


def has_extra() -> bool:
    """Whether the packages of the extra `report` are here."""
    return all(find_spec(name) for name in ("plotly", "matplotlib", "jinja2"))


def check_extra() -> None:
    """Raises ModuleNotFoundError, with the remedy, where the extra `report` is missing."""
    if not has_extra():
        raise ModuleNotFoundError(
            "reports need plotly and matplotlib: pip install 'lightning-model-zoo[report]'"
        )


def write_page(runs: list[Run], path: Path) -> None:
    """Writes the page of some runs.

    Raises:
        ValueError: A file of a run is damaged.
        OSError: The page cannot be written.
        ModuleNotFoundError: The extra `report` is missing.
    """
    check_extra()
    html = page(runs)
    with replacing(path) as file:
        file.write_text(html, "utf-8")


def page(runs: list[Run]) -> str:
    """The page as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    jinja = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    pictures = [card for run in runs for card in _pictures(run, len(runs) > 1)]
    curves = [Card(title, [curve_chart(lines)], log=True) for title, lines in charts(runs).items()]
    shown = {"Samples and pictures": pictures, "Curves": curves}
    cards = [card for part in shown.values() for card in part]
    data = [[{k: v for k, v in c.items() if k in _DRAWN} for c in card.charts] for card in cards]
    options, differing = _options(runs)
    html: str = jinja.get_template("page.html").render(
        runs=runs,
        summaries=[_summary(run) for run in runs],
        shown={title: part for title, part in shown.items() if part},
        cards=cards,
        results=_results(runs),
        protocols={run.name: run.results().get("protocol", {}) for run in runs},
        options=options,
        differing=differing,
        records={run.name: _machine(run.record()) for run in runs},
        commands={run.name: commands(run) for run in runs},
        data=_json(data),
        plotly=base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode(),
        version=zoo_version(),
    )
    return html


_DRAWN = ("data", "layout", "image", "table")


def _json(value: Any) -> str:
    """JSON that no text of a run ends early."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _pictures(run: Run, several: bool) -> Iterator[Card]:
    of = f" · {run.name}" if several else ""
    grids = _thinned(run.samples())
    if grids:
        yield Card(
            f"Samples{of}",
            [{"image": png_source(file.read_bytes())} for file in grids.values()],
            [str(step) for step in grids],
            "the same seed at every step",
        )
    texts = _thinned(run.texts())
    if texts:
        yield Card(
            f"Samples{of}",
            [{"table": read_table(file)} for file in texts.values()],
            [str(step) for step in texts],
            "the same seed at every step",
        )
    for name, figures in run.figures().items():
        last = list(figures.values())[-1]
        try:
            charts = [draw(figure) for figure in figures.values()]
        except Exception as error:  # arrays of other shapes and names can raise nearly anything
            file = run.folder / "report" / f"{name}.*.npz"
            said = f"{type(error).__name__}: {error}"[:200]
            raise ValueError(f"{file} cannot be drawn ({said}): remove it") from error
        yield Card(f"{last.title}{of}", charts, list(figures), last.note)


def _thinned(grids: dict[int, Path]) -> dict[int, Path]:
    """Grids, or texts, that a page can hold, the last one among them."""
    size = sum(file.stat().st_size for file in grids.values())
    most = min(_GRIDS, max(1, int(len(grids) * _GRID_BYTES / max(size, 1))))
    every = -(-len(grids) // most) if grids else 1
    return dict(list(grids.items())[::-1][::every][::-1])


def _summary(run: Run) -> dict[str, str]:
    """What a run is, in a few words."""
    config, record = run.config(), run.record()
    model = str(config.get("model.class_path", record.get("model", ""))).rpartition(".")[2]
    said = {"model": model, "data": str(config.get("data.class_path", "")).rpartition(".")[2]}
    if model in MODELS:
        said["what"] = MODELS[model].line
    steps = [curve[0][-1] + 1 for curve in run.curves().values()]
    sessions = record.get("sessions", [])
    done = max([*(int(s["to"]) for s in sessions), *([] if sessions else steps)], default=0)
    if done:
        said["steps"] = f"{done:,}"
    if sessions:
        said["time"] = duration(sum(float(session["seconds"]) for session in sessions))
    if record.get("parameters"):
        said["parameters"] = f"{int(record['parameters']):,}"
    return {name: text for name, text in said.items() if text}


def _machine(record: dict[str, Any]) -> dict[str, Any]:
    """Data and sessions of a run's record, as they are shown."""
    sessions = [
        session
        | {
            "time": duration(float(session["seconds"])),
            "pace": number((session["to"] - session["from"]) / max(session["seconds"], 1e-9)),
            "begun": str(session.get("begun", ""))[:16],
            "machine": str(session.get("machine", "")),
            "memory": f"{session['memory'] / 2**20:,.0f} MiB",
        }
        for session in record.get("sessions", [])
    ]
    return {"data": record.get("data", []), "sessions": sessions} if record else {}


def duration(seconds: float) -> str:
    """Such as 42 s, 3 min 20 s or 5 h 12 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{seconds:.3g} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"


def number(value: Any) -> str:
    """A number as a table shows it."""
    if not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:.5g}" if math.isfinite(value) else "no number"


def _results(runs: list[Run]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each metric of the tests, and by run its value and its baseline."""
    found = [run.results().get("metrics", {}) for run in runs]
    names = dict.fromkeys(n.removeprefix("test/") for m in found for n in m if n[:5] == "test/")
    return [
        (n, [(number(m.get(f"test/{n}")), number(m.get(f"baseline/{n}"))) for m in found])
        for n in names
    ]


def _options(runs: list[Run]) -> tuple[dict[str, list[Any]], set[str]]:
    """Each option's values by run, and which of them differ.

    Of runs with models or data of several classes, an option that one class has does not differ.
    """
    found = [run.config() for run in runs]
    names = dict.fromkeys(name for config in found for name in config)
    table = {name: [config.get(name, _NOT_SAID) for config in found] for name in names}
    differ = set()
    for name, values in table.items():
        classes = table.get(f"{name.partition('.')[0]}.class_path", [])
        said = [v for v in values if len(set(classes)) < 2 or v != _NOT_SAID]
        if any(value != said[0] for value in said):
            differ.add(name)
    return table, differ - {"run_dir", "trainer.default_root_dir"}


def command_of(verb: str, folder: str) -> str:
    """The command line of a verb on a run, whose folder is quoted for a shell."""
    return f"zoo {verb} {folder}{_NEEDED.get(verb, '')}"


def commands(run: Run) -> dict[str, str]:
    """What can be done next with a run, as commands of a shell."""
    here = shlex.quote(str(run.folder))
    model = run.config().get("model.class_path", "")
    row = MODELS.get(str(model).rpartition(".")[2])
    found = {"go on": f"zoo fit --run_dir {here} --ckpt_path last --trainer.max_steps N"}
    found["test"] = f"zoo test --ckpt_path {here}"
    for verb in run.record().get("verbs", []):
        found[verb] = command_of(verb, here)
    if row is not None:
        found["export"] = f"zoo export {here} DIR"
    found["load in Python"] = f'zoo.load("{run.folder}")'
    return found
