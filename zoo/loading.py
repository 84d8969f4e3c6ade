"""Models from files and back: checkpoints, run directories and exported folders.

Every file is untrusted input: tensors and primitives only (`weights_only=True`), and the class it
names must be one of the zoo's, or of a package that `ZOO_TRUST` names.
"""

import importlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import Tensor

from zoo.building import check_arguments, check_size, construct
from zoo.files import check_no_run, check_run, replacing_folder
from zoo.pretrained import locate, names
from zoo.registry import MODELS, nearest
from zoo.shards import HEAD, check_shards, read_shards, without_shapes
from zoo.untrusted import (
    check_plain,
    check_tensors,
    read_json,
    read_safetensors,
    read_torch,
    sha256,
)
from zoo.version import zoo_version

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_KEPT = ("data", "quality")  # of a run's config: what a test of the exported weights needs


def find_checkpoint(path: str | Path) -> Path:
    """The .ckpt file or exported folder that `path` stands for.

    Args:
        path: A .ckpt file, a run directory (its `checkpoints/last.ckpt`), an exported folder, a
            folder of shards, or the name of a model: one that ships (`ddpm/mnist`) or `hf://OWNER/REPO[@REVISION]`.

    Raises:
        FileNotFoundError: There is nothing to load at `path`.
        ValueError: It is a repository that cannot be read, or no regular file.
    """
    name, path = str(path), Path(path)
    check_run(path)
    if path.is_file() or (path / CONFIG).is_file():
        return path
    if path.is_dir():
        for file in (path / "checkpoints" / "last.ckpt", path / "last.ckpt", path / HEAD):
            if file.is_file():
                return file
        hides = f" (the folder hides the trained model {name})" if name in names() else ""
        raise FileNotFoundError(
            f"no checkpoint in {path}: neither checkpoints/last.ckpt of a run nor {CONFIG}{hides}"
        )
    if path.exists():
        raise ValueError(f"{path} is no regular file, and so no checkpoint")
    return locate(name)


def read_checkpoint(
    path: Path, *, mmap: bool = True, keys: Collection[str] = ("state_dict",)
) -> dict[str, Any]:
    """The contents of a .ckpt file, tensors on the CPU; or what an exported folder has of them.

    Args:
        path: The file or folder.
        mmap: Map the tensors instead of reading them.
        keys: What is read of shards, if the file is a head of some; the rest are shapes (tensors on
            the device meta).

    Raises:
        FileNotFoundError: A shard is missing.
        ValueError: The file is damaged, is not a checkpoint, or holds pickled objects.
    """
    checkpoint = _read_exported(path) if path.is_dir() else read_torch(path, mmap=mmap)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"{path} is not a Lightning checkpoint: it has no state_dict")
    for key in ("hyper_parameters", "datamodule_hyper_parameters", "zoo_config"):
        if not isinstance(checkpoint.get(key, {}), dict):
            raise ValueError(f"{path}: {key} is a {type(checkpoint[key]).__name__}, not a dict")
        check_plain(checkpoint.get(key), f"{path}: {key}")
    check_shards(checkpoint, path)
    weights = checkpoint["state_dict"]
    if isinstance(weights, dict):  # other people's modules may keep plain values there
        extra = {k: v for k, v in weights.items() if str(k).endswith("_extra_state")}
        plain = {k: v for k, v in extra.items() if not isinstance(v, Tensor)}
        check_plain(plain, f"{path}: state_dict")
        weights = {k: v for k, v in weights.items() if k not in plain}
        weights = without_shapes(checkpoint, weights)
    if path.is_file():
        check_tensors(weights, f"{path}: state_dict", path.stat().st_size)
    return _of_today(read_shards(checkpoint, path, keys))


