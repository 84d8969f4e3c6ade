"""The run directory's memory: config.yaml, what a checkpoint must know, and results.json."""

import json
import os
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from zoo.data.protocols import HasArrays, HasProtocol, datamodule_of
from zoo.data_of import own_arguments
from zoo.files import replacing
from zoo.loading import class_path
from zoo.registry import DATA
from zoo.training.claim import UNSAVED
from zoo.training.loggers import senders
from zoo.training.offline import go_on_at, rows_written
from zoo.version import zoo_version

# What a checkpoint brings back when no config names it; paths and devices are the command's own.
KEPT = ("seed_everything", "model", "data", "ema", "quality")
KEPT_FOR_FIT = (*KEPT, "samples", "checkpoint", "trainer", "threads")
NOT_KEPT_TRAINER = (
    "accelerator", "strategy", "devices", "num_nodes", "logger", "callbacks", "plugins", "profiler",
    "default_root_dir", "fast_dev_run",
)  # fmt: skip


class RunRecord(Callback):
    """Writes run_dir/config.yaml on fit, the config into checkpoints, results.json on test.

    Args:
        config: The whole config; where it names no model or data, those of the Trainer are noted.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.loggers: list[Any] = []  # also of a test, whose Trainer has none
        self._written = False
        self._step: int | None = None  # of the checkpoint; a test's trainer is at 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Completes the config, and sends it to the loggers."""
        if "model" not in self.config:
            own: dict[str, Any] = {"seed_everything": int(os.environ.get("PL_GLOBAL_SEED", "0"))}
            own["model"] = _spec(class_path(pl_module), pl_module)
            data = datamodule_of(trainer)
            if isinstance(data, LightningDataModule):
                own["data"] = _spec(_data_path(type(data)), data)
            options = {k: v for k, v in self.config["trainer"].items() if k not in NOT_KEPT_TRAINER}
            self.config = json.loads(
                json.dumps({**own, **self.config, "trainer": options}, default=str)
            )
        if stage == "fit" and trainer.is_global_zero:
            self.save_config(trainer)

    def save_config(self, trainer: Trainer) -> None:
        """Sends the whole config to the loggers."""
        for logger in _wandb(trainer):  # the model's hparams are there; add all the rest
            logger.experiment.config.update({"zoo": self.config}, allow_val_change=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves the config where the run is, once it has begun: a start that fails leaves none."""
        if self._written or not trainer.is_global_zero:
            return
        self._written = True
        run_dir = Path(trainer.default_root_dir)
        if trainer.ckpt_path is None:
            run_dir.mkdir(parents=True, exist_ok=True)
            (run_dir / UNSAVED).touch()
        with replacing(run_dir / "config.yaml") as file:
            text = yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)
            file.write_text(text, encoding="utf-8")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts the config, and the run's ids at the loggers, into the checkpoint."""
        config = {key: value for key, value in self.config.items() if key in KEPT_FOR_FIT}
        trainer_options = config.get("trainer", {}).items()
        config["trainer"] = {k: v for k, v in trainer_options if k not in NOT_KEPT_TRAINER}
        checkpoint["zoo_config"] = config
        checkpoint["zoo_version"] = zoo_version()
        for sender in senders(trainer.loggers):
            if sender.run_key and sender.logger.version is not None:
                checkpoint[sender.run_key] = str(sender.logger.version)
        if trainer.is_global_zero:
            for logger in _wandb(trainer):
                checkpoint["wandb_rows"] = rows_written(logger)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remembers after which step the weights are; W&B's history goes on from there."""
        self._step = checkpoint["global_step"]
        if trainer.state.fn == "fit" and trainer.is_global_zero and "wandb_rows" in checkpoint:
            for logger in _wandb(trainer):
                if logger.version == checkpoint.get("wandb_run_id"):
                    go_on_at(logger, checkpoint["wandb_rows"])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the numbers beside their baselines and writes results.json."""
        if not trainer.is_global_zero:
            return
        metrics = {str(name): float(value) for name, value in trainer.callback_metrics.items()}
        protocol = gather_protocol(trainer, pl_module)
        step = trainer.global_step if self._step is None else self._step
        result = {
            "checkpoint": str(trainer.ckpt_path or self.config["ckpt_path"]),
            "step": step,
            "metrics": metrics,
            "protocol": protocol,
        }
        if isinstance(pl_module, HasArrays) and (found := pl_module.arrays()):
            result["arrays"] = found  # spectra and histograms, which are no scalars
        path = Path(trainer.default_root_dir, "results.json")
        with replacing(path) as file:
            file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
        for sender in senders(self.loggers):
            sender.summary(metrics, step)
        rank_zero_info(f"{results_table(metrics, protocol)}\n\nwritten to {path}")


def gather_protocol(trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
    """How the numbers were made, as the module and the callbacks that have a `protocol()` say."""
    lines: dict[str, str] = {}
    for source in (pl_module, *trainer.callbacks):  # type: ignore[attr-defined]
        if isinstance(source, HasProtocol):
            lines.update(source.protocol())
    return lines


def results_table(metrics: dict[str, float], protocol: dict[str, str]) -> str:
    """The test metrics, each beside its baseline, and the protocol below."""
    rows = [("", "value", "baseline")]
    for name, value in metrics.items():
        if name.startswith("test/"):
            short = name.removeprefix("test/")
            baseline = metrics.get(f"baseline/{short}")
            rows.append((short, f"{value:.4f}", "" if baseline is None else f"{baseline:.4f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    table = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}".rstrip()
        for row in rows
    ]
    return "\n".join(["", *table, "", *(f"{key}: {value}" for key, value in protocol.items())])


def _wandb(trainer: Trainer) -> list[WandbLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def _spec(path: str, made: LightningModule | LightningDataModule) -> dict[str, Any]:
    """A model or data as a config's section."""
    return {"class_path": path, "init_args": own_arguments(dict(made.hparams))}


def _data_path(kind: type) -> str:
    """What a config calls a DataModule by."""
    own = kind.__module__.startswith("zoo.data.") and kind.__name__ in DATA
    return f"{'zoo.data' if own else kind.__module__}.{kind.__qualname__}"
