"""What differs between a run that goes on and the run so far."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from zoo.training.pictures import processor
from zoo.training.record import NOT_KEPT_TRAINER

# Arguments of models that are used where a model is made, and never again.
_FIRST_WEIGHTS = ("init", "init_std", "embedding_init", "data_bias", "pretrained")
# Arguments of data that make a vocabulary, which a model keeps.
_SYMBOLS = ("tokenizer", "vocabulary_size", "min_count", "vocabulary_of", "vocab", "lower")
# How long a run is and what it shows: flags of a Trainer that are there to be changed.
_OF_THE_COMMAND = {
    *(f"trainer.{name}" for name in NOT_KEPT_TRAINER),
    "trainer.max_steps", "trainer.max_epochs", "trainer.min_steps", "trainer.min_epochs",
    "trainer.max_time", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "trainer.enable_checkpointing",
}  # fmt: skip
_DIGESTED = 16_000_000  # bytes of an array
_ITEMS = 10_000  # of a list


def changed_options(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Options whose values differ, by name, with both values.

    Args:
        old: Config of the run so far: model, data, trainer, ema and so on.
        new: Config of this run.
    """
    before, after = (dict(_flat(_plain(config))) for config in (old, new))
    return {
        name: (before[name], value)
        for name, value in after.items()
        if name in before and name not in _OF_THE_COMMAND and before[name] != value
    }


def check_options(changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuses what a run that goes on cannot change: its kind of optimiser, and first weights."""
    for name, (old, new) in changed.items():
        section, _, option = name.partition(".")
        if section != "model":
            continue
        if option == "optimizer":
            raise ValueError(
                f"--model.optimizer={new}: the checkpoint has the state of {old}, from which no "
                f"other optimiser can go on; give --model.optimizer={old}, or begin a new run"
            )
        # Nothing to begin with is what a run that goes on has.
        if option in _FIRST_WEIGHTS and new is not None:
            raise ValueError(
                f"--{name}={new} would change the first weights alone, and this run goes on from a "
                f"checkpoint's; leave it as it was ({old}), or begin a new run"
            )


def check_symbols(changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuses other symbols than those that the checkpoint's model has learnt."""
    for name, (old, new) in changed.items():
        if name.removeprefix("data.") in _SYMBOLS and new is not None:
            kept = "null" if old is None else old
            raise ValueError(
                f"--{name}={new}: the symbols are the checkpoint's, made with {kept}; give "
                f"--{name}={kept}, or begin a new run"
            )


def tell_options(changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Says what has changed, in one line an option."""
    for name, (old, new) in changed.items():
        rank_zero_info(f"{name} is {new}; the checkpoint was made with {old}")


def check_weights(
    model: LightningModule,
    weights: Mapping[str, Tensor],
    changed: Mapping[str, tuple[Any, Any]],
    source: str,
) -> None:
    """Refuses weights of other shapes than the model's, by the option that is at fault."""
    shapes = _shapes(model)
    wrong = [n for n, shape in shapes.items() if n not in weights or weights[n].shape != shape]
    own_names = model.state_dict().keys()
    more = [name for name in weights if name not in own_names]
    if not wrong and not more:
        return
    own = {key: value for key, value in model.hparams.items() if not key.startswith("_")}
    options = {n.removeprefix("model."): v[0] for n, v in changed.items() if n.startswith("model.")}
    guilty = [name for name, old in options.items() if _reshapes(model, own, name, old)]
    guilty = guilty or (list(options) if wrong else [])
    if not guilty:
        return  # no option of the user's: the loading names the tensors
    values = ", ".join(f"model.{n} is {own.get(n)} and was {options[n]}" for n in guilty)
    back = " ".join(f"--model.{name} {json.dumps(options[name])}" for name in guilty)
    raise ValueError(
        f"{source} does not fit the model: {values} ({len(wrong + more)} tensors have other "
        f"shapes, the first is {(wrong + more)[0]}); give {back}, or begin a new run"
    )


def _shapes(model: LightningModule) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _reshapes(model: LightningModule, own: dict[str, Any], name: str, old: Any) -> bool:
    """Whether the old value of this option alone gives other shapes than the model's."""
    try:
        with torch.device("meta"):
            other = type(model)(**{**own, name: old})
    except Exception:  # a combination that makes no model: it may be this one
        return True
    return _shapes(other) != _shapes(model)


def _plain(value: Any) -> Any:
    """A config as a file has it: keys are text."""
    return json.loads(json.dumps(value, default=str))


def _flat(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for section, values in config.items():
        if not isinstance(values, Mapping):
            yield section, values
            continue
        if "class_path" in values:
            yield section, values["class_path"].rsplit(".", 1)[-1]
        if "init_args" in values:
            values = values["init_args"] or {}
        yield from ((f"{section}.{name}", value) for name, value in values.items())


class Changes(Callback):
    """Says where a run goes on with other data, or on other processes, than the run so far."""

    def __init__(self) -> None:
        self._before: dict[str, Any] = {}
        self._now: dict[str, Any] = {}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes what the run so far had."""
        self._before = checkpoint.get("surroundings", {})

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds what this run has."""
        checkpoint["surroundings"] = self._now

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at both and says what differs, in a line each."""
        dataset = getattr(trainer.train_dataloader, "dataset", None)
        self._now = {
            "number of processes": trainer.world_size,
            "kind of device": pl_module.device.type,
            "version of torch": str(torch.__version__),
            "processor": processor(),
        }
        if isinstance(dataset, Sized) and trainer.is_global_zero:
            root = getattr(getattr(trainer, "datamodule", None), "root", None)
            # Of pictures that are decoded as it goes another, which a cache of them is not told by.
            kind = "files" if hasattr(dataset, "names") else "data"
            self._now |= {"number of training items": len(dataset), kind: digest(dataset, root)}
        for name, old in self._before.items():
            new = self._now.get(name, old)
            if old == new:
                continue
            if name in ("data", "files"):
                rank_zero_info("the content of the training data is another than the checkpoint's")
            else:
                rank_zero_info(f"the {name} is {new}; the checkpoint was made with {old}")
        self._before = {}


def digest(dataset: Any, root: str | None = None) -> int:
    """A checksum of what a data set holds: its arrays and lists, long ones by evenly spaced parts.

    Args:
        dataset: Of the training loader. What it draws as it goes is no part of it.
        root: Folder of files that it reads as it goes, whose `names` it has: their sizes count.
    """
    total = 0
    for name, value in sorted(getattr(dataset, "__dict__", {}).items()):
        if not name.startswith("_"):
            for part in _parts(value):
                total = zlib.crc32(part, total)
    names = getattr(dataset, "names", None)
    if root is not None and isinstance(names, list):
        for file in (Path(root, name) for name in _some(names)):
            total = zlib.crc32(b"%d" % (file.stat().st_size if file.is_file() else 0), total)
    return total


def _some(items: Sequence[Any]) -> Sequence[Any]:
    return items[:: max(1, len(items) // _ITEMS)]


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object and value.ndim:
        yield f"{value.dtype}{value.shape}".encode()
        rows = value[:: max(1, -(-value.nbytes // _DIGESTED))]
        yield np.ascontiguousarray(rows).tobytes()
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for item in _some(value):
            yield from _parts(item)
    elif isinstance(value, str | int | float):
        yield repr(value).encode()
