"""fit, validate, test and predict; the only file that touches LightningCLI's internals."""

import importlib
import json
import os
import shlex
from collections.abc import Callable
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info

from zoo.cli.arguments import Prepared, prepare, take
from zoo.cli.auto import apply, choose, keep, without_auto
from zoo.cli.choices import check_words
from zoo.cli.config_files import guard_parser
from zoo.cli.flags import typed
from zoo.cli.numbers import THREADS, check_numbers
from zoo.cli.outputs import called, default_folders, place_outputs, unplace_outputs
from zoo.cli.parser import ZooParser
from zoo.cli.sizes import settle_sizes
from zoo.cli.symbols import settle_symbols
from zoo.cli.trusted import check_values, restrict_imports
from zoo.cli.words import meant
from zoo.data.remote import check_copied
from zoo.files import replacing
from zoo.pretrained import pinned
from zoo.registry import MODELS
from zoo.report.page import command_of
from zoo.run import DEFAULTS, SECTIONS, around, show_page, tell_end
from zoo.training import RunRecord
from zoo.training.changes import (
    changed_options,
    check_options,
    check_symbols,
    check_weights,
    tell_options,
)
from zoo.training.failure import told_in_one_line
from zoo.training.pictures import verbs
from zoo.training.state import restoring

# What loggers call a run: its folder's name, unless one was given.
_NAMES = {"WandbLogger": "name", "MLflow": "run_name", "MLFlowLogger": "run_name"}


def run_trainer_verb(verb: str, arguments: list[str]) -> None:
    """Runs `zoo VERB ARGUMENTS` for one of the Trainer's verbs.

    Raises:
        ValueError: Something asked for cannot be done; the message says what to do instead.
    """
    restrict_imports()
    guard_parser()
    default_folders()
    arguments, auto = without_auto(verb, meant(verb, arguments))
    prepared = prepare(verb, arguments)
    prepared.auto = auto and not keep(prepared)
    run_prepared(verb, prepared, ZooCLI)


def run_prepared(verb: str, prepared: Prepared, cli: Callable[[Prepared, list[str]], Any]) -> None:
    """Runs a command line that is prepared, and gives its run directory free."""
    os.environ["ZOO_RUN_DIR"] = str(prepared.run_dir)  # for the processes that a strategy launches
    for model in MODELS.values():
        importlib.import_module(model.module)
    importlib.import_module("zoo.data")
    try:
        with restoring(prepared.checkpoint):
            cli(prepared, [verb, *prepared.arguments])
    finally:
        if prepared.claim is not None:
            prepared.claim.release()


