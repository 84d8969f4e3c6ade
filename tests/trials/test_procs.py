"""Verbs over two processes, and after a stop, write what one process writes in one go."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.simbert.models import texts, tiny
from zoo.loading import read_checkpoint
from zoo.shards import SPREAD
from zoo.training import parts

TINY_DDPM = {"image_size": 8, "channels": 1, "levels": 17, "timesteps": 20, "width": 8, "groups": 4}
TINY_DDPM |= {"multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "sampler": "ancestral"}


@pytest.fixture
def models(tmp_path):
    """A model of each verb, by its folder."""
    torch.manual_seed(0)
    ddpm = zoo.DDPM(**TINY_DDPM)
    torch.nn.init.normal_(ddpm.net.conv_out.weight, std=0.1)
    vae = zoo.VAE(image_size=8, levels=17, latent_dim=3, hidden=[16])
    for name, model in {"ddpm": ddpm, "vae": vae, "simbert": tiny()}.items():
        zoo.save_pretrained(model, name)
    Path("lines.txt").write_text("\n".join(texts(100, seed=4)) + "\n", encoding="utf-8")


VERBS = {
    "embed": ["embed", "simbert", "-i", "lines.txt", "--batch_size", "2", "-o", "out.npy"],
    "sample": ["sample", "ddpm", "-n", "10", "--batch_size", "3", "--steps", "4", "-o", "out.png"],
    "density": ["density", "vae", "--data", "Digits", "--limit", "25", "--batch_size", "4",
                "--samples", "5", "-o", "out.csv"],
}  # fmt: skip


def torchrun(processes, *arguments, **environment):
    """Runs torchrun with the zoo."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    keep = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "ZOO_RUN_DIR")}
    return subprocess.run(
        [*command, "--standalone", "-m", "zoo.cli", *map(str, arguments)],
        env={**keep, **environment}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_two_processes_write_what_one_writes(verb, models, zoo_cli):
    code, alone, err = zoo_cli(*VERBS[verb])
    assert code == 0, err
    out = Path(VERBS[verb][-1])
    one = out.read_bytes()
    out.unlink()
    done = torchrun(2, *VERBS[verb])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == alone  # of one of them
    assert out.read_bytes() == one
    assert not list(Path().glob("*.parts"))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_was_stopped_goes_on(verb, models, zoo_cli, monkeypatch):
    code, _, err = zoo_cli(*VERBS[verb])
    assert code == 0, err
    out = Path(VERBS[verb][-1])
    one = out.read_bytes()
    out.unlink()
    written = []

    def replacing(path):
        if len(written) == stop and path.suffix == ".pt":
            raise KeyboardInterrupt
        written.append(path)
        return parts_replacing(path)

    parts_replacing = parts.replacing
    monkeypatch.setattr(parts, "replacing", replacing)
    stop = 2
    assert zoo_cli(*VERBS[verb])[0] == 130
    (folder,) = Path().glob("*.parts")
    made = sorted(path.name for path in folder.iterdir())
    assert len(made) == 2
    with (folder / made[1]).open("r+b") as file:  # cut off, as by a machine that went down
        file.truncate(100)
    # Another call, and one with other weights, take no part of it.
    seed = ["--max_length", "9"] if verb == "embed" else ["--seed", "5"]
    for change in (seed, []):
        if not change:
            weights = Path(VERBS[verb][1], "config.json")
            times = weights.stat()
            weights.write_text(weights.read_text() + "\n")
        stop = len(written)
        assert zoo_cli(*VERBS[verb], *change)[0] == 130
        assert len(list(Path().glob("*.parts"))) == 1
    weights.write_text(weights.read_text()[:-1])
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    stop = -1
    before = len(written)
    code, _, err = zoo_cli(*VERBS[verb])
    assert code == 0, err
    again = [path.name for path in written[before:] if path.suffix == ".pt"]
    assert made[0] not in again
    assert made[1] in again
    assert out.read_bytes() == one
    assert not folder.exists()


def test_work_that_is_not_shared_is_done_once(models, zoo_cli, monkeypatch):
    """Two processes would write one file at once."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert zoo_cli("export", "vae", "copy") == (0, "", "")
    assert not Path("copy").exists()
    monkeypatch.setenv("RANK", "0")
    code, _, err = zoo_cli("export", "vae", "copy")
    assert code == 0
    assert "zoo: export is work of one process: the first of 2 does it" in err
    assert Path("copy/model.safetensors").is_file()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("zoo.cli.run._GRACE", 0.0)  # in which the first one would end
    assert zoo_cli("export", "vae")[0] == 2


def test_several_processes_need_a_file(models, mistake, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    os.mkfifo("pipe")
    assert "2 processes need a file to write" in mistake(*VERBS["embed"][:-1], "pipe")
    assert "cannot share standard input" in mistake("embed", "simbert", "-i", "-")


def test_batches_of_another_size_are_equal_to_rounding(models, zoo_cli):
    """Sums of 16 products of one layer in another order: 16 float32 eps of a unit vector, twice."""
    for size, out in ((2, "a.npy"), (7, "b.npy")):
        flags = ["-i", "lines.txt", "--batch_size", size, "-o", out]
        assert zoo_cli("embed", "simbert", *flags)[0] == 0
    a, b = np.load("a.npy"), np.load("b.npy")
    np.testing.assert_allclose(a, b, atol=1e-5)


def state(run_dir):
    return read_checkpoint(Path(run_dir, "checkpoints", "last.ckpt"), keys=SPREAD)


def same(run, other):
    """Two runs have come to the same bits."""
    assert run["global_step"] == other["global_step"]
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        torch.testing.assert_close(run[key], other[key], rtol=0, atol=0)


def test_a_run_in_float64_resumes_to_the_bit(tiny, zoo_cli):
    for run_dir, steps in (("whole", (6,)), ("cut", (3, 6))):
        for step in steps:
            flags = ["--trainer.max_steps", step, "--trainer.precision", "64-true"]
            flags += ["--run_dir", run_dir, "--ckpt_path", "last"]
            code, _, err = zoo_cli("fit", "-c", tiny, *flags)
            assert code == 0, err
    same(state("cut"), state("whole"))


@pytest.mark.slow
def test_a_slurm_job_that_is_stopped_asks_to_go_on(tiny):
    """The sbatch file itself, with an srun that starts one task and an scontrol that notes."""
    for name, line in (
        ("srun", 'exec "$PYTHON" -m zoo.cli "${@:3}"'),
        ("scontrol", 'echo "$@" >> asked.txt'),
    ):
        Path(name).write_text(f"#!/bin/bash\n{line}\n")
        Path(name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    slurm |= {"SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    slurm |= {"SLURM_JOB_NAME": "zoo", "SLURM_NODELIST": "localhost", "SLURM_STEP_NUM_TASKS": "1"}
    environment = {**os.environ, **slurm, "PYTHON": sys.executable}
    environment["PATH"] = f"{Path.cwd()}:{os.environ['PATH']}"
    script = Path(__file__).parents[2] / "docs" / "slurm.sbatch"
    command = ["bash", script, "-c", tiny, "--trainer.max_steps", "60"]

    def job(run_dir, stop):
        process = subprocess.Popen([*command, "--run_dir", run_dir], env=environment)
        if stop:
            last = Path(run_dir, "checkpoints", "last.ckpt")
            while not last.is_file() and process.poll() is None:
                time.sleep(0.01)
            claim = Path(run_dir, ".lock").read_text()
            os.kill(int(claim.split()[0]), signal.SIGTERM)
        return process.wait(timeout=300)

    assert job("whole", stop=False) == 0
    assert not Path("asked.txt").exists()
    assert job("cut", stop=True) == 143
    assert Path("asked.txt").read_text() == "requeue 7\n"
    assert state("cut")["global_step"] < 60
    assert job("cut", stop=False) == 0
    same(state("cut"), state("whole"))


@pytest.mark.long  # what it shows hangs on the moment at which the worker is lost
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_lost_worker_is_started_again(tiny, strategy):
    """Torchrun starts all processes anew, with the same command, and they go on from last.ckpt."""
    clean = ("LOCAL_RANK", "ZOO_RUN_DIR", "RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in clean}

    def run(run_dir, lose):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node=2", "--max_restarts=1", "-m", "zoo.cli", "fit", "-c", tiny]
        command += ["-c", strategy, "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
        command += ["--trainer.max_steps", "60", "--run_dir", run_dir, "--ckpt_path", "last"]
        with Path("log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        last = Path(run_dir, "checkpoints", "last.ckpt")
        while lose and not last.is_file() and process.poll() is None:
            time.sleep(0.01)
        if lose:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            ranks = [(Path(f"/proc/{c}/environ").read_bytes(), int(c)) for c in children.split()]
            os.kill(next(c for text, c in ranks if b"\0RANK=1\0" in text), signal.SIGKILL)
        assert process.wait(timeout=300) == 0, Path("log").read_text()[-3000:]
        return Path("log").read_text()

    assert "Restored all states" not in run("whole", lose=False)
    assert "Restored all states" in run("cut", lose=True)
    same(state("cut"), state("whole"))
