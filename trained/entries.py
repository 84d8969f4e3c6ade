"""The list of models to train: list.toml, read and checked."""

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIST = Path(__file__).with_name("list.toml")


@dataclass(frozen=True)
class Goal:
    """A number of the test, its bound and what others published."""

    metric: str = ""
    label: str = ""
    mean_of: tuple[str, ...] = ()
    """The numbers whose mean it is, where it is none of the test's own."""
    at_most: float | None = None
    at_least: float | None = None
    published: str = ""

    @property
    def name(self) -> str:
        """What the number is called in a table."""
        return self.label or self.metric.rpartition("/")[2].replace("_", " ")

    @property
    def bound(self) -> str:
        """The bound in words, if there is one."""
        parts = (("at most", self.at_most), ("at least", self.at_least))
        return " and ".join(f"{word} {number:g}" for word, number in parts if number is not None)

    def value_in(self, metrics: dict[str, float]) -> float | None:
        """Its value among those of a test, if it is there."""
        names = self.mean_of or (self.metric,)
        values = [metrics[name] for name in names if name in metrics]
        return sum(values) / len(values) if len(values) == len(names) else None

    def met_by(self, value: float) -> bool:
        """Whether a value is within the bound."""
        low = -float("inf") if self.at_least is None else self.at_least
        return low <= value <= (float("inf") if self.at_most is None else self.at_most)


@dataclass(frozen=True)
class Entry:
    """A model to train, as list.toml describes it."""

    name: str
    recipe: str
    data: dict[str, Any]
    hours: float
    goals: tuple[Goal, ...]
    flags: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    part: tuple[str, ...] = ("--trainer.limit_test_batches=1",)  # of the test, of seconds
    seed: int = 0
    checkpoint: str = "best"
    dtype: str = "float16"
    ships: bool = True
    twice: bool = True  # test the float32 checkpoint, too
    reason: str = ""

    @property
    def folder(self) -> str:
        """Name of its run directory."""
        return self.name.replace("/", "-")

    def fit(self, data: Path, runs: Path) -> list[str]:
        """Arguments of `zoo fit`, but for the run directory."""
        seed = ["--seed_everything", str(self.seed)] if self.seed else []
        flags = [*self.flags, *seed, *self.root]
        return ["-c", self.recipe, *(flag.format(data=data, runs=runs) for flag in flags)]

    @property
    def root(self) -> list[str]:
        """The flag of where the data are, unless they are embedded."""
        return [f"--data.root={self.data['root']}"] if "root" in self.data else []


def read_list(pattern: str = "*", path: Path = LIST) -> list[Entry]:
    """The models whose names match, in their order.

    Raises:
        ValueError: None matches.
    """
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    entries = [_entry(row, content) for row in content["model"]]
    found = [e for e in entries if fnmatch.fnmatch(e.name, pattern)]
    if not found:
        raise ValueError(f"no {pattern!r} in {path}: {', '.join(e.name for e in entries)}")
    return found


def _entry(row: dict[str, Any], content: dict[str, Any]) -> Entry:
    goals = row["goals"]
    goals = content["goals"][goals] if isinstance(goals, str) else goals
    flags = {key: tuple(row[key]) for key in ("flags", "test", "part") if key in row}
    data = content["data"][row["data"]]
    return Entry(**{**row, **flags, "data": data, "goals": tuple(map(_goal, goals))})


def _goal(row: dict[str, Any]) -> Goal:
    return Goal(**{**row, "mean_of": tuple(row.get("mean_of", ()))})
