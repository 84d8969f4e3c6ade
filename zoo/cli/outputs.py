"""Where loggers, callbacks and profilers of a config write: below the run directory."""

import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from zoo.cli.flags import typed

_FOLDERS = ("save_dir", "dirpath", "dir")
# Of W&B and MLflow: another server would get the user's key and data.
_SERVERS = ("settings", "tracking_uri", "artifact_location")


def default_folders() -> None:
    """Makes "." the folder of the loggers that need one: relative, and so below the run."""
    for cls in (CSVLogger, TensorBoardLogger):
        constructor: Any = cls.__init__
        if inspect.signature(cls).parameters["save_dir"].default is inspect.Parameter.empty:
            constructor.__defaults__ = (".", *constructor.__defaults__)


def place_outputs(trainer: Any, run_dir: Path, arguments: list[str]) -> None:
    """Moves relative folders below `run_dir`, and refuses others unless a flag names them.

    Args:
        trainer: The trainer's part of the config, which is changed.
        run_dir: The run directory.
        arguments: What the user typed, which may name any place.
    """
    given = typed(arguments)
    for name, spec in _specs(trainer):
        for part in ("init_args", "dict_kwargs"):
            values = spec.get(part) or {}
            for key, value in dict(values).items():
                own = given.get(f"trainer.{name}.{key}", [])
                if key == "tracking_uri" and value == os.environ.get("MLFLOW_TRACKING_URI"):
                    continue
                if value is None or str(value) in own or (own and not isinstance(value, str)):
                    continue
                if key in _SERVERS:
                    raise ValueError(f"{called(spec)}: {key} may only be given by a flag")
                if not isinstance(value, str | os.PathLike):
                    continue
                path = Path(value)
                if key in _FOLDERS and not path.is_absolute():
                    path = run_dir / path
                if (path.is_absolute() or ".." in path.parts) and not _below(path, run_dir):
                    raise ValueError(
                        f"{called(spec)}: {key} {str(value)!r} is outside of the run directory "
                        f"{run_dir}: only a flag may name another place "
                        f"(--trainer.{name}.{key} {value})"
                    )
                if key in _FOLDERS:
                    values[key] = str(path)


def unplace_outputs(trainer: Any, run_dir: Path) -> None:
    """Names folders below `run_dir` from there, so that the config may begin a run elsewhere."""
    for _, spec in _specs(trainer):
        for part in ("init_args", "dict_kwargs"):
            values = spec.get(part) or {}
            for key in _FOLDERS:
                value = values.get(key)
                if isinstance(value, str | os.PathLike) and _below(Path(value), run_dir):
                    values[key] = os.path.relpath(
                        os.path.realpath(value), os.path.realpath(run_dir)
                    )


def _specs(trainer: Any) -> Iterator[tuple[str, Any]]:
    for name in ("logger", "callbacks", "profiler", "plugins", "strategy"):
        given = trainer.get(name)
        for spec in given if isinstance(given, list) else [given]:
            if hasattr(spec, "get") and spec.get("class_path"):
                yield name, spec


def called(spec: Any) -> str:
    """The name of a class of the config."""
    return str(spec.get("class_path")).rsplit(".", 1)[-1]


def _below(path: Path, folder: Path) -> bool:
    inner, outer = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return inner == outer or outer in inner.parents
