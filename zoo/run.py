"""What a run has around its model, whether a command or a script starts it."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info

from zoo.files import check_run
from zoo.loading import find_checkpoint, read_checkpoint
from zoo.metrics.quality import SampleQuality
from zoo.processes import rank
from zoo.report.page import PAGE, has_extra, write_page
from zoo.report.run import Run
from zoo.training import (
    EMA,
    AtomicCheckpointIO,
    Changes,
    Checkpoint,
    FiniteLoss,
    MetricsCSV,
    NoProfiler,
    Pictures,
    Resume,
    RunRecord,
    StepProgressBar,
    StepRNG,
    Stopped,
    ToldData,
)
from zoo.training.claim import Claim, HoldsRunError, holds_run, why_afresh
from zoo.training.distributed import launched
from zoo.training.finish import FoundRate, never_seen, why_stopped
from zoo.training.options import check_trainer
from zoo.training.pace import Pace
from zoo.training.samples import SampleGrid
from zoo.training.settings import settle
from zoo.training.sharding import ShardedStrategy
from zoo.training.start import StartTable
from zoo.training.state import check_state, restoring

DEFAULTS: dict[str, Any] = {
    "use_distributed_sampler": False,  # the data part themselves among processes
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 50,
    "max_epochs": -1,
}
"""Options of the Trainer that are others here than Lightning's."""
SECTIONS: dict[str, type[Callback]] = {
    "ema": EMA,
    "samples": SampleGrid,
    "quality": SampleQuality,
    "checkpoint": Checkpoint,
}
"""Sections of a config beside model, data and trainer, in the order in which they must act."""


def around(
    run_dir: Path,
    options: Mapping[str, Any],
    sections: Sequence[Callback],
    record: RunRecord,
    *,
    resumed: bool = False,
    logs: bool = True,
) -> dict[str, Any]:
    """The Trainer's callbacks, loggers, plugins, profiler and processes of a run.

    Args:
        run_dir: The run directory.
        options: Arguments of the Trainer that were asked for; what they name is kept.
        sections: The callbacks of `SECTIONS`.
        record: What keeps the config.
        resumed: Whether the run goes on from a checkpoint.
        logs: Whether anything is logged; a test alone leaves the metrics of the fit as they are.
    """
    strategy = options.get("strategy")
    if isinstance(strategy, ModelParallelStrategy):
        strategy.__class__ = ShardedStrategy  # which has no attributes of its own
    table = [] if options.get("enable_model_summary") is False else [StartTable()]
    bar = [StepProgressBar()] if options.get("enable_progress_bar") is not False else []
    kept = [] if options.get("fast_dev_run") else [record]
    callbacks = [
        *(StepRNG(), FiniteLoss(), ToldData(), *table, Pace(), Pictures(), *bar),
        *_listed(options.get("callbacks")),
        *(FoundRate(resumed), Changes(), Resume(), *sections, *kept),
    ]
    logger = options.get("logger")
    record.loggers = _listed(logger)
    whole = [] if _shards_weights(strategy) else [AtomicCheckpointIO()]  # those bring files
    return {
        "callbacks": callbacks,
        "enable_model_summary": False,  # the table has it
        "logger": logs and logger is not False and [MetricsCSV(run_dir, resumed), *record.loggers],
        "plugins": [*_listed(options.get("plugins")), *whole],
        "profiler": options.get("profiler") or NoProfiler(),
        **launched(options),
    }


def tell_end(trainer: Trainer) -> None:
    """Says why a fit ended, and what it was to watch and never saw."""
    for line in [*filter(None, [why_stopped(trainer)]), *never_seen(trainer)]:
        rank_zero_info(line)


def show_page(trainer: Trainer, run_dir: Path) -> None:
    """Writes run_dir/report.html, if its packages are here; costs the run nothing else."""
    if not trainer.is_global_zero or not has_extra():
        return
    path = run_dir / PAGE
    try:
        write_page([Run(run_dir, run_dir.name)], path)
        rank_zero_info(f"look at it: {path}")
    except Exception as error:
        rank_zero_info(f"no {path}: {' '.join(str(error).split())[:300]}")


def trainer(
    run_dir: str | Path,
    *,
    ema: Mapping[str, Any] | None = None,
    samples: Mapping[str, Any] | None = None,
    quality: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    **options: Any,
) -> "RunTrainer":
    """A Trainer that brings what `zoo fit` brings: its run is the command's, to the bit.

    >>> import zoo
    >>> made = zoo.trainer("run", max_steps=2, ema={"decay": 0.9}, accelerator="cpu")
    >>> made.max_steps, made.default_root_dir
    (2, 'run')

    Args:
        run_dir: Folder of config.yaml, checkpoints/, samples/, metrics.csv, results.json and
            report.html.
        ema: Arguments of `zoo.training.EMA`, as a config's section of that name.
        samples: Arguments of `zoo.training.samples.SampleGrid`.
        quality: Arguments of `zoo.metrics.quality.SampleQuality`.
        checkpoint: Arguments of `zoo.training.Checkpoint`.
        **options: Arguments of Lightning's Trainer. Its callbacks and loggers come beside the
            zoo's; logger=False writes no metrics.csv.

    Raises:
        ValueError: Nothing says when the run ends, or a value is out of range.
    """
    settle()
    run_dir, options = Path(run_dir), DEFAULTS | options
    check_trainer(options)
    endless = options.get("max_steps", -1) == -1 and options["max_epochs"] in (None, -1)
    if endless and not options.get("max_time"):
        raise ValueError("when does it end? give max_steps=N or max_epochs=N")
    given = dict(zip(SECTIONS, (ema, samples, quality, checkpoint), strict=True))
    config = {name: dict(section or {}) for name, section in given.items()}
    sections = [kind(**config[name]) for name, kind in SECTIONS.items()]
    record = RunRecord({"trainer": options, **config, "run_dir": str(run_dir), "ckpt_path": None})
    parts = around(run_dir, options, sections, record)
    return RunTrainer(**{**options, **parts, "default_root_dir": str(run_dir)})


