"""An argument parser whose mistakes are one line with a suggestion."""

import argparse
import os
import re
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from zoo.cli.trusted import LIGHTNING, refused
from zoo.cli.words import names_of, synonym
from zoo.registry import near, nearest


class ZooParser(LightningArgumentParser):
    """LightningArgumentParser that raises its mistakes instead of printing the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises `message` in one line."""
        raise argparse.ArgumentError(None, explain(message, self)) from ex

    def format_help(self) -> str:
        """The help, in which a number's type is its range: int (1 or more)."""
        return re.sub(r"Annotated\[(\w+),\s([^\]]*)\]", r"\1 (\2)", super().format_help())

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses; values of a kind that the parser itself stumbles over are mistakes, too."""
        try:
            return super().parse_args(*args, **kwargs)
        except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            if os.environ.get("ZOO_DEBUG"):
                raise
            self.error(f"a value is of the wrong kind: {str(error) or type(error).__name__}", error)

    def shown(self, name: str, dashes: str = "--") -> str:
        """An argument as it is given: --n, or CKPT if it stands without an option."""
        alone = [action.dest for action in self._actions if not action.option_strings]
        return name.upper() if name in alone else f"{dashes}{name}"

    def options(self) -> list[str]:
        """Names of all options, those of subcommands too, without dashes."""
        names = [name.lstrip("-") for action in self._actions for name in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names += parser.options()
        return sorted({name for name in names if not name.endswith((".help", "+"))})


# The classes that options without a name before them are of, and the flag that gives the name.
_NAMELESS = {
    "LightningModule": "model",
    "LightningDataModule": "data",
    "Callback": "trainer.callbacks",
    "Logger": "trainer.logger",
    "Profiler": "trainer.profiler",
    "ClusterEnvironment": "trainer.plugins",
}
# jsonargparse's sentences about what was written, of which one is enough.
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")
_UNKNOWN = [
    re.compile(r"[Oo]ption '([^']+)' is not accepted"),
    re.compile(r"does not accept option '([^']+)'"),
    re.compile(r"[Uu]nrecognized arguments: --?([^\s=]+)"),
]
_NO_CLASS = re.compile(
    r'key "(?:trainer\.)?(model|data|callbacks|logger|plugins|profiler|strategy)".*'
    r"Expected a dot import path string: (\S+)"
)
_CLASS_PROBLEM = re.compile(
    r"key \"([^\"]+)\".*?Problem with given class_path '([^']+)': "
    r"(.*?)(?: - (?:Expected a|Problem with|Not a valid subclass)|$)"
)
_NO_PARTS = re.compile(r"key \"([^\"]+)\".*NestedArg\(key='([^']+)'")
_REQUIRED = re.compile(r"the following arguments are required: (.*)")
_VALUE = re.compile(r'Parser key "([^"]+)":\s*(.*)')
_EXPECTED = re.compile(
    r"Expected a (<class '[\w.]+'>|typing\.Literal\[[^\]]*\])(?=\. Got value| - | Given|$)"
)
_GIVEN = re.compile(r"(?:Got value|Given value): (\S+)")
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "keys with values, such as '{1: 2}'",
    "NoneType": "null",
}
_NO_SECTION = re.compile(r'Parser key "([\w.]+)": Unable to load config "([^"]*)"')
_HERE = "\ue000"  # stands for where an option is: `--`, or `--model.` once the outer parser tells


def explain(message: str, parser: ZooParser) -> str:
    """One line for a jsonargparse message of many: what is wrong, and what may have been meant."""
    line = _explain(" ".join(message.split()), parser)
    return line.replace(_HERE, "--") if parser.exit_on_error else line  # no parser of a class


def _explain(text: str, parser: ZooParser) -> str:
    denied, problem = _DENIED.search(text), _CLASS_PROBLEM.search(text)
    group = _NAMELESS.get(denied[1].rpartition(".")[2]) if denied else None
    if denied and group is None:
        return refused(denied[1]) or f"class path {denied[1]!r} is not allowed: it is no class"
    if denied and (problem is None or problem[2] == denied[1]):
        known = ", ".join(_classes(str(group).rpartition(".")[2]))
        recipe = ", or a recipe by -c," if group in ("model", "data") else ""
        flag = f"{_HERE}{group}"
        return f"{flag}: options of which class? Give {flag} NAME{recipe} first (known: {known})"
    if no_class := _NO_CLASS.search(text):
        group, name = no_class[1], no_class[2]
        return f"there is no {group.removesuffix('s')} {name!r}: {nearest(name, _classes(group))}"
    if problem:
        key, path, inner = problem.groups()
        if inner.endswith(" object has no attribute 'keys'"):
            form = "needs keys with values, such as '{NAME: VALUE}', or is left out"
            return f"{_HERE}{key}.init_args of {path.rpartition('.')[2]} {form}"
        if _HERE not in inner:
            return f"{path}: {_value(inner, parser)}"
        inner = f"{path.rpartition('.')[2]} {inner}" if inner.startswith("needs") else inner
        return inner.replace(_HERE, f"{_HERE}{key}.")  # already explained by the class's own parser
    if section := _NO_SECTION.search(text):
        key, given = section.groups()
        option = next((o for o in parser.options() if o.startswith(f"{key}.")), f"{key}.NAME")
        return f"{_HERE}{key}: {given} is no YAML file; give its options, as {_HERE}{option}"
    for pattern in _UNKNOWN:
        if unknown := pattern.search(text):
            known = _suggest(unknown[1], parser.options())
            return f"there is no option '{_HERE}{unknown[1]}': {known}"
    if parts := _NO_PARTS.search(text):
        return f"there is no option '{_HERE}{parts[1]}.{parts[2]}': see --help"
    if required := _REQUIRED.search(text):
        names = (parser.shown(name, _HERE) for name in required[1].split(", "))
        return f"needs {', '.join(names)}"
    return _value(text, parser)


def innermost(text: str) -> str:
    """What a class said when it was built, out of jsonargparse's account of the optional type."""
    said = re.search(
        r"Errors: - (.*?)(?: - Not a valid .*?)? - Expected a <class 'NoneType'>", text
    )
    return said[1] if said else text


