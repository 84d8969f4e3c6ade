"""What a run directory holds, read without its model."""

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from zoo.figures import Figure, read_figure
from zoo.files import check_run
from zoo.reading import numbered_lines
from zoo.untrusted import check_plain, check_regular, read_json_object

_BYTES = 2**20  # of a config, or of a table of texts
_OPTIONS = 5000  # of a config
_FILES = ("metrics.csv", "config.yaml", "results.json", "report", "samples")
_STEP, _DECIMAL = re.compile(r"step-(\d+)"), re.compile(r"-?\d+\.\d+(e-?\d+)?")
Curve = tuple[list[int], list[float]]


@dataclass(frozen=True)
class Run:
    """One run.

    Args:
        folder: The run directory.
        name: What sets it apart from the others of a page.
    """

    folder: Path
    name: str

    def curves(self) -> dict[str, Curve]:
        """The steps and values of each metric."""
        file = self.folder / "metrics.csv"
        return read_curves(file) if file.exists() else {}

    def config(self) -> dict[str, Any]:
        """Each option's value by its dotted name."""
        file = self.folder / "config.yaml"
        return read_options(file) if file.exists() else {}

    def results(self) -> dict[str, Any]:
        """The content of results.json."""
        return self._json("results.json", metrics=dict, protocol=dict)

    def record(self) -> dict[str, Any]:
        """What the run wrote of itself: data, model, machine, time and memory."""
        record = self._json("report/run.json", data=list, verbs=list, sessions=list)
        for session in record.get("sessions", []):
            if not isinstance(session, dict) or not all(
                _is_number(session.get(key)) for key in ("from", "to", "seconds", "memory")
            ):
                raise ValueError(
                    f"{self.folder / 'report/run.json'}: {session!r:.99} is no session"
                )
        if not _is_number(record.get("parameters") or 0):
            raise ValueError(f"{self.folder / 'report/run.json'}: parameters is no number")
        return record

    def _json(self, name: str, **kinds: type) -> dict[str, Any]:
        """The content of a file, none if it is not there, whose keys hold these kinds."""
        file = self.folder / name
        if not file.exists():
            return {}
        content = read_json_object(file)
        check_plain(content, str(file))
        for key, kind in kinds.items():
            if not isinstance(content.get(key), kind):
                raise ValueError(f"{file}: {key} must be a {kind.__name__}")
        return content

    def samples(self) -> dict[int, Path]:
        """The sample grids by step.

        Raises:
            ValueError: One is no PNG.
        """
        grids = self._by_step(".png")
        for file in grids.values():
            check_regular(file)
            with file.open("rb") as opened:
                if opened.read(8) != b"\x89PNG\r\n\x1a\n":
                    raise ValueError(f"{file} is no PNG: remove it")
        return grids

    def texts(self) -> dict[int, Path]:
        """The tables of what the model wrote by step."""
        return self._by_step(".tsv")

    def _by_step(self, suffix: str) -> dict[int, Path]:
        return {
            int(found[1]): file
            for file in sorted((self.folder / "samples").glob(f"step-*{suffix}"))
            if (found := _STEP.fullmatch(file.stem))
        }

    def figures(self) -> dict[str, dict[str, Figure]]:
        """By name, the figures of each step; of a test at "test"."""
        found: dict[str, dict[str, Figure]] = {}
        for file in sorted((self.folder / "report").glob("*.*.npz")):
            name, when = file.stem.rsplit(".", 1)
            step = _STEP.fullmatch(when)
            try:
                figure = read_figure(file)
            except ValueError:
                if file.exists():
                    raise
                continue  # a training beside it has put a later one in its place
            found.setdefault(name, {})[str(int(step[1])) if step else when] = figure
        return found


