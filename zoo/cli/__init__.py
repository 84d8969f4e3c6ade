"""The `zoo` command. What needs no model is answered without importing torch."""

import os
import sys
from collections.abc import Sequence

from zoo.registry import COMMANDS, TRAINER_VERBS, nearest

# What other commands call it.
_SYNONYMS = {
    "train": "fit",
    "run": "fit",
    "resume": "fit --ckpt_path last",
    "eval": "test",
    "val": "validate",
    "inference": "predict",
    "encode": "embed",
    "convert": "export or import",
    "ls": "list",
    "models": "list",
}
_USAGE = "usage: zoo VERB [options], zoo VERB --help, zoo list, zoo --version"

_BEGIN = """\
begin with: zoo fit -c ddpm/digits     CKPT is a .ckpt file, a run directory, an
exported folder or a name (zoo list --weights, hf://OWNER/REPO) everywhere;
--ckpt_path last is the newest of a run"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: The arguments after `zoo`; those of the process by default.

    Returns:
        The exit code: 0; 2 for a mistake of the user's, told in one line; 130 or 143 for Ctrl-C
        or SIGTERM. `ZOO_DEBUG=1` shows the traceback of a mistake.
    """
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # also while it still imports, which takes seconds
        sys.stderr.write("zoo: stopped\n")
        return 130


def _run(argv: list[str]) -> int:
    verb = argv[0] if argv else "--help"
    if verb == "help" and len(argv) > 1:
        verb, argv = argv[1], [argv[1], "--help"]
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb in ("-V", "--version"):
        from zoo import __version__

        print(f"zoo {__version__}")
        return 0
    if verb == "list":
        return _list(argv[1:])
    if verb not in {**TRAINER_VERBS, **COMMANDS}:
        verbs = [*TRAINER_VERBS, "list", *COMMANDS]
        known = f"did you mean {_SYNONYMS[verb]}?" if verb in _SYNONYMS else nearest(verb, verbs)
        return _fail(f"there is no verb {verb!r}: {known}")

    from zoo.cli.run import guarded

    return guarded(verb, argv[1:])


def _fail(message: str) -> int:
    sys.stderr.write(f"zoo: error: {message}\n")
    return 2


def _help() -> str:
    verbs = {
        **TRAINER_VERBS,
        "list": "models and their configs; --weights: trained models",
        **{name: command.line for name, command in COMMANDS.items()},
    }
    width = max(map(len, verbs)) + 2
    lines = [f"  {name:<{width}}{line}" for name, line in verbs.items()]
    return "\n".join([_USAGE, "", *lines, "", _BEGIN])


def _list(arguments: list[str]) -> int:
    from zoo.cli.listing import listing, weights

    show = weights if "--weights" in arguments else listing
    arguments = [argument for argument in arguments if argument != "--weights"]
    if any(argument.startswith("-") for argument in arguments) or len(arguments) > 1:
        print("usage: zoo list [PATTERN] [--weights]     such as zoo list '*mnist*'")
        return 0 if arguments in (["-h"], ["--help"]) else 2
    try:
        print(show(*arguments), flush=True)
    except ValueError as error:
        return _fail(str(error))
    except BrokenPipeError:  # zoo list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
