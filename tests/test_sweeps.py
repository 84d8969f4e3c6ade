"""`wandb sweep`'s files: W&B's own parser and schema take them, and a run begins with each."""

import csv
from pathlib import Path

import pytest
from wandb.sdk.launch.sweeps import utils

from zoo.recipes import config_root, list_configs, list_files

FILES = sorted((config_root() / "sweeps").glob("*.yaml"))


def commands(config):
    """What W&B's agent runs for the first and the last value of each parameter."""
    for end in (0, -1):
        values = {
            name: {"value": next((p[k] for k in ("value", "min", "values") if k in p), None)}
            for name, p in config["parameters"].items()
        }
        for name, parameter in config["parameters"].items():
            if "values" in parameter:
                values[name]["value"] = parameter["values"][end]
            elif end and "max" in parameter:
                values[name]["value"] = parameter["max"]
        made = utils.create_sweep_command_args({"args": values})
        made |= {"env": ["/usr/bin/env"], "program": [config["program"]]}
        command = utils.create_sweep_command(config["command"])
        yield [
            word
            for part in command
            for word in (made[part[2:-1]] if part.startswith("${") else [part])
        ]


def test_there_are_some_and_they_are_no_recipes():
    assert FILES
    assert not [name for name in (*list_files(), *list_configs()) if "sweeps/" in name]


@pytest.mark.filterwarnings("ignore")  # W&B's parser leaves the file open
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_wandb_takes_it(file):
    sweeps = pytest.importorskip("sweeps")
    config = utils.load_sweep_config(str(file))
    assert sweeps.schema_violations_from_proposed_config(config) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # wandb's own
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_run_of_it_begins_and_logs_what_is_searched_for(file, zoo_cli):
    config = utils.load_sweep_config(str(file))
    for number, command in enumerate(commands(config)):
        assert command[:3] == ["/usr/bin/env", "zoo", "fit"]
        short = ["--trainer.max_steps", 2, "--trainer.val_check_interval", 2, "--samples.n", 0]
        short += ["--quality.samples", 0, "--run_dir", f"run{number}"]
        code, _, err = zoo_cli(*command[2:], *short)
        assert code == 0, err
        with Path(f"run{number}/metrics.csv").open() as rows:
            assert config["metric"]["name"] in next(csv.reader(rows))
