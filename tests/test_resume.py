"""A run that was killed and resumed ends with the very bits of the run that was not."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

LAST = "checkpoints/last.ckpt"
PARTS = (
    "state_dict",
    "current_model_state",
    "optimizer_states",
    "lr_schedulers",
    "ema_updates",
    "global_step",
    "epoch",
)


def differences(a, b, path=""):
    """Names of the leaves that are not the same bits."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and torch.equal(a, b)
    elif isinstance(a, dict):
        if set(a) != set(b):
            return [f"{path}: {set(a) ^ set(b)}"]
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            return [path]
        return [
            d
            for i, pair in enumerate(zip(a, b, strict=True))
            for d in differences(*pair, f"{path}/{i}")
        ]
    else:
        same = a == b
    return [] if same else [path]


def compare(whole, parts, steps=30):
    a, b = (torch.load(Path(folder) / LAST, weights_only=True) for folder in (whole, parts))
    assert a["global_step"] == steps
    assert len(a["optimizer_states"][0]["state"]) > 10
    assert differences({k: a[k] for k in PARTS}, {k: b[k] for k in PARTS}) == []


def compare_metrics(whole, parts):
    assert (Path(whole) / "metrics.csv").read_text() == (Path(parts) / "metrics.csv").read_text()


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("strategy", ["auto", pytest.param("ddp_fork", marks=pytest.mark.slow)])
def test_stopped_by_a_signal_and_resumed(tiny, zoo_cli, monkeypatch, accumulate, strategy):
    """In this process; the signal comes in the middle of an epoch."""
    flags = ["--trainer.accumulate_grad_batches", accumulate, "--trainer.strategy", strategy]
    flags += ["--trainer.devices", 1 if strategy == "auto" else 2]
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "whole", *flags)
    assert code == 0, err

    from zoo.training import StepRNG

    original = StepRNG.on_train_batch_start
    sent: list[None] = []

    def interrupt(self, trainer, module, batch, batch_idx):
        original(self, trainer, module, batch, batch_idx)
        if trainer.global_step == 17 and not sent:  # a second signal would stop at once
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    if strategy == "auto":
        monkeypatch.setattr(StepRNG, "on_train_batch_start", interrupt)
        code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "parts", *flags)
        assert code == 143, err
        assert "go on with: zoo fit" in err
        saved = torch.load(f"parts/{LAST}", weights_only=True)["global_step"]
        assert saved == 18
        monkeypatch.undo()
        os.chdir(tiny.parent)
    else:  # a child process that is stopped takes the launcher down: cut the run short instead
        code, _, err = zoo_cli(
            "fit", "-c", tiny, "--run_dir", "parts", *flags, "--trainer.max_steps", 17
        )
        assert code == 0, err
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "parts", "--ckpt_path", "last", *flags)
    assert code == 0, err
    compare("whole", "parts")
    compare_metrics("whole", "parts")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["test", "validate", "predict"])
def test_a_test_is_stopped_at_once(tiny, zoo_cli, monkeypatch, verb, number):
    """Lightning goes on with a prediction, and with what a test computes of its last batch."""
    assert zoo_cli("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 5)[0] == 0
    files = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    step = {"test": "test_step", "validate": "validation_step", "predict": "predict_step"}[verb]
    monkeypatch.setattr(f"zoo.DDPM.{step}", lambda *_: os.kill(os.getpid(), number))
    code, _, err = zoo_cli(verb, "--ckpt_path", "run")
    assert code == 128 + number, err
    assert err.splitlines()[-2:] == [
        "zoo: stopped at once",
        f"zoo: go on with: zoo {verb} --ckpt_path run",
    ]
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == files


def test_the_hinted_command_goes_on_from_what_was_saved(tiny, zoo_cli, monkeypatch):
    """Of a run that began from a file, which the stop has left behind."""
    assert zoo_cli("fit", "-c", tiny, "--run_dir", "whole")[0] == 0
    args = ["fit", "-c", tiny, "--trainer.max_steps", 5, "--run_dir", "begun"]
    assert zoo_cli(*args)[0] == 0

    from zoo.training import StepRNG

    original = StepRNG.on_train_batch_start

    def interrupt(self, trainer, module, batch, batch_idx):
        original(self, trainer, module, batch, batch_idx)
        if trainer.global_step == 17:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StepRNG, "on_train_batch_start", interrupt)
    args = ["fit", "-c", tiny, "--run_dir", "the parts", "--ckpt_path", f"begun/{LAST}"]
    code, _, err = zoo_cli(*args)
    assert code == 130, err
    monkeypatch.undo()
    os.chdir(tiny.parent)
    hint = shlex.split(err.rsplit("go on with: ", 1)[1])
    assert hint[-2:] == ["--ckpt_path", "last"]
    code, _, err = zoo_cli(*hint[1:])
    assert code == 0, err
    assert "zoo test --ckpt_path 'the parts'" in err
    compare("whole", "the parts")


@pytest.mark.parametrize("stops", [(8, 17), (4, 8), (9, 11)])
def test_stopped_twice_also_at_the_end_of_an_epoch(tiny, zoo_cli, stops):
    """Of 4 steps an epoch, the last one of 2 accumulated batches."""
    flags = ["--trainer.accumulate_grad_batches", 3, "--trainer.val_check_interval", 8]
    assert zoo_cli("fit", "-c", tiny, "--run_dir", "whole", *flags)[0] == 0
    for stop in (*stops, 30):
        args = ["--run_dir", "parts", "--ckpt_path", "last", "--trainer.max_steps", stop, *flags]
        code, _, err = zoo_cli("fit", "-c", tiny, *args)
        assert code == 0, err
    compare("whole", "parts")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "accumulate"),
    [(1, 1), (2, 3), *(pytest.param(*case, marks=pytest.mark.long) for case in ((1, 3), (2, 1)))],
)
def test_killed_at_an_arbitrary_moment_and_resumed(tiny, accumulate, processes):
    """A real `zoo fit` that gets SIGKILL twice, wherever it is."""
    command = [sys.executable, "-m", "zoo.cli", "fit", "-c", str(tiny)]
    steps = 200  # enough that the end does not come before the kill
    command += ["--trainer.accumulate_grad_batches", str(accumulate)]
    command += ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", "40"]
    if processes == 2:
        command += ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    subprocess.run([*command, "--run_dir", "whole"], check=True, capture_output=True)

    command += ["--run_dir", "parts", "--ckpt_path", "last"]
    for kill_after in (14, 70):  # steps whose checkpoint must be there before the kill
        child = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        end = time.monotonic() + 240
        while child.poll() is None and time.monotonic() < end:
            try:
                if torch.load(f"parts/{LAST}", weights_only=True)["global_step"] >= kill_after:
                    break
            except FileNotFoundError:
                pass
            time.sleep(0.01)
        os.killpg(child.pid, signal.SIGKILL)  # every rank, with no time for a last word
        child.wait()
        assert torch.load(f"parts/{LAST}", weights_only=True)["global_step"] < steps
    subprocess.run(command, check=True, capture_output=True)
    compare("whole", "parts", steps)
