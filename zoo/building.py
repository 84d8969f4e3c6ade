"""Models built from hyper-parameters that others wrote, within the size of their weights."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch.nn.modules import module as hooks

_SPARE_NUMBERS, _SPARE_MODULES = 10**6, 1000
# What no weight bounds, with the largest value that makes sense.
_LIMITS = {"timesteps": 10**6, "image_size": 2**14}


class TooLargeError(ValueError):
    """The hyper-parameters ask for more than their file can hold."""


def check_arguments(cls: type[nn.Module], arguments: Mapping[str, Any], source: Path) -> None:
    """Raises ValueError unless the constructor of `cls` takes these arguments, by name and type."""
    for name, most in _LIMITS.items():
        value = arguments.get(name, 0)
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not abs(number) <= most:
                raise ValueError(f"{source}: {name} {number} is above {most}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "model", fail_untyped=False)
    try:
        parser.parse_object({"model": dict(arguments)})
    except Exception as error:  # what it meets in values of any kind
        lines = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{source}: {cls.__name__} does not take these hyper-parameters: {lines[:300]}"
        ) from error


def check_size(
    cls: type[nn.Module], arguments: Mapping[str, Any], weights: Mapping[str, Tensor], source: Path
) -> None:
    """Builds a model without memory; TooLargeError as soon as it is larger than its weights."""
    with torch.device("meta"), within(weights, source), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        construct(cls, arguments, source)


def construct(cls: type[nn.Module], arguments: Mapping[str, Any], source: Path) -> nn.Module:
    """`cls(**arguments)`, whose failure names the file that the arguments are from."""
    try:
        return cls(**arguments)
    except TooLargeError:
        raise
    except Exception as error:  # values that passed their types, in combinations that nobody wrote
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"{source}: {cls.__name__} does not take these hyper-parameters: {said}"
        ) from error


@contextmanager
def within(
    weights: Mapping[str, Tensor], source: Path, *, layers_only: bool = False
) -> Iterator[None]:
    """Stops constructors inside as soon as they make more than these weights can fill.

    What a constructor makes and gives up again, as the head that is tied later, may be as much
    again. With `layers_only` the sizes of tensors, which are compared one by one later, are free.
    """
    most = 2 * sum(tensor.numel() for tensor in weights.values()) + _SPARE_NUMBERS
    count = {"numbers": 0, "modules": 0}

    def add(kind: str, amount: int, limit: int) -> None:
        count[kind] += amount
        if count[kind] > limit:
            raise TooLargeError(
                f"{source}: its hyper-parameters ask for a larger model than its weights fill"
            )

    def tensor(module: nn.Module, name: str, value: Tensor | None) -> None:
        if value is not None and not layers_only:
            add("numbers", value.numel(), most)

    def module(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        add("modules", 1, 20 * len(weights) + _SPARE_MODULES)

    handles = [
        hooks.register_module_parameter_registration_hook(tensor),
        hooks.register_module_buffer_registration_hook(tensor),
        hooks.register_module_module_registration_hook(module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
