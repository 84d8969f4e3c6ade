"""What is kept of a measurement, for what, and what an overlay says."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

import zoo
from zoo.tuning.choice import Choice, facts, measured
from zoo.tuning.report import overlay
from zoo.tuning.settings import Setting

SETTING = Setting("bf16-mixed", 2, False)
CPU = torch.device("cpu")
CHOICE = Choice(SETTING, (1.8, 2.0, 2.1), 5, "2026-11-29")


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def model(**changed):
    own = {"image_size": 8, "channels": 1, "width": 8, "multipliers": [1], "groups": 4}
    return zoo.DDPM(**{**own, "attention_levels": [], **changed})


def key(batch=16, **changed):
    return facts("fit", model(**changed), CPU, batch, Setting("32-true", 1, True))


def never():
    raise AssertionError("was measured")


def test_a_choice_is_measured_once_and_kept(tmp_path):
    assert measured(key(), lambda: CHOICE) == CHOICE
    assert measured(key(), never) == CHOICE
    assert len(list(Path(tmp_path, "cache", "zoo", "tune").glob("*.json"))) == 1
    other = replace(CHOICE, turns=7)
    assert measured(key(), lambda: other, anew=True) == other
    assert measured(key(), never) == other


def test_the_key_is_processor_torch_model_sizes_and_batch(monkeypatch):
    same = key()
    assert key(lr=1.0, channels_last=True, compile=True, lr_schedule={1: 1.0}) == same
    assert key(width=16) != same
    assert key(batch=32) != same
    assert facts("sample", model(), CPU, 16, Setting("32-true", 1, True)) != same
    monkeypatch.setattr("zoo.tuning.choice.processor", lambda: "another")
    assert key() != same
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert key() != same


def changed(setting=(), **choice):
    """The text of a file that somebody has changed."""
    kept = asdict(CHOICE)
    return json.dumps(
        {"choice": {**kept, "setting": {**kept["setting"], **dict(setting)}, **choice}}
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "[" * 10**5, '{"choice": 3}', '{"choice": {"setting": {"precision": 1}}}',
        changed({"precision": "8"}), changed({"channels_last": "no"}), changed({"compile": 1}),
        changed({"threads": 0}), changed(turns=float("inf")),
    ],
)  # fmt: skip
def test_a_damaged_file_is_measured_again(tmp_path, text):
    measured(key(), lambda: CHOICE)
    (file,) = Path(tmp_path, "cache", "zoo", "tune").glob("*.json")
    file.write_text(text)
    assert measured(key(), lambda: CHOICE) == CHOICE
    assert json.loads(file.read_text())["choice"]["turns"] == 5


def test_processes_do_not_measure_at_once(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes cannot measure"):
        measured(key(), never)


def test_an_overlay_has_the_setting_and_why():
    text = overlay(CHOICE, "-c ddpm/digits", torch.device("cpu"))
    assert yaml.safe_load(text) == {
        "trainer": {"precision": "bf16-mixed"},
        "model": {"init_args": {"channels_last": False}},
        "threads": 2,
    }
    assert "2.00 times the default's speed, 1.80 to 2.10 in 5 turns" in text
    plain = overlay(replace(CHOICE, setting=Setting("32-true", 1)), "", torch.device("cpu"))
    assert "model" not in yaml.safe_load(plain)