def read_runs(paths: list[str]) -> list[Run]:
    """The runs of some run directories, named apart.

    Raises:
        ValueError: There are none, one is no run, or is given twice.
    """
    folders = [Path(path) for path in paths]
    if not folders:
        raise ValueError("which run? give a run directory, such as runs/ddpm-digits")
    for folder in folders:
        if not folder.is_dir():
            there = "a file, not a run directory" if folder.exists() else "not there"
            raise ValueError(f"{folder} is {there}: give a folder that `zoo fit` wrote")
        check_run(folder)
        if not any((folder / name).exists() for name in _FILES):
            raise ValueError(f"{folder} holds no run: no {', no '.join(_FILES[:3])}")
    whole = [folder.resolve() for folder in folders]
    if len(set(whole)) < len(whole):
        raise ValueError(f"{', '.join(paths)}: the same run twice")
    depth = 1
    while len({folder.parts[-depth:] for folder in whole}) < len(whole):
        depth += 1
    return [
        Run(folder, "/".join(own.parts[-depth:]))
        for folder, own in zip(folders, whole, strict=True)
    ]


def read_curves(path: Path) -> dict[str, Curve]:
    """Steps and values of each metric of a metrics.csv.

    A run that was killed and went on may have logged steps twice: where the file goes back to an
    earlier step, what it said of later ones is dropped. A last line that a kill cut off is left
    out, as are empty cells.

    Raises:
        ValueError: The file is damaged; names the line.
    """
    lines = list(numbered_lines(path))
    whole = path.read_bytes().endswith(b"\n")
    if not whole and len(lines) > 1:
        lines.pop()
    rows = csv.reader(io.StringIO("\n".join(line for _, line in lines)), strict=True)
    points: dict[str, dict[int, float]] = {}
    try:
        columns = next(rows, [])
        if "step" not in columns or len(set(columns)) < len(columns):
            raise ValueError("its first line must name the columns, step among them")
        last = -1
        for row in filter(None, rows):
            if len(row) != len(columns):
                raise ValueError(f"{len(row)} cells in {len(columns)} columns")
            cells = dict(zip(columns, row, strict=True))
            step = int(cells.pop("step"))
            if not 0 <= step < 2**53:
                raise ValueError("its step is negative or too large")
            if step < last:
                points = {
                    name: {s: value for s, value in own.items() if s < step}
                    for name, own in points.items()
                }
            last = step
            for name, cell in cells.items():
                if cell:
                    points.setdefault(name, {})[step] = float(cell)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {max(rows.line_num, 1)}: {error}") from error
    points.pop("epoch", None)
    return {name: (list(own), list(own.values())) for name, own in points.items() if own}


def read_table(path: Path) -> list[list[str]]:
    """The rows of a file of tab-separated cells, the first of them names; numbers are shortened.

    Raises:
        ValueError: They are of different lengths, or too much for a page.
    """
    check_regular(path)
    if path.stat().st_size > _BYTES:
        raise ValueError(f"{path} is too large for a page: remove it")
    head, *rows = [line.split("\t") for _, line in numbered_lines(path)] or [[]]
    if not head or any(len(row) != len(head) for row in rows):
        raise ValueError(f"{path} is no table of rows of one length: remove it")
    for i in range(len(head)):
        if all(_DECIMAL.fullmatch(row[i]) for row in rows):
            for row in rows:
                row[i] = f"{float(row[i]):z.4f}"
    return [head, *rows]


def read_options(path: Path) -> dict[str, Any]:
    """Each option of a config.yaml by its dotted name.

    Raises:
        ValueError: It is no config.
    """
    check_regular(path)
    try:
        if path.stat().st_size > _BYTES:
            raise ValueError("it is too large")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no keys")
        check_plain(content, "it")
        options = dict(islice(_flat(content, ""), _OPTIONS + 1))
        if len(options) > _OPTIONS:
            raise ValueError("it holds too many options")
        return options
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no config: {' '.join(str(error).split())[:200]}") from error


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and (value or not name):
        for key, inner in value.items():
            # The arguments of a class stand beside its name.
            parts = [part for part in (name, str(key)) if part and part != "init_args"]
            yield from _flat(inner, ".".join(parts))
    else:
        yield name, value if isinstance(value, int | float | bool | None) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def finite(values: list[float]) -> list[float | None]:
    """The values, None where one is no number, as JSON has it."""
    return [value if math.isfinite(value) else None for value in values]
