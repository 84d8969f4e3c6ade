"""Flags > configs > checkpoint > defaults, and one run directory that owns everything."""

import json
from pathlib import Path

import pytest
import torch
import yaml

LAST = "checkpoints/last.ckpt"


@pytest.fixture
def trained(tiny, zoo_cli):
    """run/: two steps with lr 0.002 (the config's) and beta_end 0.03 (a flag's)."""
    arguments = ["--trainer.max_steps", 2, "--run_dir", "run", "--model.beta_end", 0.03]
    code, _, err = zoo_cli("fit", "-c", tiny, *arguments)
    assert code == 0, err


def saved(run_dir="run"):
    return torch.load(f"{run_dir}/{LAST}", weights_only=True)


def hparams(run_dir="run"):
    return saved(run_dir)["hyper_parameters"]


def test_fit_takes_flags_over_configs_over_the_checkpoint_over_defaults(trained, tiny, zoo_cli):
    with open("new.yaml", "w") as file:
        file.write("model: {init_args: {lr: 0.5, dropout: 0.25}}\n")
    more = ["--trainer.max_steps", 4, "--ckpt_path", f"run/{LAST}"]
    code, _, err = zoo_cli("fit", "-c", "new.yaml", "--model.lr", 0.125, *more)
    assert code == 0, err
    found = hparams()
    assert found["lr"] == 0.125  # flag over config over checkpoint
    assert found["dropout"] == 0.25  # config over checkpoint
    assert found["beta_end"] == 0.03  # checkpoint over default
    assert found["objective"] == "eps"  # default
    assert saved()["global_step"] == 4
    assert "model.lr is 0.125; the checkpoint was made with 0.002" in err


def test_a_resumed_run_uses_the_flags_it_reports(trained, zoo_cli):
    """The stock CLI trains with the checkpoint's learning rate whatever the flag says."""
    code, _, err = zoo_cli(
        *("fit", "--ckpt_path", f"run/{LAST}", "--trainer.max_steps", 3),
        *("--model.lr_schedule", '{"0": 1.0}', "--model.lr", 0.125),
    )
    assert code == 0, err
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["model"]["init_args"]["lr"] == 0.125


def test_test_needs_no_config(trained, zoo_cli):
    code, _, err = zoo_cli("test", "--ckpt_path", "run")
    assert code == 0, err
    results = json.loads(Path("run/results.json").read_text())
    assert results["step"] == 2
    assert results["metrics"]["test/bits_per_dim"] > 0
    assert results["metrics"]["baseline/bits_per_dim"] > 0
    assert results["protocol"]
    assert "bits_per_dim" in err


def test_test_of_the_wrong_model_is_refused(trained, mistake):
    line = mistake("test", "--ckpt_path", "run", "--model", "zoo.VAE")
    assert "holds a zoo.DDPM, but the config asks for" in line


def test_print_config_shows_what_will_be_used_and_parses_again(tiny, zoo_cli):
    code, out, _ = zoo_cli("fit", "-c", tiny, "--model.lr", 0.25, "--print_config")
    assert code == 0
    first = yaml.safe_load(out)
    assert first["model"]["init_args"]["lr"] == 0.25
    with open("printed.yaml", "w") as file:
        file.write(out)
    _, again, _ = zoo_cli("fit", "-c", "printed.yaml", "--print_config")
    assert yaml.safe_load(again) == first


def test_help_has_the_docstrings(zoo_cli):
    code, out, _ = zoo_cli("fit", "--help")
    assert code == 0
    assert "Folder of config.yaml" in out
    code, out, _ = zoo_cli("fit", "--model.help", "DDPM")
    assert code == 0
    assert "--model.timesteps" in out


