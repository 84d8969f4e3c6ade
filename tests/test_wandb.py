"""Weights & Biases, read back from the offline file: steps, pictures, config, one run."""

import csv
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb
import yaml
from wandb.proto import wandb_internal_pb2 as pb

from tests.wandb_server import serving


def records(path):
    """The protobuf records of a .wandb file, which is a LevelDB-style log."""
    data, pos, buffer = Path(path).read_bytes(), 7, b""
    while pos + 7 <= len(data):
        left = 32768 - pos % 32768
        if left < 7:
            pos += left
            continue
        _, size, kind = struct.unpack("<IHB", data[pos : pos + 7])
        pos += 7
        if kind == 0:
            return
        chunk, pos = data[pos : pos + size], pos + size
        buffer = chunk if kind in (1, 2) else buffer + chunk
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(buffer)
            yield record


def read_run(folder):
    """Run id, history rows and config of one offline run."""
    wandb.teardown()  # `finish` does not wait until the service has closed its file
    (file,) = Path(folder).glob("*.wandb")
    run, rows, config = None, [], {}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run.run_id
            for item in record.run.config.update:
                config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "config":
            for item in record.config.update:
                config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "history":
            rows.append(
                {
                    i.key or "/".join(i.nested_key): json.loads(i.value_json)
                    for i in record.history.item
                }
            )
    return run, rows, config


@pytest.fixture(autouse=True)
def _finish():
    yield
    wandb.teardown()


def offline_runs(run_dir="run"):
    return sorted(Path(run_dir, "wandb").glob("offline-run-*"))


@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_an_offline_run_holds_everything_and_is_continued(tiny, zoo_cli):
    flags = ["-c", tiny, "-c", "wandb", "--run_dir", "run", "--samples.n", 4]
    code, _, err = zoo_cli("fit", *flags, "--trainer.max_steps", 20)
    assert code == 0, err
    (folder,) = offline_runs()
    run, rows, config = read_run(folder)

    losses = [row["trainer/global_step"] for row in rows if "train/loss" in row]
    assert losses == [4, 9, 14, 19]  # every fifth step, counted from 0
    assert [row["trainer/global_step"] for row in rows if "val/loss" in row] == [9, 19]
    pictures = [row for row in rows if any(key.split("/")[0] == "samples" for key in row)]
    assert [row["trainer/global_step"] for row in pictures] == [9, 19]
    assert len(list((folder / "files/media/images").glob("*.png"))) == 2

    assert config["lr"] == 0.002  # the model's arguments
    assert config["zoo"]["data"]["init_args"]["flip"] is True  # and all the rest
    assert config["zoo"]["trainer"]["gradient_clip_val"] == 1.0
    assert config["zoo"]["ema"]["decay"] == 0.9

    code, _, err = zoo_cli("fit", *flags, "--ckpt_path", "last")
    assert code == 0, err
    again = offline_runs()
    assert len(again) == 2
    second = next(f for f in again if f != folder)
    run_again, rows, _ = read_run(second)
    assert run_again == run
    assert [row["trainer/global_step"] for row in rows if "train/loss" in row] == [24, 29]


@pytest.mark.filterwarnings("ignore")
def test_two_processes_make_one_run(tiny, zoo_cli):
    flags = ["--trainer.devices", 2, "--trainer.strategy", "ddp_fork", "--trainer.max_steps", 5]
    code, _, err = zoo_cli("fit", "-c", tiny, "-c", "wandb", "--run_dir", "run", *flags)
    assert code == 0, err
    assert len(offline_runs()) == 1


