"""What must be known before parsing: the configs' files, the run directory and the checkpoint.

The checkpoint's own config becomes the first `--config`, so that the parser itself gives the
precedence flags > configs > checkpoint > defaults.
"""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.cli.config_files import read_config
from zoo.cli.stored import check_model, check_state, own_arguments, stored_config
from zoo.cli.trusted import check_config, check_stored_config
from zoo.loading import checkpoint_class, find_checkpoint, read_checkpoint, read_exported
from zoo.registry import config_root, list_configs, nearest

RUNS = Path("runs")


@dataclass
class Prepared:
    """A command line of a Trainer verb, ready for the parser.

    Args:
        arguments: What the parser gets.
        run_dir: The run directory.
        checkpoint: The .ckpt file or exported folder, if any.
        model: Class path of the model in it.
        wandb_id: W&B run to go on with.
        hparams: Model arguments that the checkpoint was made with.
    """

    arguments: list[str]
    run_dir: Path
    checkpoint: Path | None = None
    model: str | None = None
    wandb_id: str | None = None
    hparams: dict[str, Any] = field(default_factory=dict)


def prepare(verb: str, arguments: list[str]) -> Prepared:
    """Resolves configs, run directory and checkpoint of `zoo VERB ARGUMENTS`.

    Raises:
        ValueError: The run directory already holds a run, or a checkpoint cannot be used.
        FileNotFoundError: A config or a checkpoint is not there.
    """
    if any(
        a in ("-h", "--help", "--print_config") or a.endswith(".help") for a in arguments
    ) or any(a.startswith("--print_config=") for a in arguments):
        return Prepared(_with_configs(arguments)[0], RUNS)
    rest, configs = _with_configs(arguments)
    rest, asked = _take(rest, "--ckpt_path")
    rest, folder = _take(rest, "--run_dir")
    asked = asked if asked is not None else _peek(configs, "ckpt_path")
    folder = folder if folder is not None else _peek(configs, "run_dir")
    run_dir, checkpoint = _locate(verb, asked, folder, _stem(configs))

    prepared = Prepared(rest, run_dir, checkpoint)
    if checkpoint is not None:
        _read(verb, prepared, checkpoint)
    prepared.arguments += [f"--run_dir={run_dir}"]
    return prepared


def resolve_config(name: str) -> Path:
    """The file of a config: a path, or the name of a shipped one.

    Raises:
        FileNotFoundError: Neither; suggests the nearest shipped one.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = config_root() / name
    for path in (shipped, shipped.with_name(f"{shipped.name}.yaml")):
        if path.is_file():
            return path
    overlay = config_root() / "overlays" / f"{name}.yaml"
    if overlay.is_file():
        return overlay
    raise FileNotFoundError(f"no config {name!r}: {nearest(name, list_configs())}")


def _with_configs(arguments: list[str]) -> tuple[list[str], list[Path]]:
    """The arguments with every config resolved, and the configs in order."""
    out: list[str] = []
    configs: list[Path] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in ("-c", "--config"):
            out.append(argument)
            continue
        if not equals:
            value = next(rest, "")
        path = resolve_config(value)
        configs.append(path)
        out.append(f"--config={path}")
    return out, configs


def _take(arguments: list[str], flag: str) -> tuple[list[str], str | None]:
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


def _stem(configs: list[Path]) -> str:
    """Name of a run made from these configs: family-recipe for a shipped one."""
    if not configs:
        return "run"
    path = configs[0].resolve()
    root = config_root().resolve()
    parts = path.relative_to(root).with_suffix("").parts if root in path.parents else (path.stem,)
    return "-".join(parts)


def _numbered(stem: str) -> list[Path]:
    """Run directories of this name that exist, in the order of their numbers."""
    pattern = re.compile(rf"{re.escape(stem)}(?:-(\d+))?")
    found = []
    for path in RUNS.glob(f"{stem}*") if RUNS.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match and path.is_dir():
            found.append((int(match[1] or 1), path))
    return [path for _, path in sorted(found)]


def _holds_run(folder: Path) -> bool:
    return any((folder / "checkpoints").glob("*.ckpt")) or (folder / "config.yaml").is_file()


def _locate(
    verb: str, asked: str | None, folder: str | None, stem: str
) -> tuple[Path, Path | None]:
    """The run directory, and the checkpoint if there is one to start from."""
    launched = os.environ.get("ZOO_RUN_DIR") if "LOCAL_RANK" in os.environ else None
    if asked in ("last", "best"):
        tried = [Path(folder)] if folder else _numbered(stem) or [RUNS / stem]
        for run_dir in reversed(tried):
            file = run_dir / "checkpoints" / f"{asked}.ckpt"
            if file.is_file():
                return run_dir, file
        if verb != "fit" or asked == "best":
            raise FileNotFoundError(
                f"--ckpt_path {asked}: there is no {tried[-1] / 'checkpoints' / asked}.ckpt"
            )
        return tried[-1], None  # a job that is always started with `last` begins at the beginning
    if asked is not None:
        file = find_checkpoint(asked)
        if file.is_dir() and verb == "fit":
            raise ValueError(
                f"{file} is an export without optimiser state: fit resumes a .ckpt file or a run"
            )
        own = file.parent.parent if file.parent.name == "checkpoints" else None
        return Path(folder) if folder else own or RUNS / stem, file
    if verb != "fit":
        raise ValueError(f"zoo {verb} needs --ckpt_path: a .ckpt file, a run directory, or last")
    if launched:
        return Path(launched), None
    if folder is not None:
        if _holds_run(Path(folder)):
            raise ValueError(
                f"{folder} already holds a run: go on with --ckpt_path last, or choose another "
                "--run_dir"
            )
        return Path(folder), None
    run_dir, number = RUNS / stem, 2
    while _holds_run(run_dir):
        run_dir, number = RUNS / f"{stem}-{number}", number + 1
    return run_dir, None


def _read(verb: str, prepared: Prepared, file: Path) -> None:
    """Puts the checkpoint's config before all others."""
    if file.is_dir():
        name, hparams, weights = read_exported(file)
        hparams = own_arguments(hparams)
        config: dict[str, Any] = {"model": {"class_path": name, "init_args": hparams}}
        check_stored_config(config, str(file))
        prepared.model, prepared.hparams = name, hparams
    else:
        checkpoint = read_checkpoint(file)
        check_state(checkpoint, file)
        weights = checkpoint["state_dict"]
        prepared.hparams = own_arguments(checkpoint.get("hyper_parameters", {}))
        prepared.model = checkpoint_class(checkpoint)
        if verb == "fit" and isinstance(checkpoint.get("wandb_run_id"), str):
            prepared.wandb_id = checkpoint["wandb_run_id"]
        config = stored_config(checkpoint, file, verb)
    check_model(config, weights, file)
    prepared.arguments.insert(0, f"--config={json.dumps(config)}")
