"""What a second process brings: items a second of one and of two under DDP, by turns.

    python benchmarks/scale_processes.py

Each process has one thread and the recipe's batch, so that two that waited for nothing would take
the time of one. Prints for each recipe the median over turns of twice the time of a step of one by
that of two, and what every process sends for a step. An idle machine with two cores is needed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parents[1]
PROBE = """\
import time
from statistics import median
from lightning.pytorch import Callback
class Pace(Callback):
    def __init__(self):
        self.ends = []
    def on_train_batch_end(self, *_):
        self.ends.append(time.perf_counter())
    def on_train_end(self, trainer, model):
        steps = [b - a for a, b in zip(self.ends[4:], self.ends[5:])]
        weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if trainer.global_rank == 0:
            print("pace", median(steps), weights, flush=True)
"""
RECIPES = "ddpm/digits,flash/shakespeare,simbert/demo,vae/digits"


def pace(folder: Path, recipe: str, devices: int, steps: int) -> tuple[float, int]:
    """Median seconds of a step, and the number of trained weights."""
    (folder / "probe.py").write_text(PROBE)
    environment = {**os.environ, "ZOO_TRUST": "probe", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": f"{HERE}:{folder}", "WANDB_MODE": "offline"}
    flags = (
        f"-c {recipe} -c ddp --trainer.accelerator cpu --trainer.devices {devices} --threads 1 "
        f"--trainer.max_steps {steps} --trainer.limit_val_batches 0 --samples.n 0 "
        "--trainer.enable_progress_bar false --trainer.callbacks probe.Pace "
        f"--run_dir {tempfile.mkdtemp(dir=folder)}"
    )
    command = [sys.executable, "-m", "zoo.cli", "fit", *flags.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = re.search(r"^pace (\S+) (\d+)$", done.stdout, re.M)
    if found is None:
        raise SystemExit(f"{recipe}: {done.stderr[-500:]}")
    return float(found[1]), int(found[2])


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", default=RECIPES, help="which")
    parser.add_argument("--steps", type=int, default=40, help="of a fit")
    parser.add_argument("--turns", type=int, default=3, help="of both")
    own = parser.parse_args()
    print("| recipe | trained weights | each sends a step | items a second of two by one |")
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        for recipe in own.recipes.split(","):
            ratios = []
            for _ in range(own.turns):
                (one, weights), (two, _) = (
                    pace(Path(name), recipe, devices, own.steps) for devices in (1, 2)
                )
                ratios.append(2 * one / two)
            shown = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"| {recipe} | {weights:,} | {4e-6 * weights:.1f} MB | {shown} |", flush=True)


if __name__ == "__main__":
    main()
