"""The Trainer's state in a checkpoint, which may be anybody's, before the Trainer takes it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.shards import without_shapes
from zoo.untrusted import check_plain, check_tensors

# The Trainer's own parts of a checkpoint, and their types.
_STATE: dict[str, type] = {
    "global_step": int,
    "epoch": int,
    "pytorch-lightning_version": str,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
}
_FIT_LOOP = ("epoch_progress", "epoch_loop.batch_progress")  # without which it begins anew
# Functions of Lightning's that take a checkpoint apart.
_RESTORING = (
    "load_checkpoint",
    "migrate_checkpoint",
    "resume_start",
    "restore_training_state",
    "_restore_modules_and_callbacks",
    "_call_callbacks_load_state_dict",
    "_call_callbacks_on_load_checkpoint",
)


def check_state(checkpoint: dict[str, Any], path: Path) -> None:
    """Raises ValueError unless the Trainer's parts of a checkpoint are there, of their types."""
    for key, kind in _STATE.items():
        if key not in checkpoint:
            raise ValueError(f"{path} is no checkpoint of a Trainer: it has no {key}")
        value = checkpoint[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{path}: {key} is a {type(value).__name__}, not a {kind.__name__}")
        if isinstance(value, int) and not 0 <= value < 2**53:
            raise ValueError(f"{path}: {key} {value} is no number of steps")
        check_plain(value, f"{path}: {key}", tensors=True)
    for key in ("optimizer_states", "lr_schedulers"):
        if not all(isinstance(state, dict) for state in checkpoint[key]):
            raise ValueError(f"{path}: {key} holds something other than states")
    for state in checkpoint["optimizer_states"]:
        _check_optimizer(state, f"{path}: optimizer_states")
    fit = checkpoint["loops"].get("fit_loop")
    if not isinstance(fit, dict) or (gone := [name for name in _FIT_LOOP if name not in fit]):
        raise ValueError(f"{path}: loops has no {gone[0] if isinstance(fit, dict) else 'fit_loop'}")
    _check_progress(checkpoint["loops"], f"{path}: loops")
    _check_notes(checkpoint, path)
    raw = checkpoint.get("current_model_state")
    if raw is not None:
        held = without_shapes(checkpoint, raw)
        check_tensors(held, f"{path}: current_model_state", path.stat().st_size)
        for name, tensor in checkpoint["state_dict"].items():
            if getattr(raw.get(name), "shape", None) != getattr(tensor, "shape", ...):
                raise ValueError(f"{path}: current_model_state does not go with state_dict: {name}")
        updates = checkpoint.get("ema_updates")
        if not isinstance(updates, int) or isinstance(updates, bool) or updates < 0:
            raise ValueError(f"{path}: ema_updates is no number of updates")


def _check_optimizer(state: dict[str, Any], what: str) -> None:
    groups, slots = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(slots, dict):
        raise ValueError(f"{what} holds no state and param_groups of an optimiser")
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            raise ValueError(f"{what}: a group has no list of params")
        for name, value in group.items():
            numbers = value if isinstance(value, list | tuple) else [value]
            if name != "params" and not all(
                item is None or isinstance(item, int | float | Tensor) for item in numbers
            ):
                raise ValueError(f"{what}: {name} is {value!r:.80}")
    for slot in slots.values():
        values = slot.values() if isinstance(slot, dict) else [slot]
        if not all(v is None or isinstance(v, Tensor | int | float) for v in values):
            raise ValueError(f"{what}: a parameter's state is neither tensors nor numbers")


def _check_notes(checkpoint: dict[str, Any], path: Path) -> None:
    """What the zoo's callbacks wrote into a checkpoint is of the types that they wrote."""
    for name, state in checkpoint["callbacks"].items():
        if not isinstance(name, str) or not isinstance(state, dict):
            raise ValueError(f"{path}: callbacks: {name!r:.80} holds no state of a callback")
    best = checkpoint["callbacks"].get("Checkpoint", {}).get("best")
    if not (best is None or _is_number(best)):
        raise ValueError(f"{path}: callbacks: best is {best!r:.80}, not a number")
    noted = ("surroundings", "metrics_csv", "optimizer_kinds", "optimizer_options")
    for key in (*noted, "stopping_thresholds"):
        check_plain(checkpoint.get(key), f"{path}: {key}", tensors=key == "optimizer_options")
    surroundings = checkpoint.get("surroundings", {})
    if not isinstance(surroundings, dict) or not all(
        isinstance(value, str | int) for value in surroundings.values()
    ):
        raise ValueError(f"{path}: surroundings is {surroundings!r:.80}, not values by name")
    thresholds = checkpoint.get("stopping_thresholds", {})
    if not isinstance(thresholds, dict) or not _is_list(list(thresholds.values()), list):
        raise ValueError(f"{path}: stopping_thresholds is {thresholds!r:.80}, not lists by name")
    table = checkpoint.get("metrics_csv", {"columns": ["step"], "rows": 0, "row": {}})
    match table:
        case {"columns": list(columns), "rows": int(rows), "row": dict(row)} if rows >= 0:
            good = all(isinstance(name, str) for name in (*columns, *row))
            good = good and len(set(columns)) == len(columns)
            good = good and all(isinstance(value, str | int | float) for value in row.values())
            good = good and "step" in (row or columns)
        case _:
            good = False
    if not good:
        raise ValueError(f"{path}: metrics_csv is {table!r:.80}, not columns, rows and a row")
    kinds, options = checkpoint.get("optimizer_kinds"), checkpoint.get("optimizer_options")
    if not (kinds is None or _is_list(kinds, str)):
        raise ValueError(f"{path}: optimizer_kinds is {kinds!r:.80}, not names")
    if options is None:
        return
    states = checkpoint["optimizer_states"]
    if not _is_list(options, list) or len(options) != len(states):
        raise ValueError(f"{path}: optimizer_options are not those of {len(states)} optimisers")
    for groups, state in zip(options, states, strict=True):
        if not _is_list(groups, dict) or len(groups) != len(state["param_groups"]):
            raise ValueError(f"{path}: optimizer_options are not those of the groups")
        for group in groups:
            for name, value in {"lr": None, **group}.items():
                one = not isinstance(value, Tensor) or value.numel() == 1
                rate = name not in ("lr", "initial_lr") or isinstance(value, Tensor)
                if not one or not (rate or _is_number(value)):
                    raise ValueError(f"{path}: optimizer_options: {name} is {value!r:.80}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: Any, of: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, of) for item in value)


def _check_progress(loops: dict[str, Any], what: str) -> None:
    """Counts of steps, batches and epochs are numbers of what has been done."""
    left: list[tuple[bool, Any]] = [(False, loops)]
    while left:
        counts, value = left.pop()
        if isinstance(value, dict):
            left += [(counts or str(key).endswith("progress"), v) for key, v in value.items()]
        elif counts and not (isinstance(value, int) and 0 <= value < 2**53):
            raise ValueError(f"{what}: {value!r:.80} is no count")


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Turns what fails while the Trainer takes a checkpoint apart into a line that names it."""
    try:
        yield
    except (ValueError, OSError):
        raise
    except Exception as error:
        names = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        if path is None or names.isdisjoint(_RESTORING) or "loading state_dict" in str(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} cannot be restored: {type(error).__name__}: {said or 'no reason given'}"
        ) from error
