"""Runs a verb and turns what goes wrong into one line and an exit code."""

import argparse
import importlib
import json
import os
import re
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from itertools import islice, zip_longest
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from lightning.fabric.utilities.exceptions import MisconfigurationException

from zoo.cli.arguments import check_said, take
from zoo.cli.naming import maker_of, of_the_constructor, of_the_function
from zoo.cli.parser import ZooParser, innermost
from zoo.files import STDOUT, printable
from zoo.memory import asked_for, is_out_of_memory
from zoo.processes import rank
from zoo.ranges import check_ranges, number_hints
from zoo.registry import COMMANDS, TRAINER_VERBS, nearest
from zoo.training.distributed import place
from zoo.training.failure import RunFailedError
from zoo.training.guard import TrainingDivergedError
from zoo.training.settings import settle
from zoo.training.stop import Stopped

# Mistakes in what was asked for; anything else is a bug and keeps its traceback.
_MISTAKES = (
    ValueError,
    OSError,
    MisconfigurationException,
    argparse.ArgumentError,
    TrainingDivergedError,
    ModuleNotFoundError,
)


_NO_METRIC = re.compile(r"Early stopping conditioned on metric `([^`]*)`.* following: `(.*)`", re.S)
# Lightning's long hints, and the class that jsonargparse was to make.
_NO_PACKAGE = re.compile(r"(?:Neither `|Requirement '|`pip install -U '?)([\w.\-]+)")
_NO_BATCH = re.compile(r"to check (\S+) of the `(\w+?)_dataloader` but \S+ \* (\d+) < 1")
_NO_DEVICE = re.compile(r"No supported gpu backend found|accelerator is not available")
_TO_MAKE = re.compile(r"class_path '[\w.]*\b(\w+)'")
# Arguments that name a file or folder to write.
_WRITTEN = {"out", "output", "folder", "index", "run_dir"}
_GRACE = 20.0  # seconds in which the first process of several ends, if it does, on a busy machine


@contextmanager
def _same_environment() -> Iterator[None]:
    """Takes back what a run sets for the processes that it starts: they are others' next time."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def guarded(verb: str, arguments: list[str]) -> int:
    """Runs `zoo VERB ARGUMENTS` and returns the exit code; the environment stays as it was."""
    settle()  # of the process, for good
    warnings.formatwarning = _as_a_line
    return _guarded(verb, arguments)


@_same_environment()
def _guarded(verb: str, arguments: list[str]) -> int:
    start = started()
    try:
        if verb in TRAINER_VERBS:
            from zoo.cli.trainer import run_trainer_verb

            _check_utf8(arguments)
            run_trainer_verb(verb, arguments)
        else:
            run_function(verb, arguments)
    except Stopped as stopped:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return 0  # a child that fails would make the launcher kill rank 0
        unsaved = "stopped at once"
        if verb == "fit":
            unsaved += "; the last checkpoint is as it was"
        again = again_from(verb, arguments, bool(stopped.saved), start)
        sys.stderr.write(f"zoo: {stopped.saved or unsaved}\nzoo: go on with: {again}\n")
        return stopped.exit_code
    except RunFailedError as error:
        if os.environ.get("ZOO_DEBUG"):
            raise
        if str(error):
            sys.stderr.write(f"zoo: error: {one_line(error)}\n")
        return 1
    except (*_MISTAKES, RuntimeError, MemoryError) as error:
        line = told(error)
        if line is None or os.environ.get("ZOO_DEBUG"):
            raise
        if _first_ended():
            return 2
        line = of_the_constructor(error, line) if verb in TRAINER_VERBS else line
        sys.stderr.write(f"zoo: error: {line}\n")
        return 2
    except _wandb_errors() as error:  # a bad key, no network: no bug of the run's
        if os.environ.get("ZOO_DEBUG"):
            raise
        sys.stderr.write(
            f"zoo: error: W&B: {one_line(error)} (WANDB_MODE=offline logs to files alone)\n"
        )
        return 2
    except SystemExit as stop:  # --help and --print_config; Lightning's own ways out
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _first_ended() -> bool:
    """Whether this is not the first process of several, and that one ends too: it says why.

    Lightning's first process is the others' parent; torchrun ends all once one has ended.
    """
    if rank() == 0:
        return False
    parent, end = os.getppid(), time.monotonic() + _GRACE
    while (now := os.getppid()) == parent and time.monotonic() < end:
        time.sleep(0.05)
    return now != parent


def _check_utf8(arguments: list[str]) -> None:
    """Refuses names whose bytes are no UTF-8: they would go into the run's config, which is."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{argument}: a name whose bytes are no UTF-8, as a config is: rename it, or give "
                "a link to it"
            ) from error


