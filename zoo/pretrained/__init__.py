"""Trained models by name: those that ship, each a folder here, and repositories of a hub.

Imports nothing heavy: `zoo list` is quick.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.registry import nearest

ROOT = Path(__file__).parent
_HUB = re.compile(r"hf:/+(?P<repo>[^@]*)(?:@(?P<revision>.*))?")


@dataclass(frozen=True)
class Shipped:
    """A model that ships.

    Args:
        name: What every verb and `zoo.load` take.
        record: Its results.json: how it was trained, and the numbers of its test.
        size: Bytes of its weights.
    """

    name: str
    record: dict[str, Any]
    size: int

    @property
    def headline(self) -> str:
        """The number that it is known by."""
        metric, label = self.record["headline"]
        return f"{label} {self.record['metrics'][metric]:.4g}"


def shipped(root: Path | None = None) -> list[Shipped]:
    """The models that ship, in the order of their names."""
    root = root or ROOT
    return [
        Shipped(
            folder.relative_to(root).as_posix(),
            json.loads((folder / "results.json").read_text("utf-8")),
            (folder / "model.safetensors").stat().st_size,
        )
        for folder in sorted(file.parent for file in root.glob("*/*/config.json"))
    ]


def names() -> list[str]:
    """Names of the models that ship."""
    return [folder.parent.relative_to(ROOT).as_posix() for folder in ROOT.glob("*/*/config.json")]


def pinned(path: str) -> str:
    """A repository's name with the commit that it is at today; anything else as it is."""
    hub = _HUB.fullmatch(path)
    return f"hf://{hub['repo']}@{locate(path).name}" if hub else path


def locate(name: str) -> Path:
    """The folder of a model's name.

    Args:
        name: One that ships, or `hf://OWNER/REPO[@REVISION]`, which is fetched if it is not there.

    Raises:
        FileNotFoundError: There is none; the message has the nearest.
        ValueError: A repository holds no weights that the zoo reads.
    """
    if hub := _HUB.fullmatch(name):
        from zoo.pretrained.hub import fetch

        return fetch(hub["repo"], hub["revision"])
    if name in names():
        return ROOT / name
    near = f" and no model of that name: {nearest(name, sorted(names()))}" if names() else ""
    raise FileNotFoundError(f"no such checkpoint: {name}{near}")
