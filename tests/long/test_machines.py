"""Two machines, which are network namespaces of this one: a run, a machine lost, and the rest."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

# In float64 the order of summation is all that differs, and Adam's division makes little of it.
CONFIG = """\
seed_everything: 3
model:
  class_path: zoo.FlashLM
  init_args: {vocab_size: 67, dim: 16, depth: 2, head_size: 16, chunk: 16, lr: 0.01}
data:
  class_path: zoo.data.Text
  init_args: {sequence_length: 32, limit: 20000, batch_size: 4, val_batch_size: 32}
trainer:
  accelerator: cpu
  devices: 1
  precision: 64-true
  max_steps: 60
  gradient_clip_val: 1.0
  limit_val_batches: 2
  val_check_interval: 20
  check_val_every_n_epoch: null
  log_every_n_steps: 5
  enable_progress_bar: false
  enable_model_summary: false
ema: {decay: 0.9}
checkpoint: {every_n_train_steps: 5}
"""
FIT = ["fit", "-c", "c.yaml"]


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def machines():
    """Two namespaces with a cable between them."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root and the command ip")
    names = [f"zoo{os.getpid()}{end}" for end in "ab"]
    cables = [f"z{os.getpid()}{end}" for end in "ab"]  # at most 15 characters
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
            _ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
            for number, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
                _ip("link", "set", cable, "netns", name)
                _ip("-n", name, "addr", "add", f"10.231.7.{number}/24", "dev", cable)
                for device in (cable, "lo"):
                    _ip("-n", name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield list(zip(names, cables, strict=True))
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


STATIC = ("--nnodes=2", "--master_addr=10.231.7.1", "--master_port=29500")
ELASTIC = ("--nnodes=2", "--rdzv_backend=c10d", "--rdzv_endpoint=10.231.7.1:29500", "--rdzv_id=1")


def start(machines, *arguments, how=STATIC, only=(0, 1)):
    """The agents of a run on all machines, or some of them."""
    clean = ("LOCAL_RANK", "ZOO_RUN_DIR", "RANK", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if k not in clean}
    agents = []
    for rank in only:
        name, cable = machines[rank]
        command = [
            *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"),
            *(*how, f"--node_rank={rank}", "--nproc_per_node=1"),
            *(f"--local_addr=10.231.7.{rank + 1}", f"--rdzv_conf=is_host={int(not rank)}"),
            *("-m", "zoo.cli", *arguments),
        ]
        with Path(f"agent{rank}.log").open("a") as log:
            agents.append(
                subprocess.Popen(
                    command,
                    env={**environment, "GLOO_SOCKET_IFNAME": cable},
                    start_new_session=True,
                    stdout=log,
                    stderr=log,
                )
            )
    return agents


def lose(machine, agent):
    """Kills all that runs on a machine."""
    os.killpg(agent.pid, signal.SIGKILL)
    agent.wait()
    pids = subprocess.run(
        ["ip", "netns", "pids", machine[0]], capture_output=True, text=True, check=True
    )
    for process in pids.stdout.split():  # torchrun gives workers sessions of their own
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def ended(agents):
    """Their exit codes; what is still there after five minutes is killed."""
    try:
        return [agent.wait(timeout=300) for agent in agents]
    finally:
        for agent in agents:
            with suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)


def logs():
    return "".join(path.read_text()[-3000:] for path in Path().glob("agent*.log"))


def state(run_dir):
    return torch.load(Path(run_dir, "checkpoints", "last.ckpt"), weights_only=True)


@pytest.mark.long
def test_a_run_on_two_machines_survives_the_loss_of_one(machines):
    Path("c.yaml").write_text(CONFIG)
    two = [*FIT, "-c", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    two += ["--trainer.num_nodes", "2"]
    assert ended(start(machines, *two, "--run_dir", "whole")) == [0, 0], logs()

    agents = start(machines, *two, "--run_dir", "cut")
    last = Path("cut/checkpoints/last.ckpt")
    while not last.is_file() and agents[0].poll() is None:
        time.sleep(0.01)
    lose(machines[1], agents[1])
    codes = ended(agents)
    assert 0 not in codes, logs()
    assert "another process of the run ended" in logs()
    assert state("cut")["global_step"] < 60

    again = start(machines, *two, "--run_dir", "cut", "--ckpt_path", "last")
    assert ended(again) == [0, 0], logs()
    whole, cut = state("whole"), state("cut")
    assert whole["global_step"] == cut["global_step"] == 60
    for key in ("state_dict", "current_model_state", "optimizer_states"):
        torch.testing.assert_close(cut[key], whole[key], rtol=0, atol=0)

    alone = [sys.executable, "-m", "zoo.cli", *FIT, "--run_dir", "one"]
    alone += ["--data.batch_size", "8", "--data.val_batch_size", "64"]
    subprocess.run(alone, check=True, capture_output=True)
    torch.testing.assert_close(state("one")["state_dict"], whole["state_dict"], rtol=0, atol=1e-6)


@pytest.mark.long
def test_the_machine_that_is_left_waits_for_another(machines, monkeypatch):
    Path("c.yaml").write_text(CONFIG)
    two = [*FIT, "-c", "ddp", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    two += ["--trainer.num_nodes", "2", "--ckpt_path", "last"]
    assert ended(start(machines, *two, "--run_dir", "whole")) == [0, 0], logs()
    elastic = (*ELASTIC, "--max_restarts=3")
    # Otherwise torchrun 2.14 tells the new machine no address: it keeps that of the first round.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    agents = start(machines, *two, "--run_dir", "cut", how=elastic)
    last = Path("cut/checkpoints/last.ckpt")
    while not last.is_file() and agents[0].poll() is None:
        time.sleep(0.01)
    lose(machines[1], agents[1])
    time.sleep(20)  # torchrun takes a machine for lost after 15 s without a sign of it
    again = start(machines, *two, "--run_dir", "cut", how=elastic, only=[1])
    assert ended([agents[0], *again]) == [0, 0], logs()
    whole, cut = state("whole"), state("cut")
    for key in ("global_step", "state_dict", "current_model_state", "optimizer_states"):
        torch.testing.assert_close(cut[key], whole[key], rtol=0, atol=0)
