"""Kills runs of every family at random places, resumes them, and compares with undisturbed ones.

python -m tests.long.kills --kills 100 --out docs/results/kills.md

Each trial kills one run once to three times (SIGKILL, SIGTERM or Ctrl-C, at a place drawn from
`PLACES`), lets it end, and compares the bits of last.ckpt (weights, averages, optimisers,
schedules), best.ckpt, metrics.csv and the sample grids with those of the run that nobody disturbed.
Runs of one process are forked from this one, which has imported everything; runs of two processes
are started as `zoo` starts them.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.long import worker
from tests.test_resume import PARTS, differences

PLACES = {  # and how often a run comes by, at most
    "batch": 60,
    "step": 40,
    "validation": 6,
    "validated": 6,
    "writing": 8,
    "one name given": 8,
    "saved": 8,
    "epoch end": 4,
    "row": 10,
}
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGINT")
STEPS = 20
COMMON = (
    *("--trainer.accelerator", "cpu", "--trainer.max_steps", str(STEPS)),
    *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
    *("--trainer.log_every_n_steps", "2", "--ema.decay", "0.9"),
    *("--quality.samples", "0", "--checkpoint.every_n_train_steps", "3"),
    *("--trainer.check_val_every_n_epoch", "null", "--trainer.limit_val_batches", "2"),
)
SMALL_IMAGES = ("--data.limit", "200", "--data.batch_size", "32", "--samples.n", "4")
PAIR = "{a}\t{b}\t{label}\n"


@dataclass
class Series:
    """A recipe on one process or two.

    Args:
        model: Class of the model.
        flags: The command after `zoo fit`; {data} is the folder of `make_data`.
        processes: How many train together.
    """

    model: str
    flags: tuple[str, ...]
    processes: int = 1
    kills: Counter = field(default_factory=Counter)
    trials: int = 0
    unequal: list[str] = field(default_factory=list)

    def command(self, folder):
        flags = [flag.format(data=folder / "data") for flag in self.flags]
        if self.processes > 1:
            flags += ["--trainer.strategy", "ddp", "--trainer.devices", str(self.processes)]
        return ["fit", *flags[:2], *COMMON, *flags[2:]]  # flags win over what is before


def ddpm(*more):
    return (
        *("-c", "ddpm/digits", "--model.width", "8", "--model.groups", "4"),
        *("--model.timesteps", "10", "--model.dropout", "0.1", *SMALL_IMAGES, *more),
    )


def vae(name, *more):
    return ("-c", f"vae/{name}", "--model.hidden", "[16]", *SMALL_IMAGES, *more)


ACCUMULATED = (
    *("--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "5"),
    *("--checkpoint.monitor", "val/loss"),
)
COINCIDING = ("--trainer.val_check_interval", "3", "--checkpoint.monitor", "val/loss")
ODD = ("--trainer.val_check_interval", "4", "--checkpoint.monitor", "val/loss")
WGAN = ("--trainer.val_check_interval", "3", "--checkpoint.monitor", "val/wasserstein_critic")
SENTENCES = ("--model.hidden", "16", "--model.layers", "1", "--model.heads", "2")


def all_series():
    toy = (
        *("-c", "wgan/8gaussians-gp", "--model.generator_widths", "[16]"),
        *("--model.critic_widths", "[16]", "--model.critic_batch", "16", "--data.batch_size", "80"),
        *("--model.generator_batch", "16", "--samples.n", "8", *WGAN),
    )
    flash = ("--model.dim", "16", "--model.depth", "1", "--model.head_size", "16")
    text = (
        *("-c", "vae/text-shakespeare", "--model.hidden", "16", "--model.embedding", "16"),
        *("--model.latent_dim", "4"),
    )
    similarity = (
        *("--model", "SentenceSimilarity", "--model.head", "sbert", "--model.vocab_size", "300"),
        *(*SENTENCES, "--data", "LabelledPairs", "--data.root", "{data}/pairs"),
        *("--data.files", '["train.tsv"]', "--data.evaluate", '{{"dev": "dev.tsv"}}'),
        *("--data.batch_size", "16", "--trainer.val_check_interval", "3"),
    )
    language = (
        *("-c", "flash/shakespeare", *flash, "--data.batch_size", "2"),
        *("--data.sequence_length", "64", "--data.val_batch_size", "2", *ACCUMULATED),
    )
    sentences = ("-c", "simbert/demo", *SENTENCES, "--trainer.val_check_interval", "3")
    mlm = (
        *("-c", "flash/mlm-zh", "--data.root", "{data}/text", "--data.vocabulary_size", "100"),
        *("--model.vocab_size", "63", "--data.batch_size", "16", "--data.max_length", "32"),
    )
    return [
        Series("DDPM", ddpm(*COINCIDING)),
        Series("DDPM", ddpm(*ACCUMULATED)),
        Series("VAE", vae("digits", *COINCIDING)),
        Series("VAE", vae("digits", *ACCUMULATED)),
        Series("VMFVAE", vae("vmf-digits", *ODD)),
        Series("TextVAE", (*text, "--data.batch_size", "16", *COINCIDING)),
        Series("WGAN", toy),
        Series("FlashLM", language),
        Series("FlashMLM", (*mlm, *flash, *ODD)),
        Series("SimBERT", sentences),
        Series("SentenceSimilarity", similarity),
        Series("DDPM", ddpm(*ACCUMULATED), processes=2),
        Series("VAE", vae("digits", *COINCIDING), processes=2),
        Series("WGAN", toy, processes=2),
        Series("FlashLM", language, processes=2),
        Series("SimBERT", sentences, processes=2),
    ]


def make_data(folder):
    """Texts and pairs that belong to no recipe's own data."""
    draw = random.Random(0)

    def sentence():
        return "".join(chr(0x4E00 + draw.randrange(60)) for _ in range(draw.randrange(5, 12)))

    for name in ("pairs", "text"):
        (folder / "data" / name).mkdir(parents=True)
    for name, count in (("train", 200), ("dev", 40)):
        rows = [PAIR.format(a=sentence(), b=sentence(), label=i % 2) for i in range(count)]
        (folder / "data/pairs" / f"{name}.tsv").write_text("".join(rows))
    for name, count in (("train", 300), ("valid", 60), ("test", 60)):
        lines = "".join(f"{sentence()}\n" for _ in range(count))
        (folder / "data/text" / f"{name}.txt").write_text(lines)