def again_from(
    verb: str, arguments: list[str], saved: bool, start: Sequence[str] | None = ("zoo",)
) -> str:
    """The command that goes on with a run that was stopped, from any later state of the folder.

    Args:
        verb: Of the Trainer.
        arguments: Of the run that was stopped.
        saved: Whether it saved its last step: then the checkpoint that it began from is behind it.
        start: What stood before the verb, if that is known.
    """
    rest, asked = take(arguments, "--ckpt_path")
    more: list[str] = []
    if verb == "fit" and (saved or asked is None):
        arguments = rest
        run_dir = os.environ.get("ZOO_RUN_DIR")  # another run may be the newest by then
        if run_dir and take(rest, "--run_dir")[1] is None:
            more += ["--run_dir", run_dir]
        more += ["--ckpt_path", "last"]
    if start is None:
        return f"the same command with {shlex.join(more)}" if more else "the same command"
    trusted = os.environ.get("ZOO_TRUST")
    before = f"ZOO_TRUST={shlex.quote(trusted)} " if trusted else ""
    return before + shlex.join([*start, verb, *arguments, *more])


def started() -> list[str] | None:
    """The command that started this process, before the verb; None if it cannot be told.

    Asked before a strategy starts processes of its own, and sets the same variables.
    """
    here = os.environ
    by_module = Path(sys.argv[0]).parts[-3:] == ("zoo", "cli", "__main__.py")
    if "TORCHELASTIC_RUN_ID" in here:
        if here.get("GROUP_WORLD_SIZE") != "1":
            return None  # each machine has a command of its own
        launch = ["torchrun", "--standalone", "--nproc_per_node", here["LOCAL_WORLD_SIZE"]]
        return [*launch, *(["-m", "zoo.cli"] if by_module else ["--no-python", "zoo"])]
    if any(here.get(name, "1") != "1" for name in ("WORLD_SIZE", "SLURM_NTASKS")):
        return None
    return ["python", "-m", "zoo.cli"] if by_module else ["zoo"]


def _wandb_errors() -> tuple[type[BaseException], ...]:
    """W&B's own errors, if the run has loaded it: its import takes a second."""
    wandb = sys.modules.get("wandb")
    return () if wandb is None else (wandb.Error,)


def told(error: Exception) -> str | None:
    """What a mistake is told as, in one line; None of what may be a bug."""
    said = str(error)
    if is_out_of_memory(error):
        return (
            f"not enough memory: {asked_for(error)}: take a smaller batch, fewer items or a "
            "smaller model"
        )
    if monitor := _NO_METRIC.search(said):
        known = monitor[2].replace("`", "")
        return (
            f"EarlyStopping: no metric {monitor[1]!r} is logged: "
            f"{nearest(monitor[1], known.split(', '))} (logged: {known})"
        )
    if package := _NO_PACKAGE.search(said):
        made = _TO_MAKE.search(said)
        what = made[1] if made else maker_of(error) or "this"
        return f"{what} needs a package that is not here: pip install {package[1]}"
    if share := _NO_BATCH.search(said):
        flag = f"--trainer.limit_{share[2]}_batches"
        return f"{flag}={share[1]}: of {share[3]} batches that is none: {flag} 1 is one batch"
    if _NO_DEVICE.search(said):
        return "--trainer.accelerator: there is no such device here: leave it out, or give cpu"
    if "<Interval." in said:  # a default of Lightning's Timer that jsonargparse cannot write
        return "the Timer callback cannot be named here: give --trainer.max_time DD:HH:MM:SS"
    if "loading state_dict" in said and not isinstance(error, _MISTAKES):
        return f"the checkpoint does not fit the model: {one_line(error)}"
    return one_line(error) if isinstance(error, _MISTAKES) else None


def one_line(error: BaseException) -> str:
    """The message of an error in one line."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = printable(innermost(" ".join(message.split())))
    return (text if len(text) < 600 else text[:597] + "...") or type(error).__name__


_others_format, _ROOT = warnings.formatwarning, Path(__file__).parents[1]


def _as_a_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning as Python writes it, one of the zoo's own in the line that a user needs."""
    if isinstance(message, Warning) and Path(filename).is_relative_to(_ROOT):
        return f"zoo: {one_line(message)}\n"
    return _others_format(message, category, filename, lineno, line)


