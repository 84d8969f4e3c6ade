"""The search with its progress bar, its table, and the overlay for `zoo fit -c`."""

import time
from collections.abc import Sequence, Set
from statistics import median
from typing import Any, Protocol

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_info
from tqdm.auto import tqdm

from zoo.training.pictures import machine
from zoo.tuning.choice import Choice
from zoo.tuning.halving import Trial, best, halve
from zoo.tuning.settings import Setting, alternatives, bf16_is_slow


class Visitor(Protocol):
    """What is measured: steps of a training, or a verb's work."""

    wide: bool
    """Whether the reference of the numbers is in float64."""
    errors: dict[Setting, float]
    """How far off each setting's numbers are."""

    def refer(self) -> None:
        """Makes the reference of the numbers; before any visit."""

    def visit(self, setting: Setting) -> float:
        """Median seconds of a few repetitions."""

    def rate(self, setting: Setting, items: int, /) -> float | None:
        """Items a second at another batch size."""


def search(
    visitor: Visitor,
    default: Setting,
    precisions: Sequence[str],
    batch: int | None,
    seconds: float,
    device: torch.device,
    *,
    compile: bool = False,
    fixed: Set[str] = frozenset(),
) -> Choice:
    """Measures with a progress bar, prints the table and the speeds of other batch sizes."""
    begun = time.monotonic()
    halves = [name for name in precisions if name.startswith("bf16")]
    if halves and bf16_is_slow(device):
        rank_zero_info("bf16 is left out: a product takes more than twice as long in it here")
        precisions = [name for name in precisions if name not in halves]
    others = alternatives(default, tuple(precisions), compile=compile, fixed=fixed)
    fewer = device.type == "cpu" and "threads" not in fixed
    bar = "{desc}: {percentage:3.0f}% |{bar}| {n:.0f}/{total:.0f} s"
    with tqdm(total=seconds, desc="tune", bar_format=bar) as progress:

        def told(setting: Setting) -> None:
            progress.set_description_str(f"tune {setting}", refresh=False)
            progress.update(min(time.monotonic() - begun, seconds) - progress.n)

        told(default)
        visitor.refer()
        left = seconds - (time.monotonic() - begun)
        trials = halve(default, others, visitor.visit, left, fewer_threads=fewer, told=told)
        chosen, rates = best(trials), []
        for size in (batch // 2, 2 * batch) if batch else ():
            need = 4 * size / batch * chosen.wall  # type: ignore[operator]
            if size and time.monotonic() - begun + need < seconds:
                rates.append((size, visitor.rate(chosen.setting, size)))
        progress.update(seconds - progress.n)
    rank_zero_info(f"{machine(device)}\n{table(trials, visitor)}")
    if batch:
        rates.append((batch, batch / median(chosen.times.values())))
        told_rates = [f"{rate:.3g} a second at {size}" for size, rate in sorted(rates) if rate]
        rank_zero_info(f"items, for information, at batch sizes: {', '.join(told_rates)}")
    choice = Choice.of(trials)
    rank_zero_info(f"chosen: {choice}")
    return choice


def table(trials: Sequence[Trial], visitor: Visitor) -> str:
    """A row a setting: seconds, the speed relative to the default's, what numbers are off by."""
    first = trials[0]
    rows = [("setting", "seconds", "speed", "range", "turns", "off")]
    for trial in trials:
        ratios = trial.ratios(first)
        off = visitor.errors.get(trial.setting)
        measured = ("", "", "", "")
        if ratios:
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            middle = f"{median(trial.times.values()):.4g}"
            measured = (middle, f"{median(ratios):.2f}", spread, str(len(ratios)))
        last = trial.left_out or ("" if off is None else f"{off:.2g}")
        rows.append((str(trial.setting), *measured, last or "no time"))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    wide = "float64" if visitor.wide else "the default"
    return "\n".join([*(line.rstrip() for line in lines), f"off: relative to {wide}"])


def overlay(choice: Choice, of: str, device: torch.device) -> str:
    """A YAML that `zoo fit -c` takes after the recipe that was measured."""
    setting = choice.setting
    content: dict[str, Any] = {"trainer": {"precision": setting.precision}}
    if setting.options:
        content["model"] = {"init_args": setting.options}
    content["threads"] = setting.threads
    comment = f"# zoo tune {of}\n# {choice}\n# {machine(device)}\n"
    return comment + yaml.safe_dump(content, sort_keys=False)
