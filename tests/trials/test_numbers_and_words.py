"""What users typed that ended in a traceback, or in silence, replayed through the command."""

import pytest
import torch

import zoo

pytestmark = pytest.mark.slow


@pytest.fixture
def run(zoo_cli):
    """What a command that goes well prints, and its log."""

    def call(*arguments):
        code, out, err = zoo_cli(*arguments)
        assert code == 0, err
        return out, err

    return call


@pytest.fixture
def line(mistake):
    """The one line of a command that is refused."""
    return mistake


@pytest.fixture(autouse=True)
def folders(tmp_path):
    """Small models: a DDPM in m/ and a VAE in v/."""
    torch.manual_seed(0)
    small = {"image_size": 8, "channels": 1, "width": 8, "multipliers": [1], "groups": 4}
    zoo.save_pretrained(zoo.DDPM(timesteps=4, attention_levels=[], **small), tmp_path / "m")
    zoo.save_pretrained(zoo.VAE(image_size=8, latent_dim=2, hidden=[8], levels=17), tmp_path / "v")


def test_columns_negative(run, line):
    run("sample", "m", "-n", 4, "--out", "x.png")
    assert "--columns=-1: must be 1 or more" in line("sample", "m", "-n", 4, "--columns", -1)


def test_numbers_of_the_verbs(line):
    assert "--ais=-1: must be 0 or more" in line("density", "v", "--ais", -1, "--data", "Digits")
    assert "--temperature=1e-320" in line("sample", "m", "--temperature", "1e-320")
    assert "--temperature=1e-320" in line("generate", "m", "--temperature", "1e-320")
    assert "--n: needs a whole number, got 1000000000.0" in line("sample", "m", "-n", "1e9")
    assert "GB of memory" in line("sample", "m", "-n", 10**9)
    assert "GB of memory" in line("sample", "v", "-n", 10**9, "--kind", "traversals")
    assert "GB of memory" in line("density", "v", "--repeats", 10**12, "--data", "Digits")
    assert "--seed=-1" in line("sample", "m", "--seed", -1)


def test_numbers_of_the_trainer(line):
    for flag, value in (
        ("accumulate_grad_batches", 0),
        ("val_check_interval", 0),
        ("devices", -3),
        ("log_every_n_steps", 0),
        ("precision", "64-true"),
        ("precision", "16-true"),
        ("overfit_batches", 1),
    ):
        typed = f"--trainer.{flag}={value}"
        assert f"{typed}: " in line("fit", "vae/digits", typed)


def test_numbers_of_callbacks_and_samples(line):
    for name, key, value in (
        ("EarlyStopping", "patience", -1),
        ("LearningRateFinder", "num_training_steps", 0),
        ("LearningRateFinder", "min_lr", -1.0),
        ("BatchSizeFinder", "max_trials", 0),
    ):
        flags = ["--trainer.callbacks", name, f"--trainer.callbacks.{key}", value]
        more = ["--trainer.callbacks.monitor", "val/loss"] if name == "EarlyStopping" else []
        said = line("fit", "vae/digits", *flags, *more)
        assert f"--trainer.callbacks.{key}={value}: {name}: must be " in said
    assert f"--samples.n={10**9}: needs about" in line(
        "fit", "vae/digits", "--samples.n", 10**9, "--trainer.accelerator", "cpu"
    )


def test_a_model_that_no_memory_holds(line):
    said = line("fit", "-c", "vae/digits", "--model.hidden", f"[{10**9}, {10**6}]")
    assert "not enough memory" in said


def test_words(run, line):
    assert "did you mean fit?" in line("train", "ddpm/digits")
    assert "did you mean --model.lr?" in line("fit", "ddpm/digits", "--model.learning_rate", 0.1)
    assert "--model.timesteps" in run("fit", "--model.help", "ddpm")[0]
    assert "--data.limit" in run("fit", "-c", "ddpm/digits", "--data.help")[0]
    assert "--trainer.max_steps" in run("help", "fit")[0]
    short = ["--trainer.max_steps", 2, "--trainer.limit_val_batches", 0, "--run_dir", "run"]
    err = run("fit", "ddpm/digits", *short)[1]
    for word in ("logging interval", "LeafSpec", "litlogger"):
        assert word not in err
