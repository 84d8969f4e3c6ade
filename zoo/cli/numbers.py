"""The numbers of a Trainer verb against their ranges, before anything is built."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

import torch

from zoo.cli.sizes import class_of
from zoo.ranges import Count, Positive, Range, Whole, check_ranges, find_fault
from zoo.registry import MODELS
from zoo.training.options import check_trainer

_GLOBAL_SEED = Annotated[int, Range(0, 2**32 - 1)]
THREADS = Annotated[int, Range(1, 1024)] | None
CALLBACKS: dict[str, dict[str, Any]] = {
    "EarlyStopping": {"patience": Whole},
    "LearningRateFinder": {"num_training_steps": Count, "min_lr": Positive, "max_lr": Positive},
    "BatchSizeFinder": {"steps_per_trial": Count, "init_val": Count, "max_trials": Count},
}
_DEVICES = re.compile(r"auto|-?\d+(,\s*\d+)*,?")
# Of their environments, each has one of these.
_LAUNCHERS = ("MASTER_ADDR", "SLURM_NTASKS", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
PRECISIONS = {"64": "64-true", "32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}


def check_numbers(config: Mapping[str, Any]) -> None:
    """Raises ValueError if a number of the Trainer, model or data is out of its range."""
    trainer = config["trainer"]
    check_trainer(trainer, "--trainer.")
    _check_callbacks(trainer.get("callbacks"))
    _check_processes(trainer)
    if fault := find_fault(_GLOBAL_SEED | bool, config.get("seed_everything")):
        raise ValueError(f"--seed_everything={config['seed_everything']}: {fault}")
    if fault := find_fault(THREADS, config.get("threads")):
        raise ValueError(f"--threads={config['threads']}: {fault}")
    for group in ("model", "data"):
        spec = config.get(group)
        if spec:
            check_ranges(
                class_of(spec["class_path"]), dict(spec.get("init_args") or {}), f"--{group}."
            )
    if config.get("model"):
        _check_precision(config["model"]["class_path"], trainer.get("precision"))


def _check_callbacks(given: Any) -> None:
    for spec in given if isinstance(given, list) else [given]:
        name = str(spec.get("class_path")).rpartition(".")[2] if hasattr(spec, "get") else ""
        for key, hint in CALLBACKS.get(name, {}).items():
            value = (spec.get("init_args") or {}).get(key)
            if fault := find_fault(hint, value):
                raise ValueError(f"--trainer.callbacks.{key}={value}: {name}: {fault}")


def _check_processes(trainer: Mapping[str, Any]) -> None:
    """Refuses more processes than make sense, which would start slowly or wait for ever.

    On a CPU each device is a process of its own: one a core, or two where there is one core.
    """
    devices, nodes = str(trainer.get("devices")), trainer.get("num_nodes") or 1
    if on_cpu(trainer.get("accelerator")) and devices not in ("auto", "None"):
        most = max(2, os.cpu_count() or 1)
        if not devices.isdecimal() or not 1 <= int(devices) <= most:
            raise ValueError(
                f"--trainer.devices={devices}: on a CPU it is a number of processes, from 1 to "
                f"{most} on this machine of {os.cpu_count()} cores"
            )
    elif isinstance(trainer.get("devices"), str) and not _DEVICES.fullmatch(devices):
        raise ValueError(f"--trainer.devices={devices}: give a number, such as 2, a list, or auto")
    if int(nodes) > 1 and not any(name in os.environ for name in _LAUNCHERS):
        raise ValueError(
            f"--trainer.num_nodes={nodes}: this process was not started on several machines: "
            "start it on each, by torchrun, SLURM or with MASTER_ADDR set"
        )


def on_cpu(accelerator: Any) -> bool:
    """Whether a Trainer with this accelerator computes on the CPU."""
    name = accelerator if isinstance(accelerator, str) else (accelerator or {}).get("class_path")
    if name in (None, "auto"):
        return not torch.accelerator.is_available()
    return name == "cpu" or name.endswith("CPUAccelerator")


def _check_precision(class_path: str, precision: Any) -> None:
    """Refuses a precision in which a model of the zoo meets tensors of another."""
    name = class_path.rpartition(".")[2]
    if precision is None or name not in MODELS:
        return
    known = MODELS[name].precisions
    if PRECISIONS.get(str(precision), str(precision)) not in known:
        raise ValueError(f"--trainer.precision={precision}: {name} trains in {', '.join(known)}")
