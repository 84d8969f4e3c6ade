"""Sizes that model and data must agree on, said once: by a flag, the checkpoint or the data."""

import importlib
from dataclasses import dataclass
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from zoo.cli.flags import typed

# Arguments of models that are taken from the data where nothing else says them.
_TAKEN = ("image_size", "channels", "levels", "num_classes", "critic_batch", "vocab_size", "end")


@dataclass
class Sides:
    """What was asked of model and data.

    Args:
        model: Arguments of the model, changed in place.
        data: Arguments of the DataModule, changed in place.
        typed: Names of the flags that were typed, such as model.image_size.
        held: Arguments of the checkpoint's model, if there is a checkpoint.
    """

    model: Any
    data: Any
    typed: set[str]
    held: dict[str, Any]

    def fixed(self, flag: str) -> bool:
        """Whether a model's argument is the checkpoint's or was typed, so that data must follow."""
        return flag.removeprefix("model.") in self.held or flag in self.typed


def settle_sizes(config: Any, arguments: list[str], held: dict[str, Any], *, fit: bool) -> None:
    """Brings sizes of model and data that follow from each other together, before either is made.

    A flag that was typed and a checkpoint's model decide; else the data's sizes do. What the user's
    flags leave no way to bring together is refused.

    Args:
        config: Of the verb, with `model` and `data`.
        arguments: The command line.
        held: Arguments that the checkpoint's model was made with; none without a checkpoint.
        fit: Whether batches are for training.

    Raises:
        ValueError: Two flags, or a flag and the checkpoint or the data, say different things.
    """
    kind = class_of(config.data.class_path)
    model, data = config.model.get("init_args"), config.data.get("init_args")
    if model is None or data is None:
        return
    sides = Sides(model, data, set(typed(arguments)), held)
    _take_held(sides)
    if {"size", "channels"} <= set(vars(data)):  # pictures, which take any size
        _agree(sides, "image_size", "size")
        _agree(sides, "channels", "channels")
    elif hasattr(kind, "size") and model.get("network") != "mlp":
        _follow(sides, "image_size", kind.size, kind)
        _follow(sides, "channels", kind.channels, kind)
    if not held:
        if hasattr(kind, "levels"):
            _follow(sides, "levels", kind.levels, kind)
        if model.get("num_classes") and not hasattr(kind, "vocabulary"):  # of text the model asks
            _follow(sides, "num_classes", _classes(kind, data), kind)
    if fit and {"n_critic", "critic_batch"} <= set(vars(model)) and "batch_size" in data:
        _batch(sides)


def _take_held(sides: Sides) -> None:
    """Gives what was taken from the data when the checkpoint's model was made its value there.

    A recipe that is laid over the checkpoint again has the value from before, which no flag asks
    for.
    """
    for name in _TAKEN:
        if name in sides.held and name in sides.model and f"model.{name}" not in sides.typed:
            sides.model[name] = sides.held[name]


def class_of(path: str) -> Any:
    """The class that a class path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _side(size: Any) -> Any:
    """A square's size as its side."""
    sides = [size, size] if isinstance(size, int) else list(size)
    return sides[0] if len(sides) == 2 and sides[0] == sides[1] else sides


def _agree(sides: Sides, ours: str, theirs: str) -> None:
    """A size of pictures that may be anything, as long as both say the same."""
    if ours not in sides.model:
        return
    wanted, given = _normal(sides.model[ours], ours), _normal(sides.data[theirs], ours)
    if wanted == given:
        return
    if isinstance(given, list) and len(given) != 2:  # told of the flag that was typed
        raise ValueError(f"--data.{theirs}={given}: give a side, or [height, width]")
    if not sides.fixed(f"model.{ours}"):
        take(sides.model, ours, given)
    elif f"data.{theirs}" not in sides.typed:
        sides.data[theirs] = sides.model[ours]
    elif ours in sides.held:
        raise ValueError(
            f"--data.{theirs}={given}: the checkpoint's model was made with "
            f"{ours}={_normal(sides.held[ours], ours)}: leave out --data.{theirs}"
        )
    else:
        raise ValueError(
            f"--model.{ours}={wanted} and --data.{theirs}={given} differ: give one of them, the "
            "other follows"
        )


def _follow(sides: Sides, name: str, value: Any, kind: Any) -> None:
    """A size that the data have and nothing can change."""
    if name not in sides.model:
        return
    wanted, value = _normal(sides.model[name], name), _normal(value, name)
    if wanted == value:
        return
    if name in sides.held:
        raise ValueError(
            f"the checkpoint's model has {name}={wanted}, and {kind.__name__} {value}: "
            "choose other data with --data"
        )
    if f"model.{name}" in sides.typed:
        raise ValueError(
            f"--model.{name}={wanted}: {kind.__name__} has {value}; leave out --model.{name}, "
            "it is taken from the data"
        )
    take(sides.model, name, value)


def _batch(sides: Sides) -> None:
    """The real items of a generator iteration of a GAN are its critic's batches."""
    n, each = (int(sides.model[name]) for name in ("n_critic", "critic_batch"))
    size = int(sides.data["batch_size"])
    if n * each == size:
        return
    if "data.batch_size" not in sides.typed:
        sides.data["batch_size"] = n * each
        return
    if sides.held or "model.critic_batch" in sides.typed or size % n:
        raise ValueError(
            f"--data.batch_size={size}: a training step takes n_critic * critic_batch = {n} * "
            f"{each} real items; leave it out, and set --model.critic_batch"
        )
    take(sides.model, "critic_batch", size // n)


def _classes(kind: Any, arguments: Any) -> int:
    if hasattr(kind, "num_classes"):
        number = int(kind.num_classes)
    elif hasattr(kind, "list_files"):
        data = kind(**vars(arguments))
        data.list_files()
        number = int(data.num_classes)
    else:
        raise ValueError(f"{kind.__name__} has no classes: set --model.num_classes=0")
    return number if number > 1 else 0


def _normal(value: Any, name: str) -> Any:
    return _side(value) if name == "image_size" else value


def take(model: Any, name: str, value: Any) -> None:
    """Gives a model's argument the value that the data have, and says so if it is another."""
    if model[name] != value:
        rank_zero_info(f"model.{name} is {value}, as the data have it (not {model[name]})")
        model[name] = value
