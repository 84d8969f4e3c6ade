"""Today's default against the setting that `zoo tune` chooses, on this machine.

A setting is searched for as `zoo tune` does; then it and the default take turns anew, which the
search has not seen. Only ratios of one row mean anything.

    python benchmarks/tune.py [--only cifar,mnist,encode] [--seconds 120] [--rounds 5] [--batch N]
        [--clock wall|cpu] [--json FILE]

`--clock cpu` with OMP_NUM_THREADS=1 counts the process's own time: for a machine that others use.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import zoo
from zoo.simbert.commands import embed_work
from zoo.training.pictures import machine
from zoo.tuning.halving import best, halve
from zoo.tuning.inference import InferenceWork, default_of
from zoo.tuning.report import table
from zoo.tuning.settings import Setting, alternatives, bf16_is_slow
from zoo.tuning.training import TrainingSteps

ROWS = {"cifar": 32, "mnist": 64, "encode": 600}  # and their batch


class Noise(LightningDataModule):
    """Batches of random images; prepare and read nothing."""

    def __init__(self, batch_size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.batch_size, self.shape = batch_size, shape

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The batches."""
        images = torch.rand(16 * self.batch_size, *self.shape) * 2 - 1
        return DataLoader(TensorDataset(images), self.batch_size)


def work_of(
    name: str, batch: int, seconds: float, clock: Any
) -> tuple[Any, Setting, tuple[str, ...]]:
    """A row's work, its default and what else is tried."""
    torch.manual_seed(0)
    if name == "encode":
        model = zoo.SimBERT(hidden=384, layers=6, heads=12, vocab_size=3000)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        model.tokenizer.adopt(words + [chr(0x4E00 + i) for i in range(2995)])
        work = embed_work(batch)
        return InferenceWork(model.eval(), work, clock), default_of(model), work.precisions
    network: dict[str, Any] = {"dropout": 0.1, "channels_last": True}
    if name == "mnist":
        network |= {"image_size": 28, "channels": 1, "width": 64, "multipliers": [1, 2, 2]}
    model = zoo.DDPM(**network)
    default = Setting("32-true", torch.get_num_threads(), True)
    data = Noise(batch, model.shape)
    options = {"accelerator": "cpu", "gradient_clip_val": 1.0, "clock": clock}
    return TrainingSteps(model, data, default, seconds, **options), default, ("bf16-mixed",)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    batch = options.batch or ROWS[name]
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    work, default, precisions = work_of(name, batch, options.seconds, clock)
    if bf16_is_slow(torch.device("cpu")):
        precisions = ()
    others = alternatives(default, precisions)
    began = time.monotonic()
    work.refer()
    trials = halve(default, others, work.visit, options.seconds)
    searched, chosen = time.monotonic() - began, best(trials).setting
    print(f"\n{name}, batch {batch}, searched for {searched:.0f} s\n{table(trials, work)}")
    pairs = [(work.visit(default), work.visit(chosen)) for _ in range(options.rounds)]
    ratios = [a / b for a, b in pairs]
    print(
        f"{name}: {chosen} has {median(ratios):.2f} times the speed of {default} "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} rounds)",
        flush=True,
    )
    found = {"batch": batch, "chosen": str(chosen), "default": str(default), "ratios": ratios}
    peer, ours = (median(times) for times in zip(*pairs, strict=True))
    found |= {"peer_s": peer, "ours_s": ours}
    return {**found, "off": work.errors.get(chosen), "searched": searched}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, help="instead of the rows' own")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    where = machine(torch.device("cpu"))
    print(where)
    rows = {name: measure(name, options) for name in options.only.split(",")}
    if options.json:
        content = {"machine": where, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
