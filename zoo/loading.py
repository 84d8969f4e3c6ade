"""Models from files and back: checkpoints, run directories and exported folders.

Every file is untrusted input: tensors and primitives only (`weights_only=True`), and the class it
names must be one of the zoo's.
"""

import importlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.files import replacing
from zoo.registry import MODELS, nearest

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def find_checkpoint(path: str | Path) -> Path:
    """The .ckpt file or exported folder that `path` stands for.

    Args:
        path: A .ckpt file, a run directory (its `checkpoints/last.ckpt`), or an exported folder.

    Raises:
        FileNotFoundError: There is nothing to load at `path`.
    """
    path = Path(path)
    if path.is_file() or (path / CONFIG).is_file():
        return path
    if path.is_dir():
        for folder in (path / "checkpoints", path):
            if (folder / "last.ckpt").is_file():
                return folder / "last.ckpt"
        raise FileNotFoundError(
            f"no checkpoint in {path}: neither checkpoints/last.ckpt of a run nor {CONFIG}"
        )
    raise FileNotFoundError(f"no such checkpoint: {path}")


def read_checkpoint(path: Path, *, mmap: bool = True) -> dict[str, Any]:
    """The contents of a .ckpt file, tensors on the CPU.

    Args:
        path: The file.
        mmap: Map the tensors instead of reading them.

    Raises:
        ValueError: The file is cut off, is not a checkpoint, or holds pickled objects.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        what = str(error)
        if "Unsupported global" in what or "weights_only" in what.lower():
            name = what.split("GLOBAL ")[-1].split()[0] if "GLOBAL " in what else "an object"
            raise ValueError(
                f"{path} holds pickled code ({name}) and was refused: a checkpoint may hold only "
                "tensors and plain values"
            ) from error
        raise ValueError(f"{path} is cut off or not a checkpoint") from error
    except (FileNotFoundError, PermissionError):
        raise
    except (RuntimeError, EOFError, KeyError, AttributeError, OSError) as error:
        raise ValueError(f"{path} is cut off or not a checkpoint") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    return checkpoint


def checkpoint_class(checkpoint: dict[str, Any]) -> str | None:
    """Class path of the model in a checkpoint, such as `zoo.DDPM`, if it says so."""
    hparams = checkpoint.get("hyper_parameters", {})
    name = checkpoint.get("zoo_class") or hparams.get("_class_path")
    return name if isinstance(name, str) else None


def model_class(path: str) -> type[LightningModule]:
    """The class of the zoo that a class path names.

    Args:
        path: `zoo.DDPM`, or the module it lives in.

    Raises:
        ValueError: It is none of the zoo's.
    """
    package, _, name = path.rpartition(".")
    if name not in MODELS or package.split(".")[0] != "zoo":
        raise ValueError(f"{path!r} is not a model of the zoo: {nearest(name, MODELS)}")
    cls: type[LightningModule] = getattr(importlib.import_module(MODELS[name].module), name)
    return cls


def build(
    path: str, hparams: dict[str, Any], state_dict: dict[str, Tensor], source: Path
) -> LightningModule:
    """A model of class `path` with these weights, in eval mode.

    Raises:
        ValueError: The weights or the hyper-parameters do not fit the class.
    """
    cls = model_class(path)
    arguments = {key: value for key, value in hparams.items() if not key.startswith("_")}
    try:
        model = cls(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{source}: {path} does not take these hyper-parameters: {error}"
        ) from error
    try:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:  # sizes that differ: a title, then a line a tensor
        raise ValueError(f"{source}: {' '.join(str(error).split()[:40])}") from error
    if missing or unexpected:
        first = (missing + unexpected)[0]
        raise ValueError(
            f"{source}: the weights do not fit {path}: {len(missing)} missing and "
            f"{len(unexpected)} unexpected tensors (the first is {first})"
        )
    return model.eval()


def load(path: str | Path) -> LightningModule:
    """A trained model in eval mode on the CPU, with its averaged weights.

    Args:
        path: A .ckpt file, a run directory or an exported folder.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: What is there is damaged, untrusted or none of the zoo's models.
    """
    file = find_checkpoint(path)
    if file.is_dir():
        return build(*read_exported(file), file)
    checkpoint = read_checkpoint(file)
    name = checkpoint_class(checkpoint)
    if name is None:
        raise ValueError(
            f"{file} does not say which model it holds: use its class, CLASS.load_from_checkpoint"
        )
    return build(name, checkpoint.get("hyper_parameters", {}), checkpoint["state_dict"], file)


def save_pretrained(model: LightningModule, folder: str | Path) -> Path:
    """Writes `model.safetensors` and `config.json`, which `zoo.load` reads.

    Args:
        model: A model of the zoo.
        folder: Made if it is not there.

    Raises:
        ValueError: The model is none of the zoo's.
    """
    name = type(model).__name__
    if name not in MODELS or type(model) is not model_class(f"zoo.{name}"):
        raise ValueError(f"{name} is not a model of the zoo: {nearest(name, MODELS)}")
    hparams = {key: value for key, value in model.hparams.items() if not key.startswith("_")}
    return write_pretrained(f"zoo.{name}", hparams, model.state_dict(), folder)


def write_pretrained(
    path: str, hparams: dict[str, Any], state_dict: dict[str, Tensor], folder: str | Path
) -> Path:
    """Writes an exported folder from its parts; each file is replaced whole."""
    import zoo

    folder = Path(folder)
    config = {"zoo_class": path, "zoo_version": zoo.__version__, "hyper_parameters": hparams}
    with replacing(folder / WEIGHTS) as file:
        save_file({key: value.contiguous() for key, value in state_dict.items()}, file)
    with replacing(folder / CONFIG) as file:
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def read_exported(folder: Path) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Class path, hyper-parameters and weights of an exported folder.

    Raises:
        ValueError: A file is damaged, or the folder is of another format.
        FileNotFoundError: The weights are not there.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / CONFIG} is not JSON: {error}") from error
    if not isinstance(config, dict) or "zoo_class" not in config:
        raise ValueError(f"{folder} is not a folder of the zoo's: see zoo import")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}")
    try:
        return config["zoo_class"], config["hyper_parameters"], load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from error