def run(series, arguments, folder, plan=None, timeout=900):
    """Runs one command in a process group of its own; the exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.chdir(folder)
            log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.pop("KILL_PLAN", None)
            if plan is not None:
                os.environ["KILL_PLAN"] = json.dumps(plan)
            if series.processes > 1:  # Lightning starts the command again for the others
                os.execv(sys.executable, [sys.executable, worker.__file__, *arguments])
            code = worker.main(arguments)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 99
        finally:
            os._exit(code)
    end = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.killpg(child, 9)
            raise TimeoutError(f"{arguments}: {(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(status)


def contents(run_dir):
    """What must be equal."""
    found = {"metrics.csv": (run_dir / "metrics.csv").read_text()}
    for path in sorted(run_dir.glob("samples/*.png")):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(run_dir.glob("checkpoints/*.ckpt")):
        file = torch.load(path, weights_only=True)
        found[path.name] = {key: file[key] for key in (*PARTS, "callbacks") if key in file}
    found["files"] = sorted(
        str(p.relative_to(run_dir)) for p in run_dir.rglob("*") if p.name != "log"
    )
    return found


def trial(series, whole, folder, name, draw):
    """Kills and resumes one run, and compares; the number of kills."""
    series.trials += 1
    command = [*series.command(folder), "--run_dir", name, "--ckpt_path", "last"]
    story = []
    for _ in range(draw.choice((1, 2, 2, 3))):
        place = draw.choice(list(PLACES))
        plan = {"place": place, "count": draw.randint(1, PLACES[place])}
        plan |= {"signal": draw.choice(SIGNALS), "marker": str(folder / "marker")}
        (folder / "marker").unlink(missing_ok=True)
        code = run(series, command, folder, plan)
        if not (folder / "marker").exists():  # it ended before it came by
            if code != 0:
                tail = (folder / "log").read_text()[-1500:]
                series.unequal.append(f"{name} {story}: exit {code}: {tail}")
                return
            break
        story.append(f"{plan['signal']} at {place} {plan['count']}")
        series.kills[plan["signal"]] += 1
        # A signal that comes with the last step finds a run that is done.
        expected = {"SIGKILL": (-9,), "SIGTERM": (143, 0), "SIGINT": (130, 0)}[plan["signal"]]
        if code not in expected:
            tail = (folder / "log").read_text()[-1500:]
            series.unequal.append(f"{name} {story}: exit {code}: {tail}")
            return
    if run(series, command, folder) != 0:
        series.unequal.append(f"{name} {story}: {(folder / 'log').read_text()[-1500:]}")
        return
    found = differences(whole, contents(folder / name))
    if found:
        series.unequal.append(f"{name} {story}: {found[:6]}")


def table(chosen, seed):
    """What is written to the documentation."""
    kills = sum(sum(s.kills.values()) for s in chosen)
    trials = sum(s.trials for s in chosen)
    bad = sum(len(s.unequal) for s in chosen)
    lines = [
        "# Killed and resumed",
        "",
        "`make test-long` trains small models of every family, kills them at random places,",
        "resumes them with `--ckpt_path last`, and compares what is left with a run that nobody",
        "disturbed: the bits of last.ckpt and best.ckpt (weights, averages, optimisers,",
        "schedules), metrics.csv and the sample grids. The places: before a batch (also in the",
        "middle of an accumulation), after a step, in a validation and at its end, half-way",
        "through a checkpoint, before its second name is given, after it, at the end of an epoch,",
        "at a row of metrics.csv. The signals: SIGKILL for half of them, SIGTERM, Ctrl-C.",
        "",
        f"Last run: {kills} kills in {trials} runs (seed {seed}, torch {torch.__version__}, "
        f"{platform.machine()}), of which {bad} ended otherwise than the undisturbed run.",
        "",
        "| model | processes | accumulated batches | runs | kills | unequal |",
        "|---|---|---|---|---|---|",
    ]
    for s in chosen:
        names = iter(s.flags)
        accumulated = next((next(names) for f in names if f.endswith("accumulate_grad_batches")), 1)
        row = f"| {s.model} | {s.processes} | {accumulated} | {s.trials}"
        lines.append(f"{row} | {sum(s.kills.values())} | {len(s.unequal)} |")
    return "\n".join([*lines, ""])


def kill_and_compare(kills, seed, only=None, processes=None, out=None):
    """Goes round all series until there were that many kills.

    Args:
        kills: How many.
        seed: Of places, signals and their order.
        only: Model whose series are taken; all by default.
        processes: Take only the series of that many processes.
        out: File of the table, written after every round.

    Returns:
        The series.
    """
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}
    worker_imports()
    chosen = [
        s for s in all_series() if only in (None, s.model) and processes in (None, s.processes)
    ]
    draw, wholes, number, rounds = random.Random(seed), {}, 0, 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_data(folder)
        while sum(sum(s.kills.values()) for s in chosen) < kills:
            for index, series in enumerate(chosen):
                if series.processes > 1 and rounds % 3:  # which take ten times as long
                    continue
                if index not in wholes:
                    name = f"whole-{index}"
                    code = run(series, [*series.command(folder), "--run_dir", name], folder)
                    if code != 0:
                        raise RuntimeError((folder / "log").read_text()[-3000:])
                    wholes[index] = contents(folder / name)
                number += 1
                trial(series, wholes[index], folder, f"parts-{number}", draw)
                done = sum(sum(s.kills.values()) for s in chosen)
                print(f"{done} kills, {series.model} x{series.processes}", *series.unequal[-1:])
                sys.stdout.flush()
                if done >= kills:
                    break
            rounds += 1
            if out is not None:
                Path(out).write_text(table(chosen, seed))
    return chosen


def worker_imports():
    """Imports what a run needs, so that a forked one begins at once."""
    import importlib

    import zoo.cli.trainer  # noqa: F401
    from zoo.registry import MODELS

    for model in MODELS.values():
        importlib.import_module(model.module)
    importlib.import_module("zoo.data")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=None, help="model whose series are taken")
    parser.add_argument("--processes", type=int, default=None, help="series of that many")
    parser.add_argument("--out", default=None, help="file of the table")
    chosen = kill_and_compare(**vars(parser.parse_args()))
    bad = [text for series in chosen for text in series.unequal]
    print(*bad, sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
