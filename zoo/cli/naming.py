"""Names an option of a message as the flag that the user types."""

import inspect
import re
import traceback
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from zoo.metrics.quality import SampleQuality
from zoo.ranges import constructors
from zoo.training import EMA, Checkpoint
from zoo.training.samples import SampleGrid

_GROUPS = {
    LightningModule: "model",
    LightningDataModule: "data",
    EMA: "ema",
    Checkpoint: "checkpoint",
    SampleGrid: "samples",
    SampleQuality: "quality",
}
_MAKING = ("__init__", "configure_optimizers")


def with_flags(text: str, names: Iterable[str], prefix: str) -> str:
    """A message in which the options have their dashes, and their group if they have one.

    An option is told from a word by what follows it, `name=value`, or by an underscore in it. The
    prefix is such as `--model.`.
    """
    known = sorted(map(re.escape, names), key=len, reverse=True)
    if not known:
        return text
    before, any_, low = r"(?<![\w.\-'\"/])", "|".join(known), "|".join(n for n in known if "_" in n)
    option = rf"{before}((?:{any_})(?==(?!=))" + (rf"|(?:{low})(?![\w=]|\s*[<>])" if low else "")
    return re.sub(f"{option})", rf"{prefix}\1", text)


def of_the_constructor(error: BaseException, text: str) -> str:
    """What a model, a DataModule or a callback said of the arguments that it was made with."""
    maker = next((m for m in _makers(error) if _group(m)), None)
    if maker is None:
        return text
    return with_flags(text, _arguments(maker), f"--{_group(maker)}.")


def maker_of(error: BaseException) -> str:
    """Name of the class whose constructor raised an error; nothing if none did."""
    makers = list(_makers(error))
    return makers[-1].__name__ if makers else ""


def of_the_function(function: Callable[..., Any], text: str) -> str:
    """What was said of the arguments of a verb that is a function."""
    return with_flags(text, inspect.signature(function).parameters, "--")


def _makers(error: BaseException | None) -> list[type]:
    """Classes of what was being made when an error was raised, the outer ones first."""
    frames: list[FrameType] = []
    while error is not None:
        frames += [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        error = error.__cause__
    inside = [f.f_locals.get("self") for f in frames if f.f_code.co_name in _MAKING]
    return [type(made) for made in inside if made is not None]


def _group(cls: type) -> str:
    return next((group for base, group in _GROUPS.items() if issubclass(cls, base)), "")


def _arguments(cls: type) -> set[str]:
    return {
        name
        for constructor in constructors(cls)
        if inspect.isfunction(constructor)
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    } - {"self"}
