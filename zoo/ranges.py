"""What an argument may be: its annotation is its help and its check.

`width: Count` is an int to Python and type checkers and "1 or more" in the help; the constructor,
by `check_ranges`, refuses what is not, and what is none of a Literal's choices.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

_INT64 = 2**63 - 1
_TINY, _HUGE = 1.1754944e-38, 3.4028234e38  # the smallest and the largest normal float32


@dataclass(frozen=True, repr=False)
class Range:
    """Numbers from `low` to `high`; nan and infinities are in none.

    Args:
        low: The least number.
        high: The greatest number.
        without_low: Without `low` itself.
        without_high: Without `high` itself.
        also: A number beside them.
    """

    low: float = -math.inf
    high: float = math.inf
    without_low: bool = False
    without_high: bool = False
    also: int | None = None

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        return math.isfinite(value) and ((above and below) or value == self.also)

    def __repr__(self) -> str:
        low, high = f"{self.low:.12g}", f"{self.high:.12g}"
        also = "" if self.also is None else f"{self.also}, or "
        if math.isfinite(self.low) and math.isfinite(self.high):
            ends = [
                f"{end} (not included)" if without else end
                for end, without in ((low, self.without_low), (high, self.without_high))
            ]
            return f"{also}from {ends[0]} to {ends[1]}"
        if math.isfinite(self.low):
            return f"{also}above {low}" if self.without_low else f"{also}{low} or more"
        if math.isfinite(self.high):
            return f"{also}below {high}" if self.without_high else f"{also}{high} or less"
        return "any finite number"


Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
AtLeastTwo = Annotated[int, Range(2)]
# Of layers, which are made one by one: more would take hours before the first step.
Depth = Annotated[int, Range(1, 1000)]
Positive = Annotated[float, Range(0, without_low=True)]
NonNegative = Annotated[float, Range(0)]
Finite = Annotated[float, Range()]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, without_low=True)]
BelowOne = Annotated[float, Range(0, 1, without_high=True)]
InsideUnit = Annotated[float, Range(0, 1, without_low=True, without_high=True)]
# Below it the quotient of two float32 logits and the temperature is no longer a number.
Temperature = Annotated[float, Range(1e-6, also=0)]
# More would be a mistake of typing, and a machine that hangs.
Workers = Annotated[int, Range(0, 1024)]
# torch takes 64 bits, NumPy no sign.
Seed = Annotated[int, Range(0)]


def constructors(cls: type) -> list[Any]:
    """The constructors of a class, its bases first; and before one what it gives `**options` to.

    A class says by `options_of` which other constructor that is.
    """
    found = []
    for base in reversed(cls.__mro__):
        if base.__module__ != "builtins":
            takers = (vars(base).get("options_of"), base)
            found += [vars(c)["__init__"] for c in takers if c and "__init__" in vars(c)]
    return found


def number_hints(function: Callable[..., Any] | type) -> dict[str, Any]:
    """The annotations of a function's arguments, or of a class's and its bases' constructors."""
    while isinstance(function, partial):
        function = function.func
    if not isinstance(function, type):
        return get_type_hints(function, include_extras=True)
    hints: dict[str, Any] = {}
    for constructor in constructors(function):
        try:
            hints |= get_type_hints(constructor, include_extras=True)
        except (NameError, TypeError):  # another library's, with names for type checkers only
            continue
    return hints


def check_ranges(
    function: Callable[..., Any] | type, values: Mapping[str, Any], prefix: str = ""
) -> None:
    """Checks arguments against the ranges and the choices in their annotations.

    Args:
        function: The function or class whose arguments they are.
        values: Arguments by name; others than the function's are left alone.
        prefix: Before the name in the message, such as `--model.`.

    Raises:
        ValueError: A number is out of its range, or there is no such choice; the message names it.
    """
    hints = number_hints(function)
    for name in values:
        if name in hints and (fault := find_fault(hints[name], values[name])):
            raise ValueError(f"{prefix}{name}={values[name]!r}: {fault}")


def find_fault(hint: Any, value: Any) -> str | None:
    """What is wrong with a choice or the numbers in a value; not whether it is of the type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        ranges = [r for r in hint.__metadata__ if isinstance(r, Range)]
        return _number_fault(arguments[0], value, ranges[0] if ranges else Range())
    if origin is Literal and value not in arguments:
        return f"choose one of {', '.join(map(str, arguments))}"
    if hint in (int, float):
        return _number_fault(hint, value, Range())
    if origin in (Union, UnionType):
        choices = [choice for choice in arguments if _may_be(choice, value)]
        exact = [choice for choice in choices if _base(choice) is type(value)]
        return _first(find_fault(choice, value) for choice in exact or choices)
    if isinstance(value, list | tuple) and origin in (list, tuple):
        return _first(find_fault(arguments[0], item) for item in value)
    if isinstance(value, dict) and origin is dict:
        return _first(find_fault(arguments[1], item) for item in value.values())
    return None


def _base(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _may_be(hint: Any, value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return _base(hint) in (int, float, bool)
    return isinstance(value, list | tuple | dict) and get_origin(hint) in (list, tuple, dict)


def _first(faults: Iterable[str | None]) -> str | None:
    return next((fault for fault in faults if fault), None)


def _number_fault(base: type, value: Any, limits: Range) -> str | None:
    if base not in (int, float) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, bool | str):
        return "must be a number"
    if base is int:
        if value != value or value in (math.inf, -math.inf) or int(value) != value:
            return f"must be a whole number, {limits!r}"
        if abs(value) > _INT64:
            return f"must be at most {_INT64}"
    elif value != 0 and math.isfinite(value) and not _TINY <= abs(value) <= _HUGE:
        return "is no number of float32, whose sizes go from 1.2e-38 to 3.4e38"
    return None if value in limits else f"must be {limits!r}"