def run_function(verb: str, arguments: list[str]) -> None:
    """Calls a verb's function, unless another process of several does its work."""
    function, values = parse_function(verb, arguments)
    own, processes = place()
    if processes > 1 and not COMMANDS[verb].shared:
        if own:
            return
        sys.stderr.write(f"zoo: {verb} is work of one process: the first of {processes} does it\n")
    try:
        function(**values)
    except ValueError as error:
        raise ValueError(of_the_function(function, str(error))) from error


def parse_function(verb: str, arguments: list[str]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A verb's function, whose docstring is the help, and its arguments, typed and in range."""
    module, name = COMMANDS[verb].function.split(":")
    function = getattr(importlib.import_module(module), name)
    parser = ZooParser(prog=f"zoo {verb}", description=COMMANDS[verb].line)
    parser.add_function_arguments(function, as_positional=True, fail_untyped=True)
    short = COMMANDS[verb].short
    longhand = _switched(function, [_long(argument, short) for argument in arguments])
    if COMMANDS[verb].many:  # with its name or without
        name = f"--{next(iter(signature(function).parameters))}"
        longhand = _gathered([a.removeprefix(f"{name}=") for a in longhand if a != name])
    longhand = _lists(function, longhand)
    if passed := COMMANDS[verb].rest:
        longhand = _passed_on(longhand, passed, list(signature(function).parameters))
    values: dict[str, Any] = parser.parse_args(longhand).as_dict()
    for name in values.keys() - COMMANDS[verb].texts:
        check_said(parser.shown(name), values[name])
    check_ranges(function, values, "--")
    for name in _WRITTEN & values.keys():
        if values[name] == "-":
            values[name] = _standard_output(verb, name, parser)
    return function, values


def _standard_output(verb: str, name: str, parser: ZooParser) -> str:
    """What - stands for where something is written."""
    if name != COMMANDS[verb].stream:
        raise ValueError(
            f"{parser.shown(name)} -: zoo {verb} writes nothing to standard output: give a name"
        )
    return STDOUT


def _long(argument: str, short: dict[str, str]) -> str:
    """An argument with a short option in full, also where its value is in it: -n4, -n=4."""
    option, value = argument[:2], argument[2:].removeprefix("=")
    if argument in short:
        return short[argument]
    return f"{short[option]}={value}" if option in short else argument


def _switched(function: Callable[..., Any], arguments: list[str]) -> list[str]:
    """The arguments with `=true` behind what is yes or no and stands without either."""
    switches = {f"--{name}" for name, hint in number_hints(function).items() if hint is bool}
    either = ("true", "false", "yes", "no", "on", "off", "1", "0")
    return [
        f"{argument}=true" if argument in switches and after.lower() not in either else argument
        for argument, after in zip_longest(arguments, arguments[1:], fillvalue="")
    ]


def _lists(function: Callable[..., Any], arguments: list[str]) -> list[str]:
    """The arguments with a single value as a list of one where a list alone is taken."""
    out: list[str] = []
    hints = number_hints(function)
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        hint = hints.get(flag.removeprefix("--")) if flag.startswith("--") else None
        union = [kind for kind in get_args(hint) if kind is not NoneType]
        kinds = [hint] if get_origin(hint) is list else union
        if [get_origin(kind) for kind in kinds] != [list]:
            out.append(argument)
            continue
        value = value if equals else next(rest, "")
        if value and not value.lstrip().startswith("[") and value != "null":
            value = json.dumps([value]) if get_args(kinds[0]) == (str,) else f"[{value}]"
        out.append(f"{flag}={value}")
    return out


def _gathered(arguments: list[str]) -> list[str]:
    """The arguments with all that stand without an option as one list, for the parser."""
    options: list[str] = []
    alone: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "-" or not argument.startswith("-"):
            alone.append(argument)
        elif "=" in argument or argument in ("-h", "--help"):
            options.append(argument)
        else:
            options += [argument, *islice(rest, 1)]
    return [*([json.dumps(alone)] if alone else []), *options]


def _passed_on(arguments: list[str], name: str, own: list[str]) -> list[str]:
    """The arguments with all options that are not `own`, and their values, as a list of one.

    What stands without an option is the first of `own`.
    """
    kept: list[str] = []
    passed: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, _ = argument.partition("=")
        if not flag.startswith("-"):
            kept.append(f"--{own[0]}={argument}")
            continue
        to = kept if flag.lstrip("-") in ("h", "help", *own) else passed
        to += [argument, *(() if equals or flag in ("-h", "--help") else islice(rest, 1))]
    return [*kept, *([f"--{name}={json.dumps(passed)}"] if passed else [])]
