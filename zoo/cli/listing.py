"""What `zoo list` prints: the models, then the recipes of each family and what they need."""

import fnmatch
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from zoo.pretrained import names, shipped
from zoo.recipes import describe_config, list_configs
from zoo.registry import MODELS, nearest

_UNITS = ((24 * 365.25, "years"), (24 * 30.4, "months"), (24, "days"), (1, "h"), (1 / 60, "min"))


def listing(pattern: str = "*") -> str:
    """The table of all models and recipes that match a shell pattern, or a part of a name."""
    pattern = pattern.lower()
    pattern = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    models = [name for name in MODELS if fnmatch.fnmatch(name.lower(), pattern)]
    recipes = [name for name in list_configs() if fnmatch.fnmatch(name.lower(), pattern)]
    if not models and not recipes:
        known = nearest(pattern.strip("*"), [*MODELS, *list_configs()])
        raise ValueError(f"nothing matches {pattern!r}: {known}")
    return "\n".join([*_models(models), *_recipes(recipes)])


def weights(pattern: str = "*") -> str:
    """The table of all trained models that ship and match.

    Raises:
        ValueError: Nothing matches.
    """
    pattern = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    found = shipped(pattern)
    if not found:
        raise ValueError(f"no trained model matches {pattern!r}: {nearest(pattern, names())}")
    head = ("name", "parameters", "size", "headline", "trained on", "its licence")
    rows = [
        (m.name, f"{m.parameters:,}", f"{m.size / 2**20:.2g} MB", m.headline, m.data, m.licence)
        for m in found
    ]
    widths = [max(map(len, column)) + 2 for column in zip(head, *rows, strict=True)]
    lines = [
        "".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    how = [f"  {m.name}: {m.protocol}" for m in found if m.protocol]
    return "\n".join([*lines, *(["", "measured"] if how else []), *how])


def _models(chosen: list[str]) -> Iterator[str]:
    if chosen:
        width = max(map(len, chosen)) + 2
        yield "models (zoo fit --model NAME --data DATA; --model.help NAME)"
        for name in chosen:
            model = MODELS[name]
            about = f"{model.line} (arXiv {model.paper}, kexue.fm/archives/{model.post})"
            yield f"  {name:<{width}}{about}"


def _recipes(chosen: list[str]) -> Iterator[str]:
    width = max(map(len, chosen), default=0) + 2
    family = None
    for name in chosen:
        if name.split("/")[0] != family:
            family = name.split("/")[0]
            laid = "laid over a recipe: zoo fit -c RECIPE -c NAME"
            yield f"\n{family} ({laid if family == 'overlays' else 'zoo fit -c NAME'})"
        about = describe_config(name)
        where = "" if family == "overlays" else f"{needs(name):<22}"
        yield f"  {name:<{width}}{where}{about.replace(' (GPU)', '').replace('; one GPU', '')}"


def needs(name: str) -> str:
    """What a recipe is meant for, and how long one core of a CPU would take, if it was measured."""
    hours = _hours().get(name)
    gpu = "GPU" in describe_config(name)
    if hours is None:
        return "GPU" if gpu else "CPU"
    size, unit = next(((s, u) for s, u in _UNITS if hours >= s), _UNITS[-1])
    time = f"{max(hours / size, 1):.2g} {unit}"
    return f"GPU (CPU {time})" if gpu else f"CPU {time}"


@cache
def _hours() -> dict[str, float]:
    """Core hours of the recipes, as benchmarks/hours.py measured them."""
    return json.loads(Path(__file__).with_name("hours.json").read_text("utf-8"))
