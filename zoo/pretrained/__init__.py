"""Trained models by name: those that ship, each a folder here, and repositories of a hub.

Imports nothing heavy: `zoo list` is quick.
"""

import fnmatch
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from zoo.registry import MODELS, nearest

ROOT = Path(__file__).parent
_ADDRESS = re.compile(
    r"(?:hf:|https?://(?:www\.)?(?:huggingface\.co|hf\.co)/)(?P<repo>[\w.-]+/[\w.-]+)"
)
_HUB = re.compile(r"hf:/+(?P<repo>[^@]*)(?:@(?P<revision>.*))?")


@dataclass(frozen=True)
class Shipped:
    """A model that ships.

    Args:
        name: What every verb and `zoo.load` take.
        parameters: How many it has.
        size: Bytes of its weights.
        data: What it was trained on.
        licence: Of that data.
        headline: The number that it is known by.
        protocol: How that was measured.
    """

    name: str
    parameters: int
    size: int
    data: str
    licence: str
    headline: str
    protocol: str


def names() -> list[str]:
    """Names of the models that ship."""
    return sorted(f.parent.relative_to(ROOT).as_posix() for f in ROOT.glob("*/*/config.json"))


def shipped(pattern: str = "*") -> list[Shipped]:
    """The models that ship and match a shell pattern, ignoring case."""
    return [_shipped(n) for n in names() if fnmatch.fnmatch(n.lower(), pattern.lower())]


def _shipped(name: str) -> Shipped:
    record = json.loads((ROOT / name / "results.json").read_text("utf-8"))
    metric, label = record["headline"]
    protocol = record["protocol"]
    told = (how for key, how in protocol.items() if metric.startswith(key))  # also of its parts
    return Shipped(
        name,
        record["parameters"],
        (ROOT / name / "model.safetensors").stat().st_size,
        record["data"],
        record["licence"],
        f"{label} {record['metrics'][metric]:.4g}",
        next(told, protocol.get("extractor", "")),
    )


@overload
def list_models(pattern: str = ..., *, pretrained: Literal[False] = ...) -> list[str]: ...
@overload
def list_models(pattern: str = ..., *, pretrained: Literal[True]) -> list[Shipped]: ...
def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str] | list[Shipped]:
    """Names of the models that match a shell pattern, ignoring case.

    Args:
        pattern: Such as `*vae*`.
        pretrained: The trained models that ship instead, with what is known of each.
    """
    if pretrained:
        return shipped(pattern)
    return [name for name in MODELS if fnmatch.fnmatch(name.lower(), pattern.lower())]


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
    if at := _ADDRESS.match(name):
        raise FileNotFoundError(f"no such checkpoint: {name}: a repository is hf://{at['repo']}")
    near = f", nor a model of that name: {nearest(name, names())}" if names() else ""
    raise FileNotFoundError(f"no such checkpoint: {name}{near}")
