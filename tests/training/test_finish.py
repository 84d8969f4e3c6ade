"""A rate that was found is used, a stop has its reason, and long runs are told."""

import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml

from zoo import waiting
from zoo.training.pace import Pace, duration

SHORT = ["--trainer.limit_val_batches", 0, "--run_dir", "run"]
FINDER = ["--trainer.callbacks", "LearningRateFinder", "--trainer.callbacks.num_training_steps", 20]


def saved(run="run"):
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("schedule", ["{0: 1.0, 20: 0.5}", "null"])
def test_the_rate_that_is_found_is_the_rate_of_the_run(zoo_cli, mistake, tiny, schedule):
    arguments = ["--trainer.max_steps", 20, "--model.lr_schedule", schedule, *FINDER, *SHORT]
    code, _, err = zoo_cli("fit", "-c", tiny, *arguments)
    assert code == 0, err
    checkpoint = saved()
    found = checkpoint["hyper_parameters"]["lr"]
    assert found != 0.002  # the config's
    assert f"Learning rate set to {found}" in err
    last = 0.5 if schedule != "null" else 1.0
    group = checkpoint["optimizer_states"][0]["param_groups"][0]
    assert group["lr"] == pytest.approx(last * found, rel=1e-12)
    assert all(state["base_lrs"] == [found] for state in checkpoint["lr_schedulers"])
    assert len(checkpoint["lr_schedulers"]) == (schedule != "null")
    assert checkpoint["zoo_config"]["model"]["init_args"]["lr"] == found
    with open("run/config.yaml") as file:
        assert yaml.safe_load(file)["model"]["init_args"]["lr"] == found
    line = mistake("fit", "--ckpt_path", "run", "--trainer.max_steps", 21, *FINDER, *SHORT[:2])
    assert "a run that goes on has its rate already" in line


def test_a_model_of_two_rates_refuses_the_search(mistake):
    line = mistake("fit", "-c", "wgan/8gaussians-gp", "--trainer.max_steps", 2, *FINDER, *SHORT)
    assert "WGAN has lr_generator and lr_critic" in line


def test_early_stopping(zoo_cli, mistake, tiny):
    stopping = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor"]
    line = mistake("fit", "-c", tiny, *stopping, "val/los", "--run_dir", "a")
    assert "no metric 'val/los' is logged: did you mean val/loss? (logged: train/loss, " in line
    assert saved("a")["global_step"] == 10  # the steps before that validation are kept
    more = ["--trainer.callbacks.stopping_threshold", 1000, "--run_dir", "b"]
    code, _, err = zoo_cli("fit", "-c", tiny, *stopping, "val/loss", *more)
    assert code == 0, err
    assert "stopped early: Stopping threshold reached: val/loss = " in err


def test_a_run_that_was_ended_early_is_at_its_end(zoo_cli, tiny):
    """Asked to go on, as by a job that is queued again, it leaves all as it was."""
    flags = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    flags += ["--trainer.val_check_interval", 1, "--trainer.limit_val_batches", 1]
    flags += ["--checkpoint.monitor", "val/loss", "--run_dir", "a"]
    for more in (
        ["--trainer.callbacks.min_delta", 100, "--trainer.callbacks.patience", 2],
        ["--trainer.callbacks.stopping_threshold", 1000],
    ):
        shutil.rmtree("a", ignore_errors=True)
        assert zoo_cli("fit", "-c", tiny, *flags, *more)[0] == 0
        kept = [*Path("a", "checkpoints").iterdir(), Path("a", "metrics.csv")]
        files = {path: path.read_bytes() for path in kept}
        code, _, err = zoo_cli("fit", "-c", tiny, *flags, *more, "--ckpt_path", "last")
        assert code == 0, err
        assert "stopped early: " in err
        assert {path: path.read_bytes() for path in kept} == files
    code, _, err = zoo_cli(
        "fit",
        "-c",
        tiny,
        *flags,
        "--trainer.callbacks.stopping_threshold",
        0.01,
        "--ckpt_path",
        "last",
    )
    assert code == 0, err
    assert "stopped early: " not in err
    assert saved("a")["global_step"] == 30


