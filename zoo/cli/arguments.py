"""What must be known before parsing: the configs' files, the run directory and the checkpoint.

The checkpoint's own config becomes the first `--config`, so that the parser itself gives the
precedence flags > configs > checkpoint > defaults.
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.cli.config_files import read_config
from zoo.cli.stored import check_model, stored_config
from zoo.cli.trusted import check_config
from zoo.data_of import own_arguments
from zoo.files import check_run
from zoo.loading import checkpoint_class, find_checkpoint, read_checkpoint
from zoo.pretrained import pinned
from zoo.processes import rank
from zoo.recipes import config_root, resolve_config
from zoo.training.claim import (
    UNSAVED,
    Claim,
    HoldsRunError,
    InUseError,
    follow_rank_zero,
    holds_run,
    why_afresh,
)
from zoo.training.state import check_state

RUNS = Path("runs")


@dataclass
class Prepared:
    """A command line of a Trainer verb, ready for the parser.

    Args:
        arguments: What the parser gets.
        run_dir: The run directory.
        checkpoint: The .ckpt file or exported folder, if any.
        source: What it was asked for as, with the commit of a repository.
        model: Class path of the model in it.
        runs: Ids of the run at its loggers, to go on with, by their names in a checkpoint.
        hparams: Arguments that the checkpoint's model was made with.
        made_with: Config that the checkpoint was made with.
        claim: The lock on the run directory, if this process is to write there.
        afresh: Why a run that was to go on begins anew, if it does.
        steps: Optimiser steps that the checkpoint has done.
        epochs: Epochs that it has begun.
        weights: The checkpoint's, mapped, until the model is made.
        auto: Whether the precision is to be measured.
    """

    arguments: list[str]
    run_dir: Path
    checkpoint: Path | None = None
    source: str | None = None
    model: str | None = None
    runs: dict[str, str] = field(default_factory=dict)
    hparams: dict[str, Any] = field(default_factory=dict)
    made_with: dict[str, Any] = field(default_factory=dict)
    claim: Claim | None = None
    afresh: str = ""
    steps: int = 0
    epochs: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    auto: bool = False


def prepare(verb: str, arguments: list[str]) -> Prepared:
    """Resolves configs, run directory and checkpoint of `zoo VERB ARGUMENTS`.

    Raises:
        ValueError: The run directory already holds a run, or a checkpoint cannot be used.
        FileNotFoundError: A config or a checkpoint is not there.
    """
    rest, configs, stem = _with_configs(arguments)
    shown = ("-h", "--help", "--print_config")
    if any(a.partition("=")[0] in shown or a.endswith(".help") for a in arguments):
        return Prepared(rest, RUNS)
    for flag in ("--ckpt_path", "--run_dir", "--data.root"):
        check_said(flag, take(rest, flag)[1])
    rest, asked = take(rest, "--ckpt_path")
    rest, folder = take(rest, "--run_dir")
    asked = asked if asked is not None else _peek(configs, "ckpt_path")
    folder = folder if folder is not None else _peek(configs, "run_dir")
    prepared = _locate(verb, asked, folder, stem)
    prepared.arguments = rest
    try:
        if prepared.checkpoint is not None:
            _read(verb, prepared, prepared.checkpoint)
    except BaseException:
        if prepared.claim is not None:
            prepared.claim.release()
        raise
    prepared.arguments += [f"--run_dir={prepared.run_dir}"]
    return prepared


def check_said(flag: str, value: Any) -> None:
    """Raises ValueError if a value is empty, as an empty path is the folder that one is in."""
    if value in ("", []):
        what = "" if value == "" else " []"
        raise ValueError(f"{flag}{what} is empty (a variable of the shell that is not set?)")


def _with_configs(arguments: list[str]) -> tuple[list[str], list[Path], str]:
    """The arguments with every config resolved, the configs in order, and the run's name.

    Configs come first, wherever they were written: flags win over them.
    """
    laid: list[str] = []
    flags: list[str] = []
    configs: list[Path] = []
    names: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in ("-c", "--config"):
            flags.append(argument)
            continue
        if not equals:
            value = next(rest, "")
        files, own = resolve_config(value)
        configs += files
        names.append(value)
        laid += [*(f"--config={path}" for path in files), *own]
    return [*laid, *flags], configs, _stem(names)


def take(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
    """Removes `flag` and returns its last value."""
    out: list[str] = []
    found: str | None = None
    rest = iter(arguments)
    for argument in rest:
        if argument == flag:
            found = next(rest, None)
            if found is None:
                raise ValueError(f"{flag} needs a value")
        elif argument.startswith(f"{flag}="):
            found = argument.partition("=")[2]
        else:
            out.append(argument)
    return out, found


def _peek(configs: list[Path], key: str) -> str | None:
    """Top-level value of `key` in the configs; the last one counts."""
    found = None
    for path in configs:
        content = read_config(path)
        check_config(content, str(path))
        value = content.get(key)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{path}: {key} must be text, not {value!r:.80}")
        found = value or found
    return found


def _stem(names: list[str]) -> str:
    """Name of a run of these configs: family-recipe for a shipped one."""
    if not names:
        return "run"
    path, root = Path(names[0]).resolve(), config_root().resolve()
    if root in path.parents:
        return "-".join(path.relative_to(root).with_suffix("").parts)
    shipped = not path.is_file()
    return names[0].removesuffix(".yaml").replace("/", "-") if shipped else path.stem


def _numbered(stem: str) -> list[Path]:
    """Run directories of this name that exist, in the order of their numbers."""
    name = re.compile(rf"{re.escape(stem)}(?:-(\d+))?")
    found = [(m, path) for path in RUNS.glob(f"{stem}*") if (m := name.fullmatch(path.name))]
    numbered = sorted((int(m[1] or 1), path) for m, path in found if path.is_dir())
    return [path for _, path in numbered]


def _locate(verb: str, asked: str | None, folder: str | None, stem: str) -> Prepared:
    """The run directory, and the checkpoint if there is one to start from."""
    launched = os.environ.get("ZOO_RUN_DIR") if "LOCAL_RANK" in os.environ else None
    folder = launched or folder
    if asked in ("last", "best"):
        tried = [Path(folder)] if folder else _numbered(stem) or [RUNS / stem]
        if verb == "fit" and not folder:  # the newest run, whatever it holds
            begun = [p for p in tried if holds_run(p) or (p / UNSAVED).is_file()]
            tried = begun[-1:] or tried[:1]
        for run_dir in reversed(tried):
            check_run(run_dir)
            file = run_dir / "checkpoints" / f"{asked}.ckpt"
            if file.is_file():
                return _claimed(verb, Prepared([], run_dir, file))
        if verb != "fit" or asked == "best":
            raise FileNotFoundError(
                f"--ckpt_path {asked}: there is no {tried[-1] / 'checkpoints' / asked}.ckpt"
            )
        afresh = why_afresh(tried[-1]) if rank() == 0 else ""
        return _claimed(verb, Prepared([], tried[-1], afresh=afresh))
    if asked is not None:
        file = find_checkpoint(asked)
        own = file.parent.parent if file.parent.name == "checkpoints" else None
        source = pinned(asked)
        if folder is None and own is None:
            if verb == "fit":
                return _in_new_folder(verb, stem, file, source)
            stem = stem if Path(asked).exists() else "of-" + re.sub(r"[^\w.]+", "-", asked)
        prepared = Prepared([], Path(folder or own or RUNS / stem), file, source)
        return _claimed(verb, prepared, new=file.is_dir())  # weights alone begin a run
    if verb != "fit":
        raise ValueError(f"zoo {verb} needs --ckpt_path: a .ckpt file, a run directory, or last")
    if launched:
        return Prepared([], Path(launched))
    if folder is not None:
        return _claimed(verb, Prepared([], Path(folder)), new=True)
    return _in_new_folder(verb, stem)


def _in_new_folder(
    verb: str, stem: str, file: Path | None = None, source: str | None = None
) -> Prepared:
    """The first run directory of this name that holds no run."""
    names = [stem, *(f"{stem}-{number}" for number in range(2, 10_000))]
    if rank() != 0:
        return Prepared([], follow_rank_zero(RUNS / name for name in names[:100]), file, source)
    for name in names:
        if not holds_run(RUNS / name):
            try:
                return _claimed(verb, Prepared([], RUNS / name, file, source), new=True)
            except (InUseError, HoldsRunError):
                continue
    raise ValueError(f"{RUNS / stem}-N are all taken: choose a --run_dir")


def _claimed(verb: str, prepared: Prepared, new: bool = False) -> Prepared:
    """Takes the run directory for a fit, on the process that writes; a `new` one holds no run."""
    if verb != "fit" or rank() != 0:
        check_run(prepared.run_dir)
        return prepared
    prepared.claim = Claim(prepared.run_dir)  # which checks it too
    if new and holds_run(prepared.run_dir):
        prepared.claim.release()
        raise HoldsRunError(
            f"{prepared.run_dir} already holds a run: go on with --ckpt_path last, or choose "
            "another --run_dir"
        )
    return prepared


def _read(verb: str, prepared: Prepared, file: Path) -> None:
    """Puts the checkpoint's config before all others."""
    checkpoint = read_checkpoint(file, keys=())
    if file.is_file():
        check_state(checkpoint, file)
    prepared.weights = checkpoint["state_dict"]
    prepared.hparams = own_arguments(checkpoint.get("hyper_parameters", {}))
    prepared.model = checkpoint_class(checkpoint)
    if verb in ("fit", "test"):
        names = ("wandb_run_id", "mlflow_run_id")
        prepared.runs = {n: checkpoint[n] for n in names if isinstance(checkpoint.get(n), str)}
    if verb == "fit":
        prepared.steps = checkpoint.get("global_step", 0)
        with suppress(KeyError, TypeError):
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
            prepared.epochs = epochs if isinstance(epochs, int) else 0
    config = stored_config(checkpoint, file, verb)
    if file.is_file():
        prepared.made_with = {**config, "model": {"init_args": prepared.hparams}}
    check_model(config, prepared.weights, file)
    prepared.arguments.insert(0, f"--config={json.dumps(config)}")
