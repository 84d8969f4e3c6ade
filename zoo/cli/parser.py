"""An argument parser whose mistakes are one line with a suggestion."""

import argparse
import difflib
import os
import re
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from zoo.cli.trusted import refused
from zoo.cli.words import synonym
from zoo.registry import DATA, MODELS, nearest


class ZooParser(LightningArgumentParser):
    """LightningArgumentParser that raises its mistakes instead of printing the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises `message` in one line.

        Raises:
            argparse.ArgumentError: Always.
        """
        raise argparse.ArgumentError(None, explain(message, self)) from ex

    def format_help(self) -> str:
        """The help, in which a number's type is its range: int (1 or more)."""
        return re.sub(r"Annotated\[(\w+),\s([^\]]*)\]", r"\1 (\2)", super().format_help())

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parses; values of a kind that the parser itself stumbles over are mistakes, too.

        Raises:
            argparse.ArgumentError: The arguments cannot be taken.
        """
        try:
            return super().parse_args(*args, **kwargs)
        except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            if os.environ.get("ZOO_DEBUG"):
                raise
            self.error(f"a value is of the wrong kind: {str(error) or type(error).__name__}", error)

    def options(self) -> list[str]:
        """Names of all options, those of subcommands too, without dashes."""
        names = [name.lstrip("-") for action in self._actions for name in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names += parser.options()
        return sorted({name for name in names if not name.endswith((".help", "+"))})


# jsonargparse's sentences about what was written, of which one is enough.
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")
_UNKNOWN = [
    re.compile(r"[Oo]ption '([^']+)' is not accepted"),
    re.compile(r"does not accept option '([^']+)'"),
    re.compile(r"[Uu]nrecognized arguments: --?([^\s=]+)"),
]
_NO_CLASS = re.compile(r'key "(model|data)".*Expected a dot import path string: (\S+)')
_CLASS_PROBLEM = re.compile(r"Problem with given class_path '([^']+)': (.*?)(?: - Expected a|$)")
_VALUE = re.compile(r'Parser key "([^"]+)":\s*(.*)')


def explain(message: str, parser: ZooParser) -> str:
    """One line for a jsonargparse message of many: what is wrong, and what may have been meant."""
    text = " ".join(message.split())
    if denied := _DENIED.search(text):
        return refused(denied[1]) or f"class path {denied[1]!r} is not allowed: it is no class"
    if no_class := _NO_CLASS.search(text):
        known = MODELS if no_class[1] == "model" else DATA
        return f"there is no {no_class[1]} {no_class[2]!r}: {nearest(no_class[2], known)}"
    if problem := _CLASS_PROBLEM.search(text):
        inner = problem[2]  # already explained by the class's own parser
        return inner if "there is no option" in inner else f"{problem[1]}: {_value(inner)}"
    for pattern in _UNKNOWN:
        if unknown := pattern.search(text):
            return f"there is no option {unknown[1]!r}: {_suggest(unknown[1], parser.options())}"
    return _value(text)


def innermost(text: str) -> str:
    """What a class said when it was built, out of jsonargparse's account of the optional type."""
    said = re.search(r"Errors: - (.*?) - Expected a <class 'NoneType'>", text)
    return said[1] if said else text


def _value(text: str) -> str:
    for kind, needed in (("int", "needs a whole number"), ("float", "needs a number")):
        text = text.replace(f"Expected a <class '{kind}'>. Got value:", f"{needed}, got")
    match = _VALUE.fullmatch(text)
    if match is None:
        return text
    given = re.search(r"Does not validate against any .*Given value: (\S+)", text)
    return (
        f"{match[1]}: {given[1]} is not accepted, see --help"
        if given
        else f"{match[1]}: {match[2]}"
    )


def _suggest(name: str, options: list[str]) -> str:
    """The nearest option: of the same group if there is such a group, else by the first part."""
    group, dot, last = name.rpartition(".")
    siblings = [o.rpartition(".")[2] for o in options if o.rpartition(".")[0] == group]
    if known := synonym(last, siblings):
        return f"did you mean {group}{dot}{known}?"
    if siblings:
        near = difflib.get_close_matches(last, siblings, n=1, cutoff=0.5)
        return f"did you mean {group}{dot}{near[0]}?" if near else "see --help"
    first = name.split(".")[0]
    near = difflib.get_close_matches(first, {o.split(".")[0] for o in options}, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "see --help"