def test_the_patience_of_a_resume_is_the_users(zoo_cli, tiny):
    stopping = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/loss"]
    stopping += ["--trainer.val_check_interval", 1, "--trainer.limit_val_batches", 1]
    stopping += ["--trainer.callbacks.min_delta", 100, "--run_dir", "a"]  # all are in vain
    code, _, err = zoo_cli("fit", "-c", tiny, *stopping, "--trainer.callbacks.patience", 2)
    assert code == 0, err
    assert saved("a")["global_step"] == 3
    more = ["--trainer.callbacks.patience", 5, "--ckpt_path", "last"]
    code, _, err = zoo_cli("fit", "-c", tiny, *stopping, *more)
    assert code == 0, err
    assert "EarlyStopping's patience is 5; the checkpoint was made with 2" in err
    assert saved("a")["global_step"] == 6


def test_what_is_watched_in_vain_is_told(zoo_cli, mistake, tiny):
    watch = ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/los"]
    never = ["--trainer.val_check_interval", 100, "--trainer.max_steps", 5]
    code, _, err = zoo_cli(
        "fit", tiny, *watch, *never, "--checkpoint.monitor", "val/x", "--run_dir=a"
    )
    assert code == 0, err
    assert "EarlyStopping never looked at 'val/los': no validation" in err
    assert "there is no best.ckpt by 'val/x': no validation" in err
    assert "(logged: train/loss" in err
    code, _, err = zoo_cli(
        "fit", tiny, "--checkpoint.monitor", "val/loss", *never[2:], "--run_dir=b"
    )
    assert code == 0, err
    line = mistake("fit", tiny, "--checkpoint.monitor", "val/los", "--run_dir", "c")
    assert "--checkpoint.monitor=val/los is not logged: did you mean val/loss?" in line
    assert saved("c")["global_step"] == 10


def test_a_run_of_hours_is_told(zoo_cli, tiny, monkeypatch):
    monkeypatch.setattr(Pace.__init__, "__defaults__", (0.0,))
    code, _, err = zoo_cli("fit", "-c", tiny, *SHORT)
    assert code == 0, err
    lines = [line.removeprefix("INFO: ") for line in err.splitlines()]
    told = {line for line in lines if "this run would take" in line}
    assert len(told) == 1
    assert all("for each of 30 steps" in line and "--model.width" in line for line in told)


def test_a_short_run_is_not_told(zoo_cli, tiny):
    code, _, err = zoo_cli("fit", "-c", tiny, *SHORT)
    assert code == 0, err
    assert "this run would take" not in err


@pytest.mark.parametrize("compiled", [True, False])
def test_a_first_step_that_compiles_is_told_once(zoo_cli, tiny, monkeypatch, compiled):
    monkeypatch.setattr(waiting, "_LONG", 0.02)
    monkeypatch.setattr(torch.nn.Module, "compile", slow_at_first)
    arguments = ["--model.compile", compiled, "--trainer.max_steps", 3, *SHORT]
    code, _, err = zoo_cli("fit", "-c", tiny, *arguments)
    assert code == 0, err
    told = [line for line in err.splitlines() if line.startswith("compiling")]
    expected = ["compiling, usually a minute or two ...", "compiling: 0 seconds"]
    assert told == (expected if compiled else [])


def slow_at_first(network, **how):
    """In the place of a compiler: what it makes waits in its first step alone."""

    def first(*_):
        hook.remove()
        time.sleep(0.2)

    hook = network.register_forward_pre_hook(first)


def test_durations():
    assert duration(3 * 3600 + 720) == "3.2 hours"
    assert duration(12.3 * 86400) == "12 days"
