"""Weights & Biases, read back from the offline file: steps, pictures, config, one run."""

import json
import os
import struct
from pathlib import Path

import pytest
import wandb
from wandb.proto import wandb_internal_pb2 as pb


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