def _of_today(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint whose model's arguments are those that its class of the zoo takes today."""
    root, _, name = (checkpoint_class(checkpoint) or "").rpartition(".")
    if root.split(".")[0] != "zoo" or name not in MODELS:
        return checkpoint
    stored = getattr(model_class(f"zoo.{name}"), "stored_arguments", dict)
    hparams, config = checkpoint.get("hyper_parameters", {}), checkpoint.get("zoo_config", {})
    spec = config.get("model")
    if isinstance(spec, dict) and isinstance(arguments := spec.get("init_args"), dict):
        config = {**config, "model": {**spec, "init_args": stored(arguments)}}
    return {**checkpoint, "hyper_parameters": stored(hparams), "zoo_config": config}


def checkpoint_class(checkpoint: dict[str, Any]) -> str | None:
    """Class path of the model in a checkpoint, such as `zoo.DDPM`, if it says so."""
    hparams = checkpoint.get("hyper_parameters", {})
    names = checkpoint.get("zoo_class"), hparams.get("_class_path")
    return next((name for name in names if isinstance(name, str) and name), None)


def class_path(model: LightningModule) -> str:
    """What `zoo.load` finds a model's class by: `zoo.DDPM`, or `package.Name` of a user's own."""
    cls = type(model)
    if cls.__name__ in MODELS and cls is model_class(f"zoo.{cls.__name__}"):
        return f"zoo.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def zoo_name(model: LightningModule) -> str:
    """The name of a model's class in the zoo, or of the class there that a user's own is from."""
    for cls in type(model).__mro__:
        if cls.__name__ in MODELS and cls.__module__.split(".")[0] == "zoo":
            return cls.__name__
    return type(model).__name__


def current_path(path: str) -> str:
    """A class path as it is written today.

    Files of version 0.1 name data as `datamodules.MNIST`, which is the user's own if `ZOO_TRUST`
    says so, and models by modules that were moved.
    """
    root, name = path.partition(".")[0], path.rpartition(".")[2]
    if root == "datamodules" and root not in trusted_packages():
        return f"zoo.data.{name}"
    return f"zoo.{name}" if root == "zoo" and name in MODELS else path


def trusted_packages() -> list[str]:
    """The packages of the user's own that `ZOO_TRUST` names."""
    return [name.strip() for name in os.environ.get("ZOO_TRUST", "").split(",") if name.strip()]


def model_class(path: str, source: Path | None = None) -> type[LightningModule]:
    """The class of the zoo, or of a package in `ZOO_TRUST`, that a class path names.

    Args:
        path: `zoo.DDPM`, or the module it lives in; or `mypackage.MyModel`.
        source: The file that names it, for the message.

    Raises:
        ValueError: It is none of these.
    """
    said = f"{source}: " if source else ""
    package, _, name = path.rpartition(".")
    root = package.split(".")[0]
    if root == "zoo" and name in MODELS:
        return cast(
            type[LightningModule], getattr(importlib.import_module(MODELS[name].module), name)
        )
    if root in ("", "zoo"):
        raise ValueError(f"{said}{path!r} is not a model of the zoo: {nearest(name, MODELS)}")
    if root not in trusted_packages():
        raise ValueError(
            f"{said}{path!r} is not a model of the zoo: if you trust the package {root}, set "
            f"ZOO_TRUST={root}"
        )
    try:
        found: object = getattr(importlib.import_module(package), name, None)
    except ImportError as error:
        raise ValueError(f"{said}{path!r} cannot be imported: {error} (PYTHONPATH?)") from error
    if not isinstance(found, type) or not issubclass(found, LightningModule):
        raise ValueError(f"{said}{path!r} is no LightningModule")
    return found


def build(
    path: str, hparams: dict[str, Any], state_dict: dict[str, Tensor], source: Path
) -> LightningModule:
    """A model of class `path` with these weights, in eval mode.

    Raises:
        ValueError: The weights or the hyper-parameters do not fit the class.
    """
    cls = model_class(path, source)
    arguments = {key: value for key, value in hparams.items() if not key.startswith("_")}
    check_arguments(cls, arguments, source)
    check_size(cls, arguments, state_dict, source)
    model = construct(cls, arguments, source)
    assert isinstance(model, LightningModule)
    load_weights(model, state_dict, source)
    return model.eval()


def load_weights(model: LightningModule, state_dict: dict[str, Tensor], source: Path) -> None:
    """Puts weights into a model.

    Raises:
        ValueError: They are not exactly those that it has.
    """
    try:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
    except Exception as error:  # sizes that differ, or a vocabulary that is none
        said = " ".join(str(error).split()[:40]) or type(error).__name__
        raise ValueError(f"{source}: {said}") from error
    if missing or unexpected:
        first = (missing + unexpected)[0]
        raise ValueError(
            f"{source}: the weights do not fit {type(model).__name__}: {len(missing)} missing and "
            f"{len(unexpected)} unexpected tensors (the first is {first})"
        )


def load(path: str | Path) -> LightningModule:
    """A trained model in eval mode on the CPU, with its averaged weights.

    Args:
        path: A .ckpt file, a run directory, an exported folder or a model's name.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: What is there is damaged, untrusted, none of the zoo's models, or NaN.
    """
    file = find_checkpoint(path)
    checkpoint = read_checkpoint(file)
    name = checkpoint_class(checkpoint)
    if name is None:
        raise ValueError(
            f"{file} does not say which model it holds: use its class, CLASS.load_from_checkpoint"
        )
    model = build(name, checkpoint.get("hyper_parameters", {}), checkpoint["state_dict"], file)
    for key, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{file}: {key} holds NaN or infinity, so that all results would")
    return model


def save_pretrained(
    model: LightningModule,
    folder: str | Path,
    *,
    dtype: str = "float32",
    config: dict[str, Any] | None = None,
) -> Path:
    """Writes `model.safetensors` and `config.json`, which `zoo.load` reads.

    Args:
        model: A model of the zoo, or of a package in `ZOO_TRUST`.
        folder: Made if it is not there.
        dtype: float32, float16 or bfloat16 for numbers that are float32; they come back as float32.
        config: Config of the run: what it says of data and quality is kept, so that `zoo test`
            needs no other.

    Raises:
        ValueError: The model is none of the zoo's, or a number is too large for `dtype`.
    """
    path = class_path(model)
    if model_class(path) is not type(model):
        raise ValueError(f"{path} is not the class of this model: its module holds another")
    hparams = {key: value for key, value in model.hparams.items() if not key.startswith("_")}
    weights = _in_dtype(model.state_dict(), dtype)
    return write_pretrained(path, hparams, weights, folder, config=config)


def _in_dtype(weights: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    kind: torch.dtype = getattr(torch, dtype)
    small = {k: v.to(kind) if v.dtype is torch.float32 else v for k, v in weights.items()}
    for key, value in small.items():
        if not torch.equal(value.isfinite(), weights[key].isfinite()):
            raise ValueError(
                f"{key} holds {weights[key].abs().max():g}, too large for {dtype}: choose bfloat16 "
                "or float32"
            )
    return small


def write_pretrained(
    path: str,
    hparams: dict[str, Any],
    state_dict: dict[str, Tensor],
    folder: str | Path,
    *,
    config: dict[str, Any] | None = None,
) -> Path:
    """Writes an exported folder from its parts, whole or not at all."""
    folder = Path(folder)
    check_no_run(folder)
    kept = {key: value for key, value in (config or {}).items() if key in _KEPT and value}
    with replacing_folder(folder) as temporary:
        weights = temporary / WEIGHTS
        save_file({key: value.contiguous() for key, value in state_dict.items()}, weights)
        content = {
            "zoo_class": path,
            "zoo_version": zoo_version(),
            "sha256": {WEIGHTS: sha256(weights)},
            "hyper_parameters": _anywhere(hparams),
            **({"zoo_config": _anywhere(kept)} if kept else {}),
        }
        text = json.dumps(content, indent=2) + "\n"
        (temporary / CONFIG).write_text(text, encoding="utf-8")
    return folder


def _anywhere(value: Any) -> Any:
    """A config in which a path of this machine is its last name, which alone may be elsewhere."""
    if isinstance(value, dict):
        return {key: _anywhere(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_anywhere(inner) for inner in value]
    absolute = isinstance(value, str) and value.startswith(os.sep)
    return Path(value).name or value if absolute else value


def _read_exported(folder: Path) -> dict[str, Any]:
    """Class path, hyper-parameters, weights and config of an exported folder, named as in a .ckpt.

    The checksum of the weights is compared, where config.json has one.

    Raises:
        ValueError: A file is damaged, or the folder is of another format.
        FileNotFoundError: The weights are not there.
    """
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or "zoo_class" not in config:
        raise ValueError(f"{folder} is not a folder of the zoo's: see zoo import")
    name, hparams = config["zoo_class"], config.get("hyper_parameters")
    if not isinstance(name, str) or not isinstance(hparams, dict):
        raise ValueError(f"{folder / CONFIG}: zoo_class must be text, hyper_parameters an object")
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}")
    weights = read_safetensors(folder / WEIGHTS)
    sums = config.get("sha256", {})
    written = sums.get(WEIGHTS) if isinstance(sums, dict) else None
    if written != (sha256(folder / WEIGHTS) if "sha256" in config else None):
        raise ValueError(
            f"{folder / WEIGHTS} is damaged: its checksum is not the one in {CONFIG} (whoever "
            "changed the weights on purpose removes sha256 there)"
        )
    said = config.get("zoo_config", {})
    kept = {k: v for k, v in said.items() if k in _KEPT} if isinstance(said, dict) else said
    parts = {"zoo_class": name, "hyper_parameters": hparams, "zoo_config": kept}
    return {**parts, "state_dict": weights}


def device_of(name: str) -> torch.device:
    """The device that a verb's `--device` (auto, cpu, cuda) names.

    Raises:
        ValueError: cuda where there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: there is no CUDA device here")
    if name == "cuda":  # the processes of a machine share its GPUs out
        local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
        return torch.device(name, int(local) % torch.cuda.device_count())
    return torch.device(name)
