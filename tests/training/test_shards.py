"""Checkpoints of which each process writes a part: on any number of processes, and damaged."""

import errno
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemWriter

import zoo
from zoo.cli import main
from zoo.layers.counter_rng import integers, normal
from zoo.loading import read_checkpoint
from zoo.shards import SPREAD
from zoo.training.checkpoint import Checkpoint
from zoo.untrusted import read_torch

DDPM = """\
model:
  class_path: tests.training.test_shards.Drawn
  init_args: {image_size: 8, channels: 1, levels: 17, timesteps: 20, width: 8, multipliers: [1, 2],
    blocks: 1, attention_levels: [1], groups: 4, dropout: 0.0, lr: 0.002, checkpointing: true,
    sampler: ancestral}
data:
  class_path: zoo.data.Digits
  init_args: {val_batch_size: 60, limit: 200}
"""
SIMBERT = """\
model:
  class_path: zoo.SimBERT
  init_args: {hidden: 18, layers: 2, heads: 3, embedding_size: 8, lr: 0.001, dropout: 0.0,
    attention_dropout: 0.0, vocab_size: 100}
data:
  class_path: zoo.data.SimilarGroups
  init_args: {val_batch_size: 8, val_share: 0.1, test_share: 0.1, max_length: 32}
"""
FLASH = """\
model:
  class_path: tests.training.test_shards.Spare
  init_args: {vocab_size: 67, dim: 16, depth: 2, head_size: 16, chunk: 16, lr: 0.01,
    checkpointing: true}
data:
  class_path: zoo.data.Text
  init_args: {sequence_length: 32, limit: 20000, val_batch_size: 32}
"""

TRAINER = """\
seed_everything: 3
trainer:
  accelerator: cpu
  accumulate_grad_batches: 2
  gradient_clip_val: 0.5
  val_check_interval: 4
  check_val_every_n_epoch: null
  limit_val_batches: 1
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
ema: {decay: 0.5}
checkpoint: {monitor: val/loss, every_n_train_steps: 0, keep_every_n_train_steps: 1}
"""
DRAWN = "tests.training.test_shards.Drawn"
FIT = ["fit", "-c", "c.yaml", "-c", "fsdp", "--trainer.accelerator", "cpu"]
FIT += ["--trainer.devices", 1]
CONFIGS = {"ddpm": DDPM, "simbert": SIMBERT, "flash": FLASH}
OTHERS = ("ddpm", "simbert")


class Spare(zoo.FlashLM):
    """A FlashLM with a parameter that never has a gradient, so that Adam has no state of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.net.spare = nn.Parameter(torch.ones(5, 3))


class Drawn(zoo.DDPM):
    """A DDPM whose noise and times are functions of the image, whatever process has it."""

    def training_step(self, batch, batch_idx):
        images, _, index = batch
        noise = normal(5, index, batch_idx, tuple(images.shape[1:]))
        t = integers(6, index, batch_idx, high=self.hparams.timesteps)
        return self.loss(images, t=t, noise=noise)


def _process(rank, processes, port, arguments, log):
    # Each a machine of its own: this one may have fewer cores.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(processes)}
    os.environ |= {"LOCAL_WORLD_SIZE": "1", "GROUP_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    os.setpgid(0, 0)
    with log.open("a") as stream:
        sys.stdout = sys.stderr = stream
        code = 1
        try:
            code = main([str(a) for a in arguments])
        finally:
            stream.flush()
            os._exit(code)


def launch(processes, *arguments):
    """The zoo on several processes, as torchrun starts them; forks, for they are fast."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    sys.stdout.flush()
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_process, args=(r, processes, port, arguments, Path(f"log{r}")))
        for r in range(processes)
    ]
    for process in ranks:
        process.start()
    return ranks


def run(processes, *arguments):
    ranks = launch(processes, *arguments)
    for process in ranks:
        process.join(timeout=900)  # against a hang alone: a machine may be slow
    logs = "".join(p.read_text()[-3000:] for p in sorted(Path().glob("log*")))
    assert [process.exitcode for process in ranks] == [0] * processes, logs


