"""What ends a run from outside is told in one line with exit 1, and last.ckpt stays good."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

DATA = """
import os, signal
from zoo.data import Digits
from zoo.data.loader import epoch_loader

class Items:
    def __init__(self, data, how):
        self.data, self.how = data, how
    def __len__(self):
        return len(self.data)
    def __getitems__(self, indices):
        if os.path.exists("now"):
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            open("gone.png")
        return self.data.__getitems__(indices)

class Mine(Digits):
    '''Digits whose files vanish.

    Args:
        how: What happens.
        workers: Processes.
    '''
    def __init__(self, how: str = "", workers: int = 0, batch_size: int = 16) -> None:
        super().__init__(batch_size=batch_size, limit=200)
        self.how, self.workers = how, workers
    def train_dataloader(self):
        loader = super().train_dataloader()
        items = Items(loader.dataset, self.how)
        return epoch_loader(items, loader.batch_size, train=True, num_workers=self.workers)
"""
CALLBACK = """
from pathlib import Path
from lightning.pytorch import Callback

class Now(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 9:
            Path("now").touch()
"""


def end(err):
    lines = [line for line in err.splitlines() if line.startswith("zoo: error:")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    ("how", "workers", "said"),
    [
        ("killed", 1, "a data worker (process "),
        ("vanished", 0, "gone.png"),
        ("vanished", 1, "gone.png"),
    ],
)
def test_a_dead_worker_and_a_vanished_file(
    tmp_path, monkeypatch, tiny, zoo_cli, how, workers, said
):
    (tmp_path / "mine.py").write_text(DATA + CALLBACK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ZOO_TRUST", "mine")
    flags = ["--data", "mine.Mine", "--data.how", how, "--data.workers", workers]
    flags += ["--trainer.callbacks", "mine.Now", "--run_dir", "run"]
    code, _, err = zoo_cli("fit", "-c", tiny, *flags)
    sys.modules.pop("mine", None)
    assert code == 1, err
    assert said in end(err)
    assert "go on with --ckpt_path last" in end(err)
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7


def test_a_full_disk_names_the_checkpoint_and_leaves_no_half_file(tiny, zoo_cli):
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 7)
    assert code == 0, err
    size = Path("run/checkpoints/last.ckpt").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        code, _, err = zoo_cli("fit", "--ckpt_path", "run/checkpoints/last.ckpt", *STEPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert code == 1, err
    assert "run/checkpoints/last.ckpt" in end(err)
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 7
    assert os.listdir("run/checkpoints") == ["last.ckpt"]


STEPS = ("--trainer.max_steps", 20)


@pytest.mark.slow
def test_a_killed_rank(tiny, tmp_path):
    command = [sys.executable, "-m", "zoo.cli", "fit", "-c", str(tiny), "--run_dir", "run"]
    command += [
        "--trainer.strategy",
        "ddp",
        "--trainer.devices",
        "2",
        "--trainer.max_steps",
        "9999",
    ]
    command += ["--trainer.limit_val_batches", "0"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    last = Path("run/checkpoints/last.ckpt")
    until = time.monotonic() + 240
    while not last.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = [c for c in children if b"LOCAL_RANK=1" in Path(f"/proc/{c}/environ").read_bytes()]
    os.kill(int(ranks[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "process 1 of the run was killed (SIGKILL)" in end(err)
    assert torch.load(last, weights_only=True)["global_step"] >= 7