@pytest.mark.filterwarnings("ignore")
def test_without_a_key_it_goes_offline_and_says_how_to_sync(tiny, zoo_cli, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", os.getcwd())  # no key in a .netrc
    flags = ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--run_dir", "run"]
    code, _, err = zoo_cli("fit", "-c", tiny, "-c", "wandb", *flags)
    assert code == 0, err
    assert "wandb sync run/wandb" in err
    assert len(offline_runs()) == 1


def test_a_bad_key_is_one_line_that_says_how_to_go_without(tiny, mistake, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    flags = ["--trainer.max_steps", 1, "--run_dir", "run"]
    line = mistake("fit", "-c", tiny, "-c", "wandb", *flags)
    assert "WANDB_API_KEY invalid" in line
    assert "WANDB_MODE=offline" in line


def history(run_dir):
    """What was logged of which step, of all parts of an offline run, and in which order."""
    rows = []
    for part in offline_runs(run_dir):
        _, found, _ = read_run(part)
        rows += [(row["_step"], row["trainer/global_step"], row) for row in found]
    return rows


DYING = """
import os, signal, sys, time
from zoo.cli.run import guarded
from zoo.training.samples import SampleGrid
def die(self, trainer, *args):
    if trainer.global_step == 25:
        time.sleep(1)  # W&B's file has all that was logged, also behind the checkpoint
        os.kill(os.getpid(), signal.SIGKILL)
SampleGrid.on_train_batch_end = die
guarded("fit", sys.argv[1:])
"""


@pytest.mark.slow
def test_a_second_run_of_a_process_is_written_where_it_is(tiny, zoo_cli, monkeypatch, tmp_path):
    """W&B's own process, which the first run has begun, stays in the folder of that one."""
    for name in ("first", "second"):
        Path(tmp_path, name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        small = ["--trainer.max_steps", 2, "--trainer.limit_val_batches", 0]
        code, _, err = zoo_cli("fit", "-c", tiny, "-c", "wandb", "--run_dir", "run", *small)
        assert code == 0, err
    wandb.teardown()
    found = [path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.wandb")]
    assert sorted(found) == ["first", "second"]
    [logger] = yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["logger"]
    own = logger["init_args"]
    assert (own["save_dir"], own["name"]) == (".", None)  # nothing of this machine, or this run


@pytest.mark.slow
def test_a_killed_run_goes_on_as_one_history(tiny):
    """Both parts are what metrics.csv has: in order, each row once. So is what `sync` sends."""
    flags = ["-c", str(tiny), "-c", "wandb", "--run_dir", "run", "--samples.n", "4"]
    flags += ["--trainer.log_every_n_steps", "1", "--checkpoint.every_n_train_steps", "7"]
    command = [sys.executable, "-c", DYING, *flags]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    (part,) = offline_runs()
    steps = [row["trainer/global_step"] for row in read_run(part)[1]]
    assert max(steps) > 20  # behind the checkpoint, which is of 21 steps
    command = [sys.executable, "-m", "zoo.cli", "fit", *flags, "--ckpt_path", "last"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert len(offline_runs()) == 2
    assert len({read_run(part)[0] for part in offline_runs()}) == 1
    found = history("run")
    assert [number for number, _, _ in found] == list(range(len(found)))
    steps = [step for _, step, _ in found]
    assert steps == sorted(steps)
    with Path("run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("train/loss", "val/loss"):
        logged = [(step, row[name]) for _, step, row in found if name in row]
        expected = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        assert logged == [(step, pytest.approx(value)) for step, value in expected]
    assert [step for _, step, row in found if "samples/_type" in row] == [9, 19, 29]
    assert synced() == [row for _, _, row in found]


def synced():
    """The history that a server has after `wandb sync run/wandb`, as the run says to type."""
    with serving() as server:
        keys = {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40, "HOME": os.getcwd()}
        command = [sys.executable, "-m", "wandb", "sync", "run/wandb"]
        environment = {**os.environ, **keys, "WANDB_MODE": "online", "WANDB_SILENT": "false"}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert told.returncode == 0, told.stderr
        assert server.faults == []
        ((run, lines),) = server.histories.items()
        assert server.ended == [run, run], told.stderr  # both parts
        return [flat(json.loads(line)) for line in lines]


def flat(row):
    """A row whose dictionaries are spread over names with a slash, as its file has them."""
    nested = {name for name, value in row.items() if isinstance(value, dict)}
    spread = {f"{name}/{key}": row[name][key] for name in nested for key in row[name]}
    return {name: value for name, value in row.items() if name not in nested} | spread


@pytest.mark.filterwarnings("ignore")
def test_results_go_into_the_summary_and_checkpoints_are_artifacts(tiny, zoo_cli):
    flags = ["-c", "wandb", "--run_dir", "run"]
    code, _, err = zoo_cli(
        *("fit", "-c", tiny, *flags, "--trainer.max_steps", 10),
        *("--checkpoint.artifacts", "true", "--checkpoint.monitor", "val/loss"),
    )
    assert code == 0, err
    (fitted,) = offline_runs()
    wandb.teardown()
    sent = [r.artifact for r in records(next(fitted.glob("*.wandb"))) if r.HasField("artifact")]
    names = {(artifact.type, artifact.name.partition("-")[2]) for artifact in sent}
    assert names == {("model", "last"), ("model", "best")}
    paths = {entry.path for artifact in sent for entry in artifact.manifest.contents}
    assert paths == {"last.ckpt", "best.ckpt"}
    time.sleep(1)  # a part's folder is named by the second

    code, _, err = zoo_cli("test", "--ckpt_path", "run", *flags)
    assert code == 0, err
    tested = next(part for part in offline_runs() if part != fitted)
    assert read_run(tested)[:2] == (read_run(fitted)[0], [])
    summary = {}
    for record in records(next(tested.glob("*.wandb"))):
        for item in record.summary.update:
            summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    results = json.loads(Path("run/results.json").read_text())
    assert {name: summary[name] for name in results["metrics"]} == results["metrics"]
    assert summary["test/step"] == 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("recipe", "columns"),
    [
        ("simbert/demo", ["sentence", "paraphrase", "similarity"]),
        ("vae/text-shakespeare", ["text"]),
    ],
)
def test_texts_are_tables(recipe, columns, zoo_cli):
    small = ["--trainer.max_steps", 2, "--trainer.limit_val_batches", 1, "--samples.n", 3]
    small += ["--trainer.val_check_interval", 2, "--trainer.accelerator", "cpu"]
    code, _, err = zoo_cli("fit", "-c", recipe, "-c", "wandb", "--run_dir", "run", *small)
    assert code == 0, err
    (part,) = offline_runs()
    _, rows, _ = read_run(part)
    (row,) = [row for row in rows if "samples/_type" in row]
    assert row["samples/_type"] == "table-file"
    table = json.loads((part / "files" / row["samples/path"]).read_text())
    assert table["columns"] == columns
    (file,) = Path("run/samples").glob("*.tsv")
    head, *lines = file.read_text().splitlines()
    assert head.split("\t") == columns
    assert [[" ".join(str(c).split()) for c in row] for row in table["data"]] == [
        line.split("\t") for line in lines
    ]
    assert lines