def _value(text: str, parser: ZooParser) -> str:
    match = _VALUE.fullmatch(text)
    if match is None:
        return text
    option, given = parser.shown(match[1], _HERE), _GIVEN.search(text)
    if given is None:
        return f"{option}: {match[2]}"
    if needed := _needed(_EXPECTED.findall(text)):
        form = f", such as '[{given[1]}]'" if needed == _KINDS["list"] else f", got {given[1]}"
        return f"{option}: needs {needed}{form}"
    return f"{option}: {given[1]} is not accepted, see --help"


def _needed(expected: list[str]) -> str:
    """What a value may be, of the types that it is not; nothing if one has no plain name."""
    words = [
        a or b for e in expected for a, b in re.findall(r"'([^']*)'|\b(\d+)\b", e) if "Lit" in e
    ]
    kinds = [_KINDS.get(e.split("'")[1], "") for e in expected if "Literal" not in e]
    if "a number" in kinds or any(word.isdecimal() for word in words):
        kinds = [kind for kind in kinds if kind != "a whole number"]
    kinds = [kind for kind in dict.fromkeys(kinds) if kind != "null"]
    if words:
        kinds.append(f"one of {', '.join(dict.fromkeys(words))}")
    return " or ".join(kinds) if all(kinds) else ""


def _suggest(name: str, options: list[str]) -> str:
    """The nearest option: of the same group if there is such a group, else by the first part."""
    group, dot, last = name.rpartition(".")
    siblings = [o.rpartition(".")[2] for o in options if o.rpartition(".")[0] == group]
    if siblings:
        found = synonym(last, siblings) or near(last, siblings)
        return f"did you mean {_HERE}{group}{dot}{found}?" if found else "see --help"
    found = near(name.split(".")[0], {o.split(".")[0] for o in options})
    return f"did you mean {_HERE}{found}?" if found else "see --help"


def _classes(group: str) -> list[str]:
    if group in ("model", "data"):
        return names_of(group)
    return list(
        LIGHTNING.get(f"lightning.pytorch.{group}s".replace("ss", "s").replace("ys", "ies"), ())
    )
