"""A run directory has one owner, and says what it holds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from zoo.cli.run import again_from, started
from zoo.training.claim import LOCK, Claim, InUseError, follow_rank_zero, remove_leftovers
from zoo.untrusted import read_torch

SHORT = ("--trainer.max_steps", 2, "--trainer.limit_val_batches", 0)
HOLD = """
import sys, time
from pathlib import Path
from zoo.training.claim import Claim
claim = Claim(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def owner():
    """Another process that has claimed runs/tiny."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, "runs/tiny"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


def test_a_directory_in_use_is_refused_by_name_or_passed_over(owner, tiny, mistake, zoo_cli):
    for more in ([], ["--ckpt_path", "last"]):
        line = mistake("fit", "-c", tiny, "--run_dir", "runs/tiny", *more)
        assert f"runs/tiny is in use: process {owner.pid} on" in line
    code, _, err = zoo_cli("fit", "-c", tiny, *SHORT)
    assert code == 0, err
    assert Path("runs/tiny-2/checkpoints/last.ckpt").is_file()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    code, _, err = zoo_cli("fit", "-c", tiny, *SHORT)  # the system has released its lock
    assert code == 0, err
    assert Path("runs/tiny/checkpoints/last.ckpt").is_file()
    assert not Path("runs/tiny", LOCK).exists()


def test_a_claim_is_one_process_s_and_not_its_children_s():
    claim = Claim(Path("run"))
    with pytest.raises(InUseError, match=f"run is in use: process {os.getpid()} on"):
        Claim(Path("run"))
    child = os.fork()
    if child == 0:
        claim.release()  # does nothing: it is the parent's
        time.sleep(20)
        os._exit(0)
    time.sleep(0.2)
    assert Path("run", LOCK).is_file()
    claim.release()
    Claim(Path("run")).release()  # though the child lives
    assert not Path("run").exists()  # which only the claim had made
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_other_ranks_follow_rank_zero(monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "1234")
    Path("runs/x").mkdir(parents=True)
    Path("runs/x", LOCK).write_text("1 host /1234///")  # of a launch that was killed
    claim = Claim(Path("runs/x-2"))
    assert follow_rank_zero(iter([Path("runs/x"), Path("runs/x-2")])) == Path("runs/x-2")
    claim.release()
    with pytest.raises(TimeoutError, match="--run_dir"):
        follow_rank_zero(iter([Path("runs/x")]), timeout=0.1)


def test_what_killed_writers_left_goes_at_the_next_start(tiny, zoo_cli):
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in ("checkpoints/.last.ckpt.{}.tmp", ".metrics.csv.{}.tmp", "samples/.a.png.{}.tmp"):
        path = Path("run", name.format(ended.pid))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    kept = [Path("run", f".results.json.{os.getppid()}.tmp"), Path("run/.mine.tmp")]
    for path in kept:
        path.touch()
    Path(f"run/.folder.{ended.pid}.tmp").mkdir()
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "run", *SHORT)
    assert code == 0, err
    assert sorted(Path("run").rglob(".*.tmp")) == sorted(kept)
    remove_leftovers(Path("nowhere"))


def test_a_start_that_fails_leaves_nothing(tiny, mistake, zoo_cli):
    mistake("fit", "-c", tiny, "--run_dir", "deep/run", "--model.channels", 3)
    assert not Path("deep").exists()
    # This one fails in its second step, without a checkpoint.
    mistake("fit", "-c", tiny, "--run_dir", "deep/run", "--model.lr", 1e30, *NO_CLIP)
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "deep/run", *SHORT)
    assert code == 0, err
    assert not Path("deep/run/.unsaved").exists()


NO_CLIP = ("--trainer.gradient_clip_val", "null")


def test_last_begins_afresh_only_where_there_is_no_run(tiny, mistake, zoo_cli):
    fit = ("fit", "-c", tiny, "--run_dir", "run", "--ckpt_path", "last", *SHORT)
    code, _, err = zoo_cli(*fit)
    assert code == 0, err
    assert "run holds no run yet: starting afresh" in err
    last = Path("run/checkpoints/last.ckpt")

    last.rename("run/checkpoints/best.ckpt")
    held = "run holds a run (config.yaml, metrics.csv"
    assert f"{held}, checkpoints/best.ckpt) but no" in mistake(*fit)
    shutil.rmtree("run/checkpoints")
    assert f"{held}) but no checkpoints/last.ckpt" in mistake(*fit)
    Path("run/checkpoints").mkdir()
    last.symlink_to("gone.ckpt")
    assert f"{last} is a link to gone.ckpt, which is not there" in mistake(*fit)
    Path("link").symlink_to("nowhere")
    line = mistake(*fit[:3], "--run_dir", "link", "--ckpt_path", "last")
    assert "link is a link to nowhere, which is not there" in line
    shutil.rmtree("run/checkpoints")

    Path("run/.unsaved").touch()  # as a run that was killed before its first checkpoint
    code, _, err = zoo_cli(*fit)
    assert code == 0, err
    assert "run ended before its first checkpoint: starting afresh" in err
    assert last.is_file()


def test_last_without_a_directory_is_the_newest_run(tiny, mistake, zoo_cli):
    for _ in range(2):
        assert zoo_cli("fit", "-c", tiny, *SHORT)[0] == 0
    Path("runs/tiny-2/checkpoints/last.ckpt").unlink()
    line = mistake("fit", "-c", tiny, "--ckpt_path", "last")
    assert "runs/tiny-2 holds a run" in line


def test_an_end_that_is_behind_is_refused(tiny, mistake, zoo_cli):
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 14)
    assert code == 0, err  # of 12 steps an epoch
    fit = ("fit", "--ckpt_path", "run/checkpoints/last.ckpt")
    line = mistake(*fit, "--trainer.max_steps", 13)
    assert "--trainer.max_steps 13 is below the 14 that run/checkpoints/last.ckpt has done" in line
    line = mistake(*fit, "--trainer.max_steps", -1, "--trainer.max_epochs", 1)
    assert "--trainer.max_epochs 1 is below the 2 that" in line
    before = torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert zoo_cli(*fit, "--trainer.max_steps", 14)[0] == 0
    assert before == torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"]


def test_a_file_that_is_gone_on_from_takes_no_run_of_others_in_silence(tiny, zoo_cli):
    """Without --run_dir it gets a new one; with one, or in its own, what goes is told."""
    assert zoo_cli("fit", "-c", tiny, *SHORT)[0] == 0
    shutil.copy("runs/tiny/checkpoints/last.ckpt", "copy.ckpt")
    before = Path("runs/tiny/checkpoints/last.ckpt").read_bytes()
    more = ("--ckpt_path", "copy.ckpt", *SHORT, "--trainer.max_steps", 3)
    code, _, err = zoo_cli("fit", "-c", tiny, *more)
    assert code == 0, err
    assert "replaced" not in err
    assert Path("runs/tiny-2/checkpoints/last.ckpt").is_file()
    assert Path("runs/tiny/checkpoints/last.ckpt").read_bytes() == before
    code, _, err = zoo_cli("fit", "-c", tiny, *more, "--run_dir", "runs/tiny")
    assert code == 0, err
    assert "runs/tiny/checkpoints/last.ckpt will be replaced" in err


@pytest.mark.parametrize(
    ("arguments", "saved", "again"),
    [
        ("-c x", True, "-c x --run_dir runs/x-2 --ckpt_path last"),
        ("-c x --ckpt_path best", True, "-c x --run_dir runs/x-2 --ckpt_path last"),
        ("-c x --run_dir=a --ckpt_path=b/last.ckpt", True, "-c x --run_dir=a --ckpt_path last"),
        ("-c x --ckpt_path b.ckpt", False, "-c x --ckpt_path b.ckpt"),
        ("-c x --run_dir a", False, "-c x --run_dir a --ckpt_path last"),
    ],
)
def test_a_stopped_run_names_the_command_that_goes_on(monkeypatch, arguments, saved, again):
    """In its own folder, from its own checkpoint, with the packages that were trusted."""
    monkeypatch.setenv("ZOO_RUN_DIR", "runs/x-2")
    monkeypatch.delenv("ZOO_TRUST", raising=False)
    assert again_from("fit", arguments.split(), saved) == f"zoo fit {again}"
    monkeypatch.setenv("ZOO_TRUST", "mine")
    assert again_from("fit", arguments.split(), saved) == f"ZOO_TRUST=mine zoo fit {again}"


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_checkpoint_is_read_once_beside_the_trainer(monkeypatch, tiny, zoo_cli, verb):
    assert zoo_cli("fit", "-c", tiny, *SHORT, "--run_dir", "run")[0] == 0
    read: list[Path] = []
    monkeypatch.setattr(
        "zoo.loading.read_torch",
        lambda path, mmap: read.append(path) or read_torch(path, mmap=mmap),
    )
    code, _, err = zoo_cli(verb, "--ckpt_path", "run", *SHORT[2:], "--trainer.accelerator", "cpu")
    assert code == 0, err
    assert len(read) == 1


@pytest.mark.parametrize(
    ("environment", "program", "command"),
    [
        ({}, "/bin/zoo", "zoo fit -c x --run_dir a --ckpt_path last"),
        ({}, "/x/zoo/cli/__main__.py", "python -m zoo.cli fit -c x --run_dir a --ckpt_path last"),
        (
            {"TORCHELASTIC_RUN_ID": "1", "GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "2"},
            "/bin/zoo",
            "torchrun --standalone --nproc_per_node 2 --no-python zoo fit -c x --run_dir a "
            "--ckpt_path last",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "1", "GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "2"},
            "/x/zoo/cli/__main__.py",
            "torchrun --standalone --nproc_per_node 2 -m zoo.cli fit -c x --run_dir a "
            "--ckpt_path last",
        ),
        (
            {"TORCHELASTIC_RUN_ID": "1", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
            "/bin/zoo",
            "the same command with --run_dir a --ckpt_path last",
        ),
        ({"SLURM_NTASKS": "4"}, "/bin/zoo", "the same command with --run_dir a --ckpt_path last"),
    ],
)
def test_the_command_is_told_as_it_was_started(monkeypatch, environment, program, command):
    for name in ("ZOO_TRUST", "TORCHELASTIC_RUN_ID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"ZOO_RUN_DIR": "a", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", [program])
    assert again_from("fit", ["-c", "x"], True, started()) == command