def fit(processes, run_dir, steps, *more):
    sizes = ["--trainer.num_nodes", processes, "--data.batch_size", 12 // processes]
    go_on = ["--trainer.max_steps", steps, "--run_dir", run_dir, "--ckpt_path", "last"]
    run(processes, *FIT, *sizes, *go_on, *more)


def state(run_dir, name="last"):
    """Weights, averages and optimiser state, whole."""
    checkpoint = read_checkpoint(Path(run_dir, "checkpoints", f"{name}.ckpt"), keys=SPREAD)
    slots = [s for o in checkpoint["optimizer_states"] for s in o["state"].values()]
    return {"step": checkpoint["global_step"], "updates": checkpoint["ema_updates"],
            **{key: checkpoint[key] for key in SPREAD[:2]}, "slots": slots}  # fmt: skip


def same(one, other, atol=0.0):
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.fixture(autouse=True)
def _no_page(monkeypatch):
    """Runs of a few steps make no page."""
    monkeypatch.setattr("zoo.run.has_extra", lambda: False)


@pytest.fixture(params=["flash", *(pytest.param(n, marks=pytest.mark.long) for n in OTHERS)])
def config(request, monkeypatch):
    monkeypatch.setenv("ZOO_TRUST", "tests")
    Path("c.yaml").write_text(TRAINER + CONFIGS[request.param])
    return request.param


@pytest.fixture
def begun(monkeypatch):
    """A fit writes a checkpoint, begun.ckpt, of what it has restored."""
    start = Checkpoint.on_train_start

    def on_train_start(self, trainer, module):
        start(self, trainer, module)
        self.save_last(trainer, "begun.ckpt")

    monkeypatch.setattr(Checkpoint, "on_train_start", on_train_start)


@pytest.mark.slow
def test_shards_go_on_with_any_number_of_processes(config, begun):
    """To the bit on as many as before; on others restored to the bit, with sums in another order.

    Gradients differ then, relatively at most 1e-3 where they are small: three steps of Adam, at
    most lr = 0.01 long each, by 3 * 0.01 * 1e-3 = 3e-5.
    """
    fit(2, "whole", 7)
    fit(2, "cut", 2)
    fit(2, "cut", 4)
    same(state("cut"), state("whole", "step=4"))
    for processes, steps in ((1, 5), (3, 6), (2, 7)):
        before = state("cut")
        fit(processes, "cut", steps)
        same(state("cut", "begun"), before)
        assert len(list(Path("cut/checkpoints/step=5.shards").glob("*.distcp"))) == 1
    whole, cut = state("whole"), state("cut")
    same(cut, whole, 3e-5)
    weights = len(list(zoo.load("whole").parameters()))
    assert len(whole["slots"]) == weights - (config == "flash")


@pytest.mark.slow
def test_a_whole_file_goes_on_in_parts(begun, monkeypatch):
    monkeypatch.setenv("ZOO_TRUST", "tests")
    Path("c.yaml").write_text(TRAINER + FLASH)
    fit(2, "run", 2, "--trainer.strategy.save_distributed_checkpoint", "false")
    assert not list(Path("run/checkpoints").glob("*.shards"))
    before = state("run")
    fit(3, "run", 3)
    same(state("run", "begun"), before)


@pytest.mark.slow
def test_a_kill_or_a_full_disk_inside_a_save_leaves_the_checkpoint_before(monkeypatch):
    Path("c.yaml").write_text(TRAINER + DDPM.replace(DRAWN, "zoo.DDPM"))
    fit(2, "whole", 4)
    fit(2, "cut", 2)
    before, finish = state("cut"), FileSystemWriter.finish

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def killed(self, *args, **kwargs):
        finish(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    arguments = ["--trainer.max_steps", 4, "--run_dir", "cut", "--ckpt_path", "last"]
    for name, act in (("write_data", full), ("finish", killed)):
        with monkeypatch.context() as patched:
            patched.setattr(FileSystemWriter, name, act)
            ranks = launch(2, *FIT, "--trainer.num_nodes", 2, "--data.batch_size", 6, *arguments)
        for process in ranks:
            process.join(timeout=300)
        same(state("cut"), before)
        if act is full:
            last = Path("log0").read_text().splitlines()[-1]
            assert "No space left on device" in last
            assert "cut/checkpoints/" in last
            assert not list(Path("cut/checkpoints").glob(".*.tmp"))
    assert ranks[0].exitcode == -signal.SIGKILL
    assert ranks[1].exitcode == 1
    assert list(Path("cut/checkpoints").glob(".*.tmp"))
    fit(2, "cut", 4)
    same(state("cut"), state("whole"))
    assert not list(Path("cut/checkpoints").glob(".*.tmp"))
    heads = [read_torch(file) for file in Path("cut/checkpoints").glob("*.ckpt")]
    shards = {path.name for path in Path("cut/checkpoints").glob("*.shards")}
    assert shards == {head["shards"]["folder"] for head in heads}


class Opened:
    def __reduce__(self):
        return (os.mkdir, ("opened",))


@pytest.mark.slow
def test_every_verb_takes_shards_and_says_what_is_wrong_with_them(zoo_cli, mistake, monkeypatch):
    # PyTorch's own log of it, which goes nowhere outside of pytest.
    monkeypatch.setattr(logging.getLogger("c10d-NullHandler-dcp_logger"), "disabled", True)
    Path("c.yaml").write_text(TRAINER + DDPM.replace(DRAWN, "zoo.DDPM"))
    fit(2, "run", 2)
    whole = state("run")["state_dict"]
    last = Path("run/checkpoints/last.ckpt")
    folder = last.parent / read_torch(last)["shards"]["folder"]
    shutil.copytree(folder, "alone")
    for path in ("run", last, folder, "alone"):
        same(dict(zoo.load(path).state_dict()), whole)
    (folder / ".metadata").write_bytes(pickle.dumps(Opened()))
    assert zoo_cli("export", "run", "exported")[0] == 0
    same(dict(zoo.load("exported").state_dict()), whole)
    assert zoo_cli("sample", "run", "-n", 1, "--steps", 2, "-o", "out.png")[0] == 0
    best = last.parent / "best.ckpt"
    assert read_torch(best)["shards"]
    flags = ["--trainer.limit_test_batches", 1, "--trainer.accelerator", "cpu"]
    for path in ("run", best):
        code, _, err = zoo_cli("test", "--ckpt_path", path, *flags, "--trainer.devices", 1)
        assert code == 0, err
    assert zoo_cli("export", best, "best")[0] == 0
    same(dict(zoo.load("best").state_dict()), state("run", "best")["state_dict"])
    assert not Path("opened").exists()
    on_one = ["--trainer.max_steps", 3, *FIT[5:], "--data.batch_size", 12]
    code, _, err = zoo_cli(*FIT[:3], *on_one, "--run_dir", "run", "--ckpt_path", "last")
    assert code == 0, err  # without -c fsdp
    assert "shards" not in read_torch(last)

    shard = Path("alone/__1_0.distcp")
    good = shard.read_bytes()
    head = read_torch(Path("alone/meta.pt"))
    part = next(p for k, v in head["shards"]["parts"].items() for p in v
                if k.startswith("state_dict") and p[2] == shard.name)  # fmt: skip
    at = part[3] + part[4] // 2
    other = bytes([good[at] ^ 1])
    for bad, said in ((good[:-50], "cut off"), (good[:at] + other + good[at + 1 :], "damaged")):
        shard.write_bytes(bad)
        for verb in (["export", "alone", "o"], ["sample", "alone", "-n", 1, "-o", "a.png"]):
            line = mistake(*verb)
            assert "alone/__1_0.distcp" in line
            assert said in line
    shard.unlink()
    assert "alone/__1_0.distcp is missing" in mistake("export", "alone", "o")
    for change in (
        {"folder": "../../etc"},
        {"parts": {name: [] for name in head["shards"]["parts"]}},
        {"parts": {name: [[[0], [2**60], "meta.pt", 0, 1]] for name in head["shards"]["parts"]}},
        {"parts": [1]},
    ):
        torch.save({**head, "shards": {**head["shards"], **change}}, "alone/meta.pt")
        assert "alone/meta.pt: " in mistake("export", "alone", "o")
