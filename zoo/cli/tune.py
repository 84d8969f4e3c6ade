"""`zoo tune`; its docstring is its help."""

import shlex
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer

from zoo.cli.arguments import Prepared, prepare
from zoo.cli.auto import SECONDS, choose
from zoo.cli.commands import sample_work
from zoo.cli.config_files import guard_parser
from zoo.cli.numbers import on_cpu
from zoo.cli.trainer import ZooCLI, run_prepared
from zoo.cli.trusted import restrict_imports
from zoo.cli.words import meant
from zoo.data.protocols import HasSamples
from zoo.files import keep_read, replacing
from zoo.flash.commands import generate_work
from zoo.flash.module_lm import FlashLM
from zoo.loading import device_of, load
from zoo.ranges import Count, Positive
from zoo.simbert.commands import embed_work
from zoo.simbert.sentences import Encoding
from zoo.tuning.inference import Work, tune_work
from zoo.tuning.report import overlay
from zoo.tuning.training import quiet
from zoo.vae.density.command import density_work


def tune(
    ckpt: str | None = None,
    *,
    train: list[str] | None = None,
    seconds: Positive = SECONDS,
    batch_size: Count | None = None,
    compile: bool = False,
    int8: bool = False,
    out: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Measures which precision, memory format and number of threads are fastest on this machine.

    `zoo tune -c ddpm/mnist` takes what `zoo fit` takes, measures training steps and writes an
    overlay: `zoo fit -c ddpm/mnist -c tuned.yaml`. `zoo tune CKPT` measures what a trained model is
    for: sample, density, generate or embed. Both are kept in the user's cache folder (below
    XDG_CACHE_HOME), by processor, version of torch, model and batch, for `--precision auto` of
    `zoo fit` and of these verbs.

    Settings take turns, and after each turn the better half stays; the default is in all of them
    and is kept unless another is at least 5 % faster in the median of three turns or more. Each
    setting's numbers are compared with float64 where the model computes in that, else with
    the default's, and are refused if loss or whole gradient (of a verb, its result) are off by more
    than 3 % in bf16 and 0.4 % in float32: a number rounded to bf16 is off by 0.11 % in the
    mean, and errors of some hundred independent roundings add up as the root of their number (0.7
    % was measured for a U-Net). Where OMP_NUM_THREADS is set, the number of threads stays.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        train: What `zoo fit` would be given; `-c` and all flags that are not those here go there.
        seconds: For all of it.
        batch_size: Items at a time of a verb. The speed at other sizes is told and never written,
            as it changes a training.
        compile: Try torch.compile too, for a training.
        int8: Try dynamic quantisation too, for embed.
        out: The overlay of a training to write; tuned.yaml if not given.
        device: Where a verb computes; auto takes a GPU if there is one.
    """
    if bool(train) == bool(ckpt):
        raise ValueError("what is to be tuned? give -c CONFIG for a training, or a CKPT")
    of_ckpt = {"int8": int8, "batch_size": batch_size, "device": device != "auto"}
    of_training = {"compile": compile, "out": out}
    for name, given in (of_ckpt if train else of_training).items():
        if given:
            what = "a CKPT" if train else "a training (-c CONFIG)"
            raise ValueError(f"--{name} is for {what}: leave it out")
    keep_read("--out", out)
    if train:
        _tune_training(train, seconds, compile, out or "tuned.yaml")
        return
    assert ckpt is not None
    model: Any = load(ckpt).to(device_of(device))
    works = works_of(model, batch_size, int8=int8)
    for work in works:
        choice = tune_work(model, work, seconds / len(works), anew=True)
        print(f"zoo {work.verb} {ckpt} --precision auto: {choice}")


def works_of(model: Any, batch_size: int | None = None, *, int8: bool = False) -> list[Work]:
    """What a model is for, in small.

    Raises:
        ValueError: There is nothing to measure, or nothing in int8.
    """
    works: list[Work] = []
    if isinstance(model, HasSamples):
        works.append(sample_work(batch_size or 64))
    if hasattr(model, "posterior") and hasattr(model, "log_likelihood") and hasattr(model, "shape"):
        works.append(density_work(batch_size or 100))
    if isinstance(model, FlashLM):
        works.append(generate_work())
    if isinstance(model, Encoding):
        works.append(embed_work(batch_size or 64, int8=int8))
    elif int8:
        raise ValueError(f"--int8 true: is for embed, and {type(model).__name__} has no embed")
    if not works:
        raise ValueError(f"{type(model).__name__} has no verb to measure: give -c CONFIG")
    return works


class _TuneCLI(ZooCLI):
    """Makes model and data as a fit would, and measures in the place of training."""

    def __init__(self, prepared: Prepared, args: list[str], **how: Any) -> None:
        self.how = how
        super().__init__(prepared, args)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config, given = self.config[self.subcommand], self.prepared.arguments
        self.choice = choose(config, self.model, self.datamodule, given, anew=True, **self.how)
        with quiet():
            return Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)

    def before_fit(self) -> None:
        pass

    def fit(self, **kwargs: Any) -> None:
        pass

    def after_fit(self) -> None:
        pass


def _tune_training(arguments: list[str], seconds: float, compile: bool, out: str) -> None:
    restrict_imports()
    guard_parser()
    found: list[_TuneCLI] = []
    with tempfile.TemporaryDirectory() as folder:
        given = meant("fit", ["--trainer.max_steps=1", *arguments])
        prepared = prepare("fit", [*given, f"--run_dir={folder}/run"])

        def run(prepared: Prepared, args: list[str]) -> None:
            found.append(_TuneCLI(prepared, args, seconds=seconds, compile=compile))

        run_prepared("fit", prepared, run)
    cli = found[0]
    with replacing(Path(out)) as file:
        kind = "cpu" if on_cpu(cli.config["fit"].trainer.accelerator) else "cuda"
        text = overlay(cli.choice, shlex.join(arguments), torch.device(kind))
        file.write_text(text, "utf-8")
    print(f"written to {out}: zoo fit {shlex.join(arguments)} -c {out}")
