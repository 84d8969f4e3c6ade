"""What a run leaves for its page: the arrays of pictures, and where and how long it ran."""

import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from zoo.data.described import Described, account
from zoo.data.protocols import HasFigures, Moment, datamodule_of
from zoo.figures import Figure, write_figure
from zoo.files import replacing
from zoo.loading import class_path
from zoo.training.ema import averaged
from zoo.training.log import batches_that_stepped, is_last_step, lightning_logs
from zoo.training.module import evaluating

FOLDER, RECORD = "report", "run.json"
_STEPS = 32  # of a picture
# What a model can do, and the verb of the command line.
_VERBS = {
    "sample": "sample",
    "generate_text": "sample",
    "generate": "generate",
    "similar": "similar",
}


class Pictures(Callback):
    """Writes run_dir/report/: arrays of `module.figures`, and run.json.

    At the ends of validations, of the training and of a test. It changes nothing: no generator
    moves, and what goes wrong here is told in a line and costs the pictures alone. It stands before
    the callback that takes averaged weights out again.
    """

    def __init__(self) -> None:
        self._begun = 0.0
        self._session: dict[str, Any] = {}
        self._seen, self._ends = -1, False
        self._last: tuple[int, dict[str, float]] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the clock; what an earlier run left of later steps goes."""
        self._begun, self._seen = time.monotonic(), -1
        self._session = {
            "from": trainer.global_step,
            "begun": datetime.now().astimezone().isoformat(" ", "seconds"),
            "machine": machine(pl_module.device),
        }
        if trainer.is_global_zero:
            for file, step in steps_of(_folder(trainer)):
                if step > trainer.global_step or not trainer.global_step:
                    file.unlink(missing_ok=True)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Notes whether this is the last step, which cannot be told afterwards."""
        self._ends = is_last_step(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the last step's metrics where Lightning does not log them."""
        if not self._ends or lightning_logs(trainer):
            return
        logged = trainer._logger_connector.metrics["log"]
        values = {name: float(value) for name, value in logged.items()}
        self._last = batches_that_stepped(trainer), values | {"epoch": trainer.current_epoch}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what a validation showed."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._seen = trainer.global_step
            self._write(trainer, pl_module, "val")
            self._record(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what is drawn once, and what no validation has seen."""
        # After the last checkpoint: what goes on from it has the rows of a run that never ended.
        if self._last is not None:
            for logger in trainer.loggers:
                logger.log_metrics(self._last[1], self._last[0])
        with averaged(trainer):
            if self._seen != trainer.global_step:
                self._write(trainer, pl_module, "val")
            self._write(trainer, pl_module, "end")
        self._record(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what the test showed."""
        self._write(trainer, pl_module, "test")

    @torch.no_grad()
    def _write(self, trainer: Trainer, module: LightningModule, moment: Moment) -> None:
        if not isinstance(module, HasFigures):
            return
        try:
            with ExitStack() as within:
                within.enter_context(isolate_rng(include_cuda=module.device.type == "cuda"))
                within.enter_context(trainer.precision_plugin.forward_context())
                within.enter_context(evaluating(module))
                figures: Mapping[str, Figure] = module.figures(moment)
            if trainer.is_global_zero:
                folder = _folder(trainer)
                when = "test" if moment == "test" else f"step-{trainer.global_step:07d}"
                for name, figure in figures.items():
                    write_figure(figure, folder / f"{name}.{when}.npz")
                    thin(folder, name)
        except Exception as error:
            if os.environ.get("ZOO_DEBUG"):
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())
            rank_zero_info(f"no pictures of this {moment}, the run goes on: {said[:300]}")

    def _record(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        now = time.monotonic()
        own = self._session | {
            "to": trainer.global_step,
            "seconds": round(now - self._begun, 3),
            "memory": memory(module.device),
        }
        path = _folder(trainer) / RECORD
        earlier: list[Any] = []
        if own["from"] and path.is_file():
            try:
                earlier = json.loads(path.read_text("utf-8"))["sessions"]
            except (ValueError, KeyError, TypeError):
                earlier = []
        data = datamodule_of(trainer)
        record = {
            "model": class_path(module),
            "parameters": sum(p.numel() for p in module.parameters()),
            "verbs": verbs(module),
            "data": account(data) if isinstance(data, Described) else [],
            "sessions": [*(s for s in earlier if s["from"] < own["from"]), own],
        }
        with replacing(path) as file:
            file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")


def verbs(module: LightningModule) -> list[str]:
    """The verbs that show what a model can do."""
    able = [verb for name, verb in _VERBS.items() if hasattr(module, name)]
    words = getattr(module, "words", None)
    if "generate" in able and words is not None and not len(words.symbols):
        able.remove("generate")  # of numbers that stand for no text there is nothing to read
    if module.hparams.get("objective") == "similar":  # others of SimBERT's do not write
        able.append("paraphrase")
    return able


def machine(device: torch.device) -> str:
    """The processor or GPU, and the versions."""
    if device.type == "cuda":
        what = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        what = f"{processor()}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}"
    return f"{what}; torch {torch.__version__}, Python {platform.python_version()}"


def processor() -> str:
    """The processor and the instructions that matter for time."""
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.is_file() else ""
    name = re.search(r"model name\s*: (.*)", text)
    has = [kind for kind in ("avx2", "avx512f", "amx_bf16") if re.search(rf"\b{kind}\b", text)]
    known = name[1] if name else platform.processor() or platform.machine()
    return f"{known} ({', '.join(has)})"


def memory(device: torch.device) -> int:
    """The most bytes that this process has held: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def steps_of(folder: Path, name: str = "*") -> list[tuple[Path, int]]:
    """The files of a picture by step, in their order."""
    files = [
        (file, int(found[1]))
        for file in folder.glob(f"{name}.step-*.npz")
        if (found := re.search(r"\.step-(\d+)\.npz$", file.name))
    ]
    return sorted(files, key=lambda pair: pair[1])


def thin(folder: Path, name: str) -> None:
    """Drops a step of a picture where there are too many: the one whose neighbours are nearest."""
    files = steps_of(folder, name)
    if len(files) > _STEPS:
        steps = [step for _, step in files]
        middle = min(range(1, len(files) - 1), key=lambda i: steps[i + 1] - steps[i - 1])
        files[middle][0].unlink(missing_ok=True)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / FOLDER
