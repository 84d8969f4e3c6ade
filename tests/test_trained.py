"""The list of what is trained to its end, and the command that does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import trained.report
import trained.runs
import zoo.pretrained
from trained.entries import Goal, read_list
from trained.report import write_report
from zoo.recipes import list_configs

ENTRIES = read_list()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_is_of_a_recipe_and_of_data_with_a_licence(entry):
    assert entry.recipe in list_configs()
    assert entry.name.split("/")[0] == entry.recipe.split("/")[0]
    assert entry.goals
    assert any(goal.metric.startswith("test/") for goal in entry.goals)
    assert entry.ships is (entry.data["licence"] != "research use")
    assert entry.checkpoint in ("best", "last")


def test_names_are_one_each_and_what_is_needed_comes_first():
    folders = [entry.folder for entry in ENTRIES]
    assert len(set(folders)) == len(folders)
    for i, entry in enumerate(ENTRIES):
        for flag in entry.flags:
            if "{runs}/" in flag:
                assert flag.partition("{runs}/")[2] in folders[:i]
    with pytest.raises(ValueError, match="ddpm/mnist"):
        read_list("nothing")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
@pytest.mark.slow
def test_an_entry_parses(entry, zoo_cli, tmp_path):
    code, _, err = zoo_cli("fit", *entry.fit(tmp_path, tmp_path), "--print_config")
    assert code == 0, err


def test_a_goal_has_a_bound_or_is_shown():
    assert Goal("test/kl", at_least=1).met_by(1.5)
    assert not Goal("test/kl", at_least=1).met_by(float("nan"))
    assert Goal("test/kl", at_most=2, at_least=1).bound == "at most 2 and at least 1"
    assert Goal("test/kl").met_by(-5)
    assert Goal("test/log_density").name == "log density"


def test_a_goal_may_be_a_mean_of_what_was_tested():
    goal = Goal(label="mean", mean_of=("test/a", "test/b"), at_least=0.5)
    assert goal.value_in({"test/a": 0.25, "test/b": 1.0, "test/c": 9.0}) == 0.625
    assert goal.value_in({"test/a": 0.25}) is None
    assert Goal("test/a").value_in({"test/a": 2.0}) == 2.0
    means = [goal for entry in ENTRIES for goal in entry.goals if goal.mean_of]
    assert means
    assert all(goal.label and not goal.metric for goal in means)


def test_the_report_says_what_is_met_and_what_is_missed(tmp_path, monkeypatch):
    entry = next(e for e in ENTRIES if e.name == "vae/digits")
    record = {
        "command": "zoo fit -c vae/digits",
        "seed": 0,
        "step": 10,
        "steps": 20,
        "hours": None,
        "processor": "one",
        "flags": [],
        "test": [],
        "parameters": 5,
        "data": "digits",
        "licence": "free",
        "protocol": {"test/kl": "closed form"},
        "metrics": {"test/log_density": -99.0, "test/kl": 5.0},
        "curve": [[10, 3.5]],
    }
    monkeypatch.setattr(trained.report, "record_of", lambda e: record if e is entry else {})
    write_report(ENTRIES, tmp_path / "RESULTS.md")
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| `vae/digits` | log p, nats | -99 | at least -87 | missed |" in text
    assert "|  | KL | 5 | at least 1 | met |" in text
    assert "| `ddpm/mnist` | Fréchet distance, 10,000 samples | not yet | at most 1 |" in text
    assert "Missed: log p, nats." in text
    assert "Validation loss by step: 10: 3.5." in text
    assert "step 10 of 20; hours not known" in text


@pytest.mark.slow
def test_a_model_is_trained_tested_and_shipped(tmp_path, monkeypatch, zoo_cli):
    calls = []

    def here(_, verb, *arguments):
        calls.append(verb)
        code, _, err = zoo_cli(verb, *arguments)
        assert code == 0, err

    monkeypatch.setattr(trained.runs, "zoo", here)
    monkeypatch.setattr(trained.runs, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(zoo.pretrained, "ROOT", tmp_path / "pretrained")
    entry = next(e for e in ENTRIES if e.name == "wgan/8gaussians-gp")
    few = ["--trainer.max_steps", "20", "--trainer.val_check_interval", "20"]
    for _ in range(2):  # the second time all is done
        trained.runs.train(entry, Path("data"), tmp_path / "runs", few)
        trained.runs.measure(entry, Path("data"), tmp_path / "runs")
        assert calls == ["fit", "export", "test", "test", "test"]
    folder = tmp_path / "pretrained" / entry.name
    record = json.loads((folder / "results.json").read_text())
    assert record["step"] == 20
    assert record["hours"] >= 0
    # Half precision moves points of size 1 by some 5e-4.
    assert record["metrics"]["test/w1"] == pytest.approx(record["float32"]["test/w1"], abs=5e-3)
    assert record["part"]["value"] == pytest.approx(record["metrics"]["test/w1"])
    assert (folder / "README.md").read_text().startswith("---\n")
    (model,) = zoo.list_models(pretrained=True)
    assert model.headline == f"W1 {record['metrics']['test/w1']:.4g}"


def test_what_fails_is_told_with_its_log(tmp_path):
    with pytest.raises(RuntimeError, match=r"zoo fitt ended with 2: .*did you mean fit.*run\.log"):
        trained.runs.zoo(tmp_path / "run", "fitt")


def test_the_command_shows_the_list():
    command = [sys.executable, "-m", "trained", "--list", "--only", "ddpm/*", "--data", "d"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert "zoo fit -c ddpm/mnist-small --data.root=d" in done.stdout