def test_the_run_directory_owns_everything(tiny, zoo_cli, tmp_path):
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "out/run", "--samples.n", 4)
    assert code == 0, err
    assert zoo_cli("test", "--ckpt_path", "out/run")[0] == 0
    names = {path.name for path in (tmp_path / "out/run").iterdir()}
    own = {"config.yaml", "checkpoints", "samples", "metrics.csv", "results.json"}
    assert names == own | {"report", "report.html"}
    assert {p.name for p in tmp_path.iterdir()} <= {"out", "tiny.yaml"}
    assert [p.name for p in sorted((tmp_path / "out/run/samples").iterdir())] == [
        f"step-{step:07d}.png" for step in (10, 20, 30)
    ]


def test_runs_of_one_config_are_numbered_and_last_is_the_newest(tiny, zoo_cli, tmp_path):
    short = ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 0]
    for _ in range(2):
        assert zoo_cli("fit", "-c", tiny, *short)[0] == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["tiny", "tiny-2"]
    code, _, err = zoo_cli("fit", "-c", tiny, "--ckpt_path", "last", "--trainer.max_steps", 2)
    assert code == 0, err
    assert saved("runs/tiny")["global_step"] == 1
    assert saved("runs/tiny-2")["global_step"] == 2


def test_last_begins_at_the_beginning_when_there_is_nothing_yet(tiny, zoo_cli):
    short = ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 0]
    code, _, err = zoo_cli("fit", "-c", tiny, "--ckpt_path", "last", *short)
    assert code == 0, err
    assert saved("runs/tiny")["global_step"] == 1


def test_a_checkpoint_made_in_plain_python_is_enough(zoo_cli, tiny):
    """No `_class_path`, no config in it: as from Trainer.fit without the command."""
    from lightning.pytorch import Trainer

    from zoo import DDPM
    from zoo.data import Digits

    model = DDPM(
        image_size=8, channels=1, levels=17, timesteps=20, width=8, multipliers=[1, 2], groups=4
    )
    run = Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    run.fit(model, Digits(batch_size=16, limit=100))
    run.save_checkpoint("plain.ckpt")
    code, _, err = zoo_cli(
        "test", "--ckpt_path", "plain.ckpt", "--data", "Digits", "--run_dir", "t"
    )
    assert code == 0, err
    code, _, err = zoo_cli("sample", "plain.ckpt", "-n", 2, "--out", "two.png")
    assert code == 0, err


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_bf16_clips_with_the_fused_optimiser(tiny, zoo_cli, algorithm, monkeypatch):
    """Lightning refuses this; ours must do it, to the bound that was asked for."""
    from zoo.training import FiniteLoss

    norms = []

    def look(self, trainer, module, *args):
        grads = torch.cat([p.grad.flatten() for p in module.parameters()])
        norms.append(float(grads.norm() if algorithm == "norm" else grads.abs().max()))

    monkeypatch.setattr(FiniteLoss, "on_train_batch_end", look)
    flags = ["--trainer.max_steps", 3, "--trainer.limit_val_batches", 0, "--run_dir", "run"]
    flags += ["--trainer.gradient_clip_val", 0.001, "--trainer.gradient_clip_algorithm", algorithm]
    code, _, err = zoo_cli("fit", "-c", tiny, "-c", "bf16", *flags)
    assert code == 0, err
    assert len(norms) == 3
    assert all(norm == pytest.approx(0.001, rel=1e-3) for norm in norms)


def test_flags_win_wherever_the_config_is_written(tiny, zoo_cli):
    code, out, err = zoo_cli("fit", "--model.lr", 0.25, "-c", tiny, "--print_config")
    assert code == 0, err
    assert yaml.safe_load(out)["model"]["init_args"]["lr"] == 0.25
    dim = ("--model.latent_dim", 7)
    for words in ((*dim, "-c", "vae/mnist-normal-d10"), ("-c", "vae/mnist-normal-d10", *dim)):
        code, out, err = zoo_cli("fit", *words, "--print_config")
        assert code == 0, err
        assert yaml.safe_load(out)["model"]["init_args"]["latent_dim"] == 7
