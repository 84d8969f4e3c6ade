"""`-c mlflow`: what metrics.csv has, images, results and checkpoints, in one run of one store."""

import csv
import json
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the package's own
def test_mlflow_has_what_the_run_directory_has(tiny, zoo_cli):
    tracking = pytest.importorskip("mlflow.tracking")
    flags = ("-c", "mlflow", "--run_dir", "run")
    more = ("--samples.n", 4, "--checkpoint.artifacts", "true")
    for steps, lr in ((5, 0.002), (10, 0.001)):  # the second goes on, at another rate
        code, _, err = zoo_cli(
            *("fit", "-c", tiny, *flags, *more, "--ckpt_path", "last", "--model.lr", lr),
            *("--trainer.max_steps", steps),
        )
        assert code == 0, err
    code, _, err = zoo_cli("test", "--ckpt_path", "run", *flags)
    assert code == 0, err
    assert sorted(path.name for path in Path().iterdir() if path.name != "cache") == [
        "run",
        "tiny.yaml",
    ]

    written = Path("run/config.yaml").read_text()
    assert str(Path.cwd()) not in written  # the store is where the run is, on any machine
    code, _, err = zoo_cli("fit", "-c", "run/config.yaml", "--run_dir", "cache/new")
    assert code == 0, err

    client = tracking.MlflowClient(f"sqlite:///{Path('run/mlflow.db').absolute()}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "zoo"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run"
    assert run.data.params["lr"] == "0.002"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    with Path("run/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [(point.step, point.value) for point in history] == [
        (int(row["step"]), pytest.approx(float(row["train/loss"]))) for row in rows
    ]
    results = json.loads(Path("run/results.json").read_text())["metrics"]
    assert {name: run.data.metrics[name] for name in results} == results
    kept = [path.path for path in client.list_artifacts(run.info.run_id, "images")]
    assert {path.split("+")[2] for path in kept if path.endswith(".png")} >= {"9"}
    kept = [path.path for path in client.list_artifacts(run.info.run_id, "checkpoints")]
    assert kept == ["checkpoints/last.ckpt"]
