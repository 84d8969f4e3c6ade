"""The config inside a checkpoint, which may be anybody's."""

from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.building import TooLargeError, check_size
from zoo.cli.config_files import with_current_paths
from zoo.cli.trusted import check_stored_config
from zoo.data_of import data_spec, own_arguments
from zoo.loading import checkpoint_class, model_class
from zoo.registry import MODELS
from zoo.training.record import KEPT, KEPT_FOR_FIT, NOT_KEPT_TRAINER


def stored_config(checkpoint: dict[str, Any], path: Path, verb: str) -> dict[str, Any]:
    """The config inside a checkpoint, under the strictest rule: its model, its data, plain values.

    What belongs to a machine (devices, loggers, callbacks, profilers) is the command's own and is
    never taken from a file.

    Raises:
        ValueError: It names another class than the zoo's or the user's own.
    """
    kept = KEPT_FOR_FIT if verb == "fit" else KEPT
    config = {k: v for k, v in checkpoint.get("zoo_config", {}).items() if k in kept}
    for name, section in config.items():
        plain = name in ("seed_everything", "threads")
        if not plain and section is not None and not isinstance(section, dict):
            kind = type(section).__name__
            raise ValueError(f"{path}: {name} of its config is a {kind}, not a dict")
    trainer = config.get("trainer") or {}
    config = {**config, "trainer": {k: v for k, v in trainer.items() if k not in NOT_KEPT_TRAINER}}
    name = checkpoint_class(checkpoint)
    if not config.get("model") and name is not None:
        arguments = own_arguments(checkpoint.get("hyper_parameters", {}))
        config["model"] = {"class_path": name, "init_args": arguments}
    if data := data_spec(checkpoint):
        config["data"] = data
    config = with_current_paths(config)
    check_stored_config(config, str(path))
    return {key: value for key, value in config.items() if value not in (None, {})}


def check_model(config: dict[str, Any], weights: dict[str, Tensor], path: Path) -> None:
    """Raises ValueError if the model of a stored config is larger than its weights."""
    spec = config.get("model") or {}
    if str(spec.get("class_path")).rsplit(".", 1)[-1] not in MODELS:
        return  # the user's own
    try:
        check_size(model_class(spec["class_path"], path), spec.get("init_args", {}), weights, path)
    except TooLargeError:
        raise
    except ValueError:
        return  # flags and configs may still mend it, and the parser knows more