class ZooCLI(LightningCLI):
    """LightningCLI with one run directory, honest precedence, and checkpoints that are enough."""

    def __init__(self, prepared: Prepared, args: list[str]) -> None:
        self.prepared = prepared
        super().__init__(
            model_class=None,
            datamodule_class=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=None,
            parser_class=ZooParser,
            trainer_defaults=DEFAULTS,
            args=args,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds trainer, model and data; none is required, since a checkpoint may bring it."""
        parser.add_lightning_class_args(Trainer, "trainer")
        for action in parser._actions:  # 1 is a count of batches, 1.0 is all of them
            kinds = get_args(getattr(action, "_typehint", None))
            if {int, float} <= set(kinds):  # in an order that typing's cache may have changed
                action._typehint = reduce(or_, sorted(kinds, key=lambda kind: kind is not int))
        parser.set_defaults({f"trainer.{key}": v for key, v in self.trainer_defaults.items()})
        for cls, key in ((LightningModule, "model"), (LightningDataModule, "data")):
            parser.add_lightning_class_args(cls, key, subclass_mode=True, required=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what a run has beside model and data."""
        parser.add_argument(
            "--run_dir",
            type=str,
            default=None,
            help="Folder of config.yaml, checkpoints/, samples/, metrics.csv, results.json, "
            "wandb/, report/ and report.html. Default: runs/CONFIG, numbered if that holds a run.",
        )
        parser.add_argument(
            "--threads",
            type=THREADS,
            default=None,
            help="Threads of an operation on a CPU; PyTorch's own number if not given.",
        )
        for key, callback in SECTIONS.items():
            parser.add_lightning_class_args(callback, key)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, and checks numbers; the stock method warns of the process's own arguments."""
        self.config = parser.parse_args(args)
        config = self.config[self.config.subcommand]
        check_words(config.trainer)
        check_numbers(config)
        check_values(config)

    def _parse_ckpt_path(self) -> None:
        """Nothing: the checkpoint's config was the first --config.

        The stock method puts the checkpoint above the flags.
        """

    def before_instantiate_classes(self) -> None:
        """Checks what only the whole config can tell, and places the loggers in the run."""
        config = self.config[self.subcommand]
        if not config.get("model"):
            raise ValueError("which model? give -c CONFIG, --model NAME or --ckpt_path CKPT")
        class_path = config.model.class_path
        held = self.prepared.model
        if held is not None and held.rsplit(".", 1)[-1] != class_path.rsplit(".", 1)[-1]:
            raise ValueError(
                f"{self.prepared.checkpoint} holds a {held}, but the config asks for {class_path}"
            )
        if not config.get("data"):
            raise ValueError("which data? give -c CONFIG or --data NAME (such as Digits)")
        self._check_root(config.data)
        trainer, fit = config.trainer, self.subcommand == "fit"
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        for spec in (config.model, config.data):
            _pin(spec)
        settle_sizes(config, self.prepared.arguments, self.prepared.hparams, fit=fit)
        self.changed = changed_options(self.prepared.made_with, config.as_dict())
        check_symbols(self.changed)
        if fit:
            endless = trainer.max_steps == -1 and trainer.max_epochs in (None, -1)
            if endless and not trainer.max_time:
                raise ValueError(
                    "when does it end? give --trainer.max_steps N or --trainer.max_epochs N"
                )
            check_options(self.changed)
            tell_options(self.changed)
            self._check_end(trainer)
        if "trainer.default_root_dir" in typed(self.prepared.arguments):
            raise ValueError("--trainer.default_root_dir has no effect: give --run_dir")
        trainer.default_root_dir = str(self.prepared.run_dir)
        place_outputs(trainer, self.prepared.run_dir, self.prepared.arguments)
        # Set here, not parsed: the stock verb would look for "last" in places of its own.
        file = self.prepared.checkpoint
        config.ckpt_path = str(file) if file is not None and file.is_file() else None
        for logger in _listed(trainer.logger):
            if called(logger) == "WandbLogger":
                self._place_wandb(logger.init_args)
            elif called(logger) in _NAMES:
                self._place_mlflow(logger.init_args)
        if isinstance(trainer.logger, list):
            trainer.logger = _each_once(trainer.logger)

    def _check_root(self, data: Any) -> None:
        """Refuses to copy data from an address that a checkpoint alone names."""
        root = (data.get("init_args") or {}).get("root")
        theirs = (self.prepared.made_with.get("data") or {}).get("init_args") or {}
        if root == theirs.get("root") and take(self.prepared.arguments, "--data.root")[1] is None:
            check_copied(root, str(self.prepared.source or self.prepared.checkpoint))

    def _check_end(self, trainer: Any) -> None:
        """Refuses to train up to a step or an epoch that is behind."""
        done_before = {"max_steps": self.prepared.steps, "max_epochs": self.prepared.epochs}
        for name, done in done_before.items():
            end = trainer[name]
            if end is not None and 0 <= end < done:
                raise ValueError(
                    f"--trainer.{name} {end} is below the {done} that {self.prepared.checkpoint} "
                    "has done: give more, or begin another run"
                )

    def _place_wandb(self, init_args: Any) -> None:
        init_args.save_dir = str(self.prepared.run_dir)
        if "wandb_run_id" in self.prepared.runs:
            init_args.id = self.prepared.runs["wandb_run_id"]
        if not init_args.get("name"):
            init_args.name = self.prepared.run_dir.name
        import wandb

        if "WANDB_MODE" in os.environ or init_args.offline or init_args.get("mode"):
            return
        if not wandb.login(prompt=False, verify=False):  # no request is sent
            init_args.mode = "offline"  # the variable would come too late: login has read it
            rank_zero_info(
                "no W&B key: this run is logged offline; send it later with "
                f"`wandb sync {self.prepared.run_dir / 'wandb'}/offline-run-*`"
            )

    def _place_mlflow(self, init_args: Any) -> None:
        store, known = self.prepared.run_dir.absolute(), self.prepared.runs.get("mlflow_run_id")
        if not init_args.tracking_uri:  # Lightning has looked for MLFLOW_TRACKING_URI
            init_args.tracking_uri = _mlflow_uri(store)
            init_args.artifact_location = (store / "mlflow").as_uri()
            if not (store / "mlflow.db").is_file():  # it goes on in another run directory
                known = None
        init_args.run_id = known or init_args.run_id
        if not init_args.run_name:
            init_args.run_name = self.prepared.run_dir.name

    def _keep_the_run_out_of_the_config(self, loggers: list[Any]) -> None:
        """Leaves folders of this machine and this run's ids to the loggers, which are made.

        The config may begin another run, elsewhere.
        """
        place, ids = self.prepared.run_dir.absolute(), self.prepared.runs.values()
        for logger in loggers:
            # W&B writes in a process of its own, which stays where the first run of this one began.
            if isinstance(logger, WandbLogger):
                logger._wandb_init["dir"] = str(place)
        trainer = self.config[self.subcommand].trainer
        unplace_outputs(trainer, self.prepared.run_dir)
        for spec in _listed(trainer.logger):
            own = spec.get("init_args") or {}
            named = _NAMES.get(called(spec))
            if named and own.get(named) == self.prepared.run_dir.name:
                own[named] = None
            if own.get("tracking_uri") == _mlflow_uri(place):
                own["tracking_uri"] = own["artifact_location"] = None
            for key in ("id", "run_id"):
                if own.get(key) in ids:
                    own[key] = None

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with the zoo's callbacks, in the order in which they must act."""
        if self.prepared.auto:
            config, given = self.config[self.subcommand], self.prepared.arguments
            choice = choose(config, self.model, self.datamodule, given)
            kwargs["precision"] = apply(choice, config, self.model)
        settings = self._get(self.config_init, "trainer")
        self._keep_the_run_out_of_the_config(_listed(settings.logger))
        resumed = self.prepared.checkpoint is not None and self.prepared.checkpoint.is_file()
        dumped = self._parser(self.subcommand).dump(
            self.config[self.subcommand], skip_none=False, format="json"
        )
        self.record = RunRecord(json.loads(dumped))
        parts = around(
            self.prepared.run_dir,
            vars(settings),
            [self._get(self.config_init, name) for name in SECTIONS],
            self.record,
            resumed=resumed,
            logs=self.subcommand == "fit",
        )
        return Trainer(**{**vars(settings), **parts, **kwargs})

    def instantiate_classes(self) -> None:
        """Makes all; the symbols of a text are counted before the model that reads them."""
        config, prepared = self.config[self.subcommand], self.prepared
        data = settle_symbols(config, prepared.arguments, prepared.weights)
        super().instantiate_classes()
        if data is not None:  # which has read its files
            self.datamodule = data

    def after_instantiate_classes(self) -> None:
        """Loads an exported folder, which the Trainer cannot; looks at what the Trainer loads."""
        file, weights = self.prepared.checkpoint, self.prepared.weights
        self.prepared.weights = {}
        if file is not None and file.is_dir():
            self.model.load_state_dict(weights)
            self.record.config["ckpt_path"] = self.prepared.source
        elif file is not None:
            check_weights(self.model, weights, self.changed, str(file))

    def fit(self, **kwargs: Any) -> None:
        """Trains."""
        with told_in_one_line(self.trainer, self.prepared.steps):
            self.trainer.fit(**kwargs)

    def before_fit(self) -> None:
        """Says where the run goes."""
        if self.prepared.afresh:
            rank_zero_info(self.prepared.afresh)
        file, last = self.prepared.checkpoint, self.prepared.run_dir / "checkpoints" / "last.ckpt"
        if file is not None and file.is_dir():
            rank_zero_info(
                f"{self.prepared.source} is weights without the optimiser's state: a new run "
                "begins with them"
            )
        if file is not None and last.is_file() and not last.samefile(file):
            rank_zero_info(f"{last} will be replaced: the run goes on from {file}")
        rank_zero_info(f"run directory: {self.prepared.run_dir}")

    def after_fit(self) -> None:
        """Says what can be done next."""
        tell_end(self.trainer)
        last = self.prepared.run_dir / "checkpoints" / "last.ckpt"
        run_dir = shlex.quote(str(self.prepared.run_dir))
        then = [f"zoo test --ckpt_path {run_dir}"]
        then += [command_of(verb, run_dir) for verb in verbs(self.model)]
        rank_zero_info(f"done: {last} ({'; '.join(then)})")
        show_page(self.trainer, self.prepared.run_dir)
        self._finish()

    def after_test(self) -> None:
        """Adds the results to the run's page."""
        show_page(self.trainer, self.prepared.run_dir)
        self._finish()

    def _finish(self) -> None:
        """Ends the run at W&B."""
        for logger in self.record.loggers:
            # Where processes were forked the run is theirs; asking for it would begin another.
            if isinstance(logger, WandbLogger) and logger._experiment is not None:
                logger.experiment.finish()  # waits until everything is sent

    def predict(self, **kwargs: Any) -> None:
        """Writes what the model predicts to run_dir/predictions.pt, a file a rank."""
        kwargs["return_predictions"] = True
        predictions = self.trainer.predict(**kwargs)
        rank = f"-{self.trainer.global_rank}" if self.trainer.world_size > 1 else ""
        path = self.prepared.run_dir / f"predictions{rank}.pt"
        with replacing(path) as file:
            torch.save(predictions, file)
        rank_zero_info(f"written to {path}")

    def test(self, **kwargs: Any) -> None:
        """Tests; RunRecord prints the numbers with their protocol."""
        self.trainer.test(**{**kwargs, "verbose": False})


def _pin(spec: Any) -> None:
    """Names of repositories among a class's arguments get the commit that they are at today."""
    arguments = spec.get("init_args")
    for key, value in (vars(arguments) if arguments else {}).items():
        if isinstance(value, str):
            arguments[key] = pinned(value)


def _mlflow_uri(run_dir: Path) -> str:
    return f"sqlite:///{run_dir / 'mlflow.db'}"


def _each_once(loggers: list[Any]) -> list[Any]:
    """The loggers without those that a later one repeats, such as a run's config and `-c wandb`.

    W&B has one run a process, of which the last settings count.
    """
    kept: dict[str, Any] = {}
    for logger in loggers:
        name = called(logger)
        key = name if name == "WandbLogger" else f"{name} {logger.get('init_args')}"
        kept.pop(key, None)
        kept[key] = logger
    return list(kept.values())


def _listed(given: Any) -> list[Any]:
    """What may be given as one or as a list, or not at all."""
    if isinstance(given, list):
        return given
    return [given] if given and given is not True else []
