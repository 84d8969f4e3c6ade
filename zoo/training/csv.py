"""metrics.csv: one row a step, kept across resumes."""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from zoo.files import replacing


class MetricsCSV(Logger):
    """Writes the metrics of a run to `folder/metrics.csv`.

    Lightning's CSVLogger deletes the file that is there when a run is resumed; this one goes on
    from the very place that the checkpoint knows, so that the file of a run that was killed and
    resumed is that of the run that was not. Of a checkpoint that knows none, the rows before the
    first step that is logged again are kept.

    Args:
        folder: The run directory.
        resume: Whether the run goes on from a checkpoint; else a file that is there is replaced.
    """

    def __init__(self, folder: str | Path, resume: bool = False) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.resume = resume
        self._columns = ["step"]
        self._rows = 0  # that are written
        self._row: dict[str, Any] = {}  # that is still open
        self._begun = self._restored = False

    def state_dict(self) -> dict[str, Any]:
        """How far the file is: its columns, its number of rows, and the row that is still open."""
        return {"columns": list(self._columns), "rows": self._rows, "row": dict(self._row)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there; what the file has beyond is dropped."""
        self._columns, self._rows = list(state["columns"]), int(state["rows"])
        self._row = dict(state["row"])
        self._begun, self._restored = False, True

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Version of the logger; a run directory holds one run."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of metrics.csv."""
        return str(self.path.parent)

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Does nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds to the row of `step`; the row is written when the next one begins."""
        step = 0 if step is None else step
        if not self._begun:
            self._begin(step)
        if self._row and self._row["step"] != step:
            self._write_row()
        self._row.update(metrics, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the last row; of a run that failed before it logged anything, nothing."""
        if self._row and (self._begun or status == "success"):
            if not self._begun:
                self._begin(self._row["step"])
            self._write_row()

    def _begin(self, step: int) -> None:
        rows = self._read() if self.resume else []
        if self._restored:
            if len(rows) < self._rows:
                rank_zero_info(
                    f"{self.path} has {len(rows)} of the {self._rows} rows before this step: it "
                    "goes on without the others"
                )
            rows = rows[: self._rows]
        else:
            rows = [row for row in rows if row["step"].isdigit() and int(row["step"]) < step]
            self._columns = list(rows[0]) if rows else ["step"]
        self._begun, self._rows = True, len(rows)
        self._replace(rows)

    def _write_row(self) -> None:
        new = [key for key in self._row if key not in self._columns]
        if new:
            rows = self._read()
            self._columns += sorted(new)
            self._replace(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow(self._row)
        self._rows += 1
        self._row = {}

    def _read(self) -> list[dict[str, str]]:
        """The rows that are whole; ValueError if the file is somebody else's, and would be lost."""
        if not self.path.is_file():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                table = csv.DictReader(file)
                if "step" not in (table.fieldnames or ["step"]):
                    raise ValueError("it has no column step")
                return [row for row in table if None not in row and row.get("step")]
        except (ValueError, csv.Error) as error:
            raise ValueError(
                f"{self.path} is damaged ({error}): mend it or move it away"
            ) from error

    def _replace(self, rows: list[dict[str, str]]) -> None:
        with (
            replacing(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self._columns, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
