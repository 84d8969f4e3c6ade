"""`zoo tune` and `--precision auto`: what is asked, what the record says, and what resumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace

import zoo
import zoo.cli.auto
import zoo.data
import zoo.tuning.inference
from zoo.cli.auto import choose, without_auto
from zoo.cli.run import parse_function
from zoo.tuning.choice import Choice
from zoo.tuning.settings import Setting

CHOICE = Choice(Setting("bf16-mixed", 1, True), (1.8, 2.0, 2.1), 5, "2026-11-29")
SMALL = [
    "--trainer.limit_val_batches", 0, "--samples.n", 0, "--data.limit", 40,
    "--trainer.max_steps", 2,
]  # fmt: skip


@pytest.fixture
def chosen(monkeypatch, tmp_path):
    """No measurement: this is what it would choose; how often it was asked."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = []

    def search(*arguments, **options):
        asked.append(options)
        return CHOICE

    monkeypatch.setattr(zoo.cli.auto, "search", search)
    return asked


def test_auto_is_found_in_any_form_and_nothing_else_is():
    for flag in (["--precision", "auto"], ["--trainer.precision=auto"], ["--precision=auto"]):
        assert without_auto("fit", ["-c", "x", *flag]) == (["-c", "x"], True)
    assert without_auto("fit", ["--precision", "bf16"]) == (["--trainer.precision", "bf16"], False)
    assert without_auto("test", ["-c", "x"]) == (["-c", "x"], False)


def test_only_a_fit_measures(mistake, tiny):
    said = mistake("test", "-c", tiny, "--ckpt_path", "x", "--precision", "auto")
    assert "--precision auto: zoo test has none" in said


def test_tune_passes_on_what_a_fit_takes():
    arguments = ["-c", "ddpm/digits", "--data.limit", "9", "--seconds", "10", "--model.lr=1"]
    values = parse_function("tune", arguments)[1]
    assert values["train"] == ["-c", "ddpm/digits", "--data.limit", "9", "--model.lr=1"]
    assert (values["ckpt"], values["seconds"]) == (None, 10.0)
    assert parse_function("tune", ["ddpm/digits", "--int8", "true"])[1]["ckpt"] == "ddpm/digits"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give -c CONFIG for a training, or a CKPT"),
        (["ddpm/digits", "-c", "ddpm/digits"], "give -c CONFIG for a training, or a CKPT"),
        (["-c", "ddpm/digist"], "did you mean ddpm/digits?"),
        (["-c", "ddpm/digits", "--int8", "true"], "--int8 is for a CKPT"),
        (["-c", "ddpm/digits", "--device", "cpu"], "--device is for a CKPT"),
        (["ddpm/digits", "--out", "x.yaml"], "--out is for a training"),
        (["-c", "ddpm/digits", "--trainer.precision", "64-true"], "--trainer.precision=64-true"),
        (["-c", "ddpm/digits", "--seconds", "0"], "seconds"),
        (["-c", "ddpm/digits", "--data.limitt", "3"], "limitt"),
        (["nowhere"], "nowhere"),
        (["ddpm/digits", "--int8", "true"], "DDPM has no embed"),
        (["ddpm/digits", "--compile", "true"], "--compile is for a training"),
    ],
)
def test_mistakes_end_in_one_line(mistake, arguments, said):
    assert said in mistake("tune", *arguments)


@pytest.mark.slow
def test_auto_is_recorded_and_a_resumed_run_keeps_it(zoo_cli, tiny, chosen, monkeypatch):
    begin = ["fit", "-c", tiny, "--run_dir", "run", "--precision", "auto", "--ckpt_path", "last"]
    code, _, err = zoo_cli(*begin, *SMALL)
    assert code == 0, err
    assert "precision auto: bf16-mixed, 1 thread, channels_last (2.00 times" in err
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["model"]["init_args"]["channels_last"] is True
    assert config["threads"] == 1
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["zoo_config"]["trainer"]["precision"] == "bf16-mixed"
    assert saved["hyper_parameters"]["channels_last"] is True
    assert saved["zoo_config"]["threads"] == 1

    other = Choice(Setting("32-true", 1, False))
    monkeypatch.setattr(zoo.cli.auto, "search", lambda *a, **o: other)
    monkeypatch.setattr("zoo.training.changes.processor", lambda: "another processor")
    monkeypatch.setattr("zoo.tuning.choice.processor", lambda: "another processor")
    config = yaml.safe_load(tiny.read_text())
    config["trainer"]["precision"] = "32-true"  # what a recipe says, as it did at the beginning
    tiny.write_text(yaml.safe_dump(config))
    code, _, err = zoo_cli(*begin, *SMALL[:-1], 3)
    assert code == 0, err
    assert "precision bf16-mixed, channels_last true" in err
    assert "as the run has it" in err
    assert "the processor is another processor; the checkpoint was made with " in err
    assert "trainer.precision is" not in err
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"


