"""The data that a checkpoint was trained on, or that a name stands for."""

import importlib
from typing import Any

import yaml

from zoo.loading import current_path, find_checkpoint, read_checkpoint, trusted_packages
from zoo.recipes import list_configs, resolve_config
from zoo.registry import DATA, nearest


def recorded_data(ckpt: str) -> dict[str, Any]:
    """The data section of a checkpoint's config."""
    file = find_checkpoint(ckpt)
    spec = data_spec(read_checkpoint(file, keys=()))
    if not isinstance(spec, dict) or "class_path" not in spec:
        raise ValueError(f"{file} does not say what data it was trained on: give --data")
    return spec


def data_spec(checkpoint: dict[str, Any]) -> Any:
    """The data that a checkpoint says it was trained on, as a config's section, if it does."""
    hparams = checkpoint.get("datamodule_hyper_parameters", {})
    found = checkpoint.get("zoo_config", {}).get("data")
    if not found and "_class_path" in hparams:
        return {"class_path": hparams["_class_path"], "init_args": own_arguments(hparams)}
    return found


def own_arguments(hparams: dict[str, Any]) -> dict[str, Any]:
    """Hyper-parameters without Lightning's own keys."""
    return {key: value for key, value in hparams.items() if not str(key).startswith("_")}


def named_data(data: str) -> dict[str, Any]:
    """A DataModule by its name, or the data section of a config."""
    import zoo.data
    from zoo.data.protocols import HasSplits

    known = {name.lower(): name for name in DATA}
    is_class = "." in data and "/" not in data and not data.endswith((".yaml", ".yml"))
    if data.lower() in known or is_class:
        return {"class_path": known.get(data.lower(), data)}
    try:
        files, _ = resolve_config(data)
    except FileNotFoundError as error:
        names = [n for n in DATA if issubclass(getattr(zoo.data, n), HasSplits)]
        hint = nearest(data, [*names, *list_configs()])
        if not hint.startswith("did you mean"):
            hint = f"DataModules are {', '.join(names)}; zoo list shows the configs"
        raise FileNotFoundError(
            f"--data {data}: no such folder, .zip, .npy, DataModule or config: {hint}"
        ) from error
    file = next(iter(files), None)  # what lies over a recipe leaves its data as they are
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file else None
    spec = (content or {}).get("data") if isinstance(content, dict) else None
    if not isinstance(spec, dict) or "class_path" not in spec:
        raise ValueError(f"--data {data}: {file or 'it'} has no data section")
    return spec


def make_data(spec: dict[str, Any]) -> Any:
    """The DataModule of a config's data section: the zoo's, or of a package in `ZOO_TRUST`.

    Raises:
        ValueError: It names something else, or its arguments are not the class's.
    """
    path = current_path(str(spec["class_path"]))
    package, _, name = path.rpartition(".")
    if package in ("", "zoo.data") and name in DATA:
        package = "zoo.data"
    elif package.split(".")[0] not in trusted_packages():
        raise ValueError(f"class path {path!r} is not allowed as data: {nearest(name, DATA)}")
    cls = getattr(importlib.import_module(package), name)
    try:
        return cls(**spec.get("init_args", {}))
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error
