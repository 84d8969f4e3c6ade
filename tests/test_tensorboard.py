"""`-c tensorboard`: what metrics.csv has, in one folder, beside other loggers."""

import csv
import json
from pathlib import Path

import pytest


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


def test_it_comes_beside_other_loggers(zoo_cli):
    code, out, err = zoo_cli(
        "fit", "-c", "ddpm/digits", "-c", "wandb", "-c", "tensorboard", "--print_config"
    )
    assert code == 0, err
    assert out.index("WandbLogger") < out.index("TensorBoardLogger")
