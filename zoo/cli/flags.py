"""Which flags the user typed: these win over what a checkpoint or the data say."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import yaml


def typed(arguments: list[str]) -> dict[str, list[str]]:
    """The flags of a command line with the values that they were given.

    They are by name, without dashes and `init_args`, such as model.image_size; the keys inside of a
    value that is YAML are flags too.
    """
    found: dict[str, list[str]] = {}
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        flag, equals, value = argument.partition("=")
        name = flag.removeprefix("--").removesuffix("+").replace(".init_args.", ".")
        if not flag.startswith("--") or name == "config":
            continue
        for key, given in _inside(name, value if equals else following):
            found.setdefault(key, []).append(given)
    return found


def _inside(name: str, value: str) -> Iterator[tuple[str, str]]:
    yield name, value
    content: Any = None
    if value.lstrip().startswith(("{", "[")):
        with suppress(yaml.YAMLError, RecursionError):
            content = yaml.safe_load(value)
    left = [(name, content)]
    while left:
        key, item = left.pop()
        if isinstance(item, dict):
            for inner, given in item.items():
                plain = inner not in ("init_args", "dict_kwargs")
                own = f"{key}.{inner}" if plain else key
                left.append((own, given))
                if plain:
                    yield own, str(given)
        elif isinstance(item, list):
            left += [(key, part) for part in item]
