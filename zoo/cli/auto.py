"""`--precision auto` of a fit: the setting that was measured, or that of the run so far."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from zoo.cli.arguments import Prepared, take
from zoo.cli.flags import typed
from zoo.cli.numbers import PRECISIONS, on_cpu
from zoo.registry import ALL_PRECISIONS, MODELS
from zoo.tuning.choice import Choice, facts, measured
from zoo.tuning.report import search
from zoo.tuning.settings import Setting, dress
from zoo.tuning.training import BOUNDS, TrainingSteps

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule

SECONDS = 120.0
_HANDED = "ZOO_TUNED"  # to the processes that a strategy starts, whose threads may be others


def without_auto(verb: str, arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without `--trainer.precision auto`, and whether it was there.

    `--precision` is taken for the Trainer's.

    Raises:
        ValueError: It is not a fit.
    """
    full = [f"--trainer.{a[2:]}" if a.partition("=")[0] == "--precision" else a for a in arguments]
    rest, value = take(full, "--trainer.precision")
    if value != "auto":
        return full, False
    if verb != "fit":
        raise ValueError(f"--precision auto: zoo {verb} has none; name one, such as bf16-mixed")
    return rest, True


def keep(prepared: Prepared) -> bool:
    """Gives a run that goes on the setting that it has; False where there is none to go on with."""
    if prepared.checkpoint is None or not prepared.checkpoint.is_file():
        return False
    stored, own = prepared.made_with, prepared.hparams
    said = {
        "trainer.precision": (stored.get("trainer") or {}).get("precision") or "32-true",
        **{f"model.{name}": own[name] for name in ("channels_last", "compile") if name in own},
        "threads": stored.get("threads"),
    }
    known = typed(prepared.arguments)
    flags = {k: v for k, v in said.items() if v is not None and k not in known}
    values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in flags.items()}
    prepared.arguments += [f"--{name}={value}" for name, value in values.items()]
    told = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in values.items())
    rank_zero_info(f"precision auto: {told}, as the run has it")
    return True


def choose(
    config: Any,
    model: "LightningModule",
    data: "LightningDataModule",
    arguments: list[str],
    *,
    seconds: float = SECONDS,
    compile: bool = False,
    anew: bool = False,
) -> Choice:
    """The best setting for the training that a config describes, measured now or before.

    Args:
        config: Of the verb.
        model: As the config has it.
        data: As the config has it.
        arguments: The command line: what was typed stays.
        seconds: For the measurement.
        compile: Try compilation, too.
        anew: Measure in any case.

    Raises:
        ValueError: The config asks for a precision that is not measured.
    """
    trainer = config.trainer
    said = str(trainer.precision or "32-true")
    default = Setting(
        PRECISIONS.get(said, said),
        torch.get_num_threads(),
        getattr(model, "channels_last", None),
        bool(getattr(model, "compiles", False)) if compile else None,
    )
    if default.precision not in BOUNDS:
        raise ValueError(f"--trainer.precision={said}: what is measured is {' and '.join(BOUNDS)}")
    row = MODELS.get(type(model).__name__)
    known = [name for name in (row.precisions if row else ALL_PRECISIONS) if name in BOUNDS]
    fixed = {"channels_last"} & {name.rpartition(".")[2] for name in typed(arguments)}
    fixed |= {"threads"} if config.threads or "OMP_NUM_THREADS" in os.environ else set()
    device = torch.device("cpu" if on_cpu(trainer.accelerator) else "cuda")
    batch = getattr(data, "batch_size", None)
    options = {
        name: trainer[name]
        for name in ("accelerator", "gradient_clip_val", "gradient_clip_algorithm")
    }

    def measure() -> Choice:
        steps = TrainingSteps(model, data, default, seconds, **options)
        how: dict[str, Any] = {"compile": compile, "fixed": fixed}
        return search(steps, default, known, batch, seconds, device, **how)

    handed = json.loads(os.environ.get(_HANDED, "null")) if "LOCAL_RANK" in os.environ else None
    known_to = facts("fit", model, device, batch, default, fixed) | {"data": type(data).__name__}
    choice = Choice.read(handed) or measured(known_to, measure, anew=anew)
    os.environ[_HANDED] = json.dumps(asdict(choice))
    return choice


def apply(choice: Choice, config: Any, model: "LightningModule") -> str:
    """Puts a choice into the config, which is the run's record, and the model; the precision."""
    setting = choice.setting
    config.trainer.precision, config.threads = setting.precision, setting.threads
    for name, value in setting.options.items():
        config.model.init_args[name] = value
    dress(model, setting)
    torch.set_num_threads(setting.threads)
    rank_zero_info(f"precision auto: {choice}")
    return setting.precision