def test_processes_that_a_strategy_starts_are_handed_the_choice(monkeypatch, chosen):
    model, data = zoo.DDPM(image_size=8, width=8, groups=4), zoo.data.Digits()
    trainer = dict.fromkeys(
        ("precision", "accelerator", "gradient_clip_val", "gradient_clip_algorithm")
    )
    config = Namespace(trainer=Namespace(**trainer), threads=None)
    assert choose(config, model, data, []) == CHOICE
    monkeypatch.setenv("LOCAL_RANK", "1")
    torch.set_num_threads(2)  # so that what is kept is of another machine
    assert choose(config, model, data, []) == CHOICE
    monkeypatch.delenv("ZOO_TUNED")
    with pytest.raises(ValueError, match="several processes cannot measure"):
        choose(config, model, data, [])


@pytest.mark.slow
def test_a_measurement_is_cached_and_typed_flags_stay(zoo_cli, tiny, chosen):
    code, _, err = zoo_cli("tune", "-c", tiny)
    assert code == 0, err
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "a", "--precision=auto", *SMALL)
    assert code == 0, err
    assert len(chosen) == 1
    zoo_cli("tune", "-c", tiny, "--model.channels_last", "false", "--threads", 1)
    assert chosen[1]["fixed"] == {"channels_last", "threads"}


def test_tune_writes_an_overlay_that_a_fit_takes(zoo_cli, tiny, chosen):
    code, out, err = zoo_cli("tune", "-c", tiny, "--data.limit", 100, "--out", "mine.yaml")
    assert code == 0, err
    assert f"zoo fit -c {tiny} --data.limit 100 -c mine.yaml" in out
    assert yaml.safe_load(Path("mine.yaml").read_text())["trainer"] == {"precision": "bf16-mixed"}
    code, out, _ = zoo_cli("fit", "-c", tiny, "-c", "mine.yaml", "--print_config")
    assert code == 0
    shown = yaml.safe_load(out)
    assert shown["trainer"]["precision"] == "bf16-mixed"
    assert shown["model"]["init_args"]["channels_last"] is True
    assert shown["threads"] == 1


def test_threads_are_in_range(mistake, tiny):
    assert "--threads" in mistake("fit", "-c", tiny, "--threads", 0)


def test_sample_takes_the_measured_setting_and_says_so(zoo_cli, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    half = replace(CHOICE, setting=Setting("bf16", 1, False))
    monkeypatch.setattr(zoo.tuning.inference, "search", lambda *a, **o: half)
    code, _, err = zoo_cli("sample", "ddpm/digits", "-n", 2, "--precision", "auto", "--steps", 1)
    assert code == 0, err
    assert "zoo: precision auto: bf16, 1 thread, contiguous (2.00 times" in err
    (file,) = (tmp_path / "cache" / "zoo" / "tune").glob("*.json")
    assert json.loads(file.read_text())["of"]["verb"] == "sample"


@pytest.mark.slow
def test_tune_measures_and_a_fit_takes_its_overlay(zoo_cli, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, _, err = zoo_cli("tune", "-c", "ddpm/digits", "--seconds", 10)
    assert code == 0, err
    assert "32-true, 1 thread, channels_last" in err
    assert "chosen: " in err
    fit = ["--run_dir", "run", "--trainer.max_steps", 2, "--trainer.val_check_interval", 2]
    code, _, err = zoo_cli("fit", "-c", "ddpm/digits", "-c", "tuned.yaml", *fit, "--samples.n", 1)
    assert code == 0, err
    said = yaml.safe_load(Path("tuned.yaml").read_text())
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["trainer"]["precision"] == said["trainer"]["precision"]
    assert config["threads"] == said["threads"] == 1
