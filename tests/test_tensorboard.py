"""`-c tensorboard`: what metrics.csv has, in one folder, beside other loggers."""

import csv
import json
import sqlite3
from itertools import permutations
from pathlib import Path

import pytest
import yaml


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the package's own imports
def test_tensorboard_has_what_metrics_csv_has(tiny, zoo_cli):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps in (5, 10):  # the second goes on
        flags = ("--run_dir", "run", "--ckpt_path", "last", "--trainer.max_steps", steps)
        flags += ("--samples.n", 4)
        code, _, err = zoo_cli("fit", "-c", tiny, "-c", "tensorboard", *flags)
        assert code == 0, err
    assert sorted(p.name for p in Path().iterdir()) == ["run", "tiny.yaml"]
    found = reader.EventAccumulator("run/tensorboard").Reload()
    losses = {event.step: event.value for event in found.Scalars("train/loss")}
    with Path("run/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert losses == pytest.approx({int(r["step"]): float(r["train/loss"]) for r in rows})
    assert len(losses) == 2
    assert [event.step for event in found.Images("samples")] == [5, 9]

    code, _, err = zoo_cli("test", "-c", "tensorboard", "--run_dir", "run", "--ckpt_path", "run")
    assert code == 0, err
    found = reader.EventAccumulator("run/tensorboard").Reload()
    results = json.loads(Path("run/results.json").read_text())["metrics"]
    for name, value in results.items():
        ((step, shown),) = [(event.step, event.value) for event in found.Scalars(name)]
        assert (step, shown) == (10, pytest.approx(value))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the packages' own imports
def test_a_runs_config_logs_to_the_folder_of_the_run_that_it_begins(tiny, zoo_cli):
    """Once, also where it says itself what an overlay says."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    for config, folder in ((tiny, "run"), ("run/config.yaml", "again")):
        flags = ("-c", config, "-c", "tensorboard", "-c", "mlflow", "-c", "wandb")
        code, _, err = zoo_cli("fit", *flags, "--run_dir", folder, "--trainer.max_steps", 2)
        assert code == 0, err
        assert len(list(Path(folder, "tensorboard").glob("events*"))) == 1
        assert len(list(Path(folder, "wandb").glob("offline-run-*"))) == 1
        assert not Path(folder, folder).exists()
        assert not Path(folder, "run").exists()
        loggers = _loggers(Path(folder, "config.yaml").read_text())
        assert len(loggers) == 3
        own = loggers[0]["init_args"]
        assert (own["save_dir"], own["name"]) == (".", "tensorboard")
    runs = sqlite3.connect("again/mlflow.db").execute("select name from runs").fetchall()
    assert runs == [("again",)]


@pytest.mark.parametrize("names", list(permutations(("wandb", "tensorboard", "mlflow"))))
def test_loggers_come_beside_one_another_in_any_order(names, zoo_cli):
    pytest.importorskip("mlflow")
    overlays = [word for name in names for word in ("-c", name)]
    code, out, err = zoo_cli("fit", "-c", "ddpm/digits", *overlays, "--print_config")
    assert code == 0, err
    known = {"wandb": "WandbLogger", "tensorboard": "TensorBoardLogger", "mlflow": "MLflow"}
    loggers = [each["class_path"].rpartition(".")[2] for each in _loggers(out)]
    assert loggers == [known[name] for name in names]


def _loggers(config):
    return yaml.safe_load(config)["trainer"]["logger"]
