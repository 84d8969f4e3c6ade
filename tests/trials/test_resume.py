"""What users did to a run, as commands of their own processes."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.test_resume import LAST, PARTS, compare_metrics, differences

pytestmark = pytest.mark.slow

KILL = """
import os, signal
from pathlib import Path
from lightning.pytorch import Callback

class Kill(Callback):
    def kill(self, here):
        if os.environ.get("KILL") == here:
            os.kill(os.getpid(), signal.SIGKILL)
    def on_train_batch_start(self, trainer, *_):
        if Path(trainer.default_root_dir, "checkpoints/best.ckpt").exists():
            self.kill("after best")
        self.kill(f"batch after step {trainer.global_step}")
    def on_validation_start(self, trainer, *_):
        self.kill(f"validation of step {trainer.global_step}")
"""
SMALL = (
    *("-c", "vae/digits", "--trainer.accelerator", "cpu", "--model.hidden", "[32]"),
    *("--quality.samples", "0", "--samples.n", "0", "--trainer.callbacks", "mine.Kill"),
    *("--model.log_density_samples", "10", "--checkpoint.monitor", "val/loss"),
    *("--trainer.log_every_n_steps", "1"),
)


def zoo(*arguments, kill=None):
    command = [sys.executable, "-m", "zoo.cli", "fit", *arguments]
    environment = {**os.environ, "ZOO_TRUST": "mine"}
    environment["PYTHONPATH"] = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    environment |= {} if kill is None else {"KILL": kill}
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stderr


@pytest.mark.parametrize(
    ("kill", "flags"),
    [
        ("after best", {"accumulate_grad_batches": 2, "val_check_interval": 5, "max_steps": 6}),
        ("validation of step 4", {"val_check_interval": 4, "max_steps": 8}),
        ("validation of step 8", {"val_check_interval": 4, "max_steps": 8}),
        ("batch after step 6", {"val_check_interval": 4, "max_steps": 8}),
    ],
)
def test_killed_and_resumed(tmp_path, kill, flags):
    Path("mine.py").write_text(KILL)
    more = [x for name, value in flags.items() for x in (f"--trainer.{name}", str(value))]
    more += ["--checkpoint.every_n_train_steps", "2"]
    assert zoo(*SMALL, *more, "--run_dir", "whole")[0] == 0
    assert zoo(*SMALL, *more, "--run_dir", "parts", kill=kill)[0] == -9
    code, err = zoo(*SMALL, *more, "--run_dir", "parts", "--ckpt_path", "last")
    assert code == 0, err
    for name in (LAST, "checkpoints/best.ckpt"):
        a, b = (torch.load(Path(run, name), weights_only=True) for run in ("whole", "parts"))
        assert differences({k: a[k] for k in PARTS}, {k: b[k] for k in PARTS}) == []
    compare_metrics("whole", "parts")
    with Path("parts/metrics.csv").open() as file:
        assert sum(bool(row["val/loss"]) for row in csv.DictReader(file)) == 2


def test_two_fits_in_one_second():
    Path("mine.py").write_text(KILL)
    command = [sys.executable, "-m", "zoo.cli", "fit", *SMALL, "--trainer.max_steps", "3"]
    environment = {**os.environ, "ZOO_TRUST": "mine", "PYTHONPATH": os.getcwd()}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] += os.pathsep + root
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in "ab"]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    assert len(list(Path("runs").glob("*/checkpoints/last.ckpt"))) == 2