class RunTrainer(Trainer):
    """The Trainer of one run directory; `zoo.trainer` makes it.

    Where Lightning takes a `ckpt_path`, this one takes what the command takes: "last" or "best" of
    the run, a .ckpt file or another run directory. It reads tensors and plain values alone.
    """

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = True,
    ) -> None:
        """Trains, and leaves the averaged weights in the model.

        A model in evaluation mode, as `zoo.load` gives it, is put into training mode; parts of one
        in training mode stay as they are. Ctrl-C saves the last step and then raises
        KeyboardInterrupt, SIGTERM SystemExit.

        Args:
            model: The model.
            train_dataloaders: Loaders for training, or a DataModule.
            val_dataloaders: Loaders for validation.
            datamodule: A DataModule instead of loaders.
            ckpt_path: Where to go on from; "last" of a folder without a run begins one.
            weights_only: Read nothing but tensors and plain values from the checkpoint.

        Raises:
            ValueError: The run directory is another process's or holds a run, or the checkpoint is
                not one of a Trainer.
            FileNotFoundError: There is no such checkpoint.
        """
        run_dir = Path(self.default_root_dir)
        with _claimed(run_dir, new=ckpt_path is None):
            file = _to_go_on_from(run_dir, ckpt_path)
            for part in (*self.callbacks, *self.loggers):  # type: ignore[attr-defined]
                if isinstance(part, FoundRate | MetricsCSV):
                    part.resume = file is not None
            rank_zero_info(f"run directory: {run_dir}")
            if not model.training:  # Lightning leaves it so, without dropout and batch statistics
                model.train()
            with _stoppable(), restoring(file):
                super().fit(
                    model, train_dataloaders, val_dataloaders, datamodule, file, weights_only
                )
            tell_end(self)
            show_page(self, run_dir)

    def validate(self, *given: Any, ckpt_path: str | Path | None = None, **named: Any) -> Any:
        """As Lightning's; metrics.csv stays as the fit left it."""
        return self._evaluated(super().validate, ckpt_path, *given, **named)

    def test(self, *given: Any, ckpt_path: str | Path | None = None, **named: Any) -> Any:
        """Prints the numbers with their protocol, and writes run_dir/results.json."""
        found = self._evaluated(
            super().test, ckpt_path, *given, **{**named, "verbose": named.get("verbose", False)}
        )
        show_page(self, Path(self.default_root_dir))
        return found

    def predict(self, *given: Any, ckpt_path: str | Path | None = None, **named: Any) -> Any:
        """As Lightning's."""
        return self._evaluated(super().predict, ckpt_path, *given, **named)

    def _evaluated(self, verb: Any, ckpt_path: Any, *given: Any, **named: Any) -> Any:
        run_dir = Path(self.default_root_dir)
        check_run(run_dir)
        file = None if ckpt_path is None else _file(run_dir, ckpt_path)
        loggers, self.loggers = self.loggers, []
        try:
            with _stoppable(), restoring(file):
                return verb(*given, ckpt_path=file, weights_only=True, **named)
        finally:
            self.loggers = loggers


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM end what is within as they end any Python program."""
    try:
        yield
    except Stopped as stopped:
        if stopped.signum == signal.SIGTERM:
            raise SystemExit(stopped.exit_code) from None
        raise KeyboardInterrupt(f"{stopped.saved or 'stopped at once'}") from None


@contextmanager
def _claimed(run_dir: Path, *, new: bool) -> Iterator[None]:
    """A run directory that is this process's alone; a `new` run's holds none yet."""
    if rank() != 0:
        yield
        return
    claim = Claim(run_dir)
    try:
        if new and holds_run(run_dir):
            raise HoldsRunError(
                f'{run_dir} already holds a run: go on with fit(..., ckpt_path="last"), or choose '
                "another run_dir"
            )
        yield
    finally:
        claim.release()


def _file(run_dir: Path, ckpt_path: str | Path) -> Path:
    """The .ckpt file that `ckpt_path` stands for; "last" and "best" may not be there."""
    if ckpt_path in ("last", "best"):
        return run_dir / "checkpoints" / f"{ckpt_path}.ckpt"
    file = find_checkpoint(ckpt_path)
    if file.is_dir():
        raise ValueError(f"{ckpt_path} is weights alone: zoo.load({str(ckpt_path)!r}) is the model")
    return file


def _to_go_on_from(run_dir: Path, ckpt_path: str | Path | None) -> Path | None:
    """The checkpoint of a fit, checked; None if it begins at the beginning."""
    if ckpt_path is None:
        return None
    file = _file(run_dir, ckpt_path)
    if ckpt_path == "last" and not file.is_file():
        rank_zero_info(why_afresh(run_dir))
        return None
    check_state(read_checkpoint(file, keys=()), file)
    return file


def _shards_weights(strategy: Any) -> bool:
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    return any(kind in name.lower() for kind in ("fsdp", "deepspeed"))


def _listed(given: Any) -> list[Any]:
    """What may be given as one or as a list, or not at all."""
    if isinstance(given, list):
        return given
    return [given] if given and given is not True else []
