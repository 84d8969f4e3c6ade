"""The words of a Trainer against those that Lightning knows, before it is built."""

import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from zoo.registry import near, nearest

_UNITS = ("weeks", "days", "hours", "minutes", "seconds")


def check_words(trainer: Mapping[str, Any]) -> None:
    """Raises ValueError if a word of the Trainer's is none; the message names its flag."""
    choices: dict[str, list[str]] = {
        "accelerator": ["auto", "gpu", *AcceleratorRegistry.available_accelerators()],
        "strategy": ["auto", *StrategyRegistry.available_strategies()],
        "gradient_clip_algorithm": ["norm", "value"],
        "profiler": ["simple", "advanced", "pytorch"],
    }
    for name, words in choices.items():
        value = trainer.get(name)
        if isinstance(value, str) and value.lower() not in words:
            known = words if near(value, words) else [word for word in words if "_" not in word]
            raise ValueError(f"--trainer.{name}={value}: {nearest(value, known)}")
    limit = trainer.get("max_time")
    if isinstance(limit, str):
        fits = re.fullmatch(r"\d+:\d\d:\d\d:\d\d", limit) is not None
    else:
        fits = not isinstance(limit, Mapping) or set(limit) <= set(_UNITS)
    if not fits:
        raise ValueError(
            f"--trainer.max_time={limit}: give DD:HH:MM:SS, such as 00:02:30:00, or keys such as "
            "'{hours: 2, minutes: 30}'"
        )
