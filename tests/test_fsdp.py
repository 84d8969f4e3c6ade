"""Weights, averages and a resumed run under FSDP are those of DDP; what cannot be cut says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.loading import read_checkpoint
from zoo.shards import SPREAD

# Without dropout: masks follow the memory's order, which is another one under FSDP.
DDPM = """\
model:
  class_path: zoo.DDPM
  init_args: {image_size: 8, channels: 1, levels: 17, timesteps: 20, width: 8, multipliers: [1, 2],
    blocks: 1, attention_levels: [1], groups: 4, dropout: 0.0, lr: 0.002, checkpointing: true,
    channels_last: true, sampler: ancestral}
data:
  class_path: zoo.data.Digits
  init_args: {batch_size: 8, val_batch_size: 60, limit: 200}
"""
SIMBERT = """\
model:
  class_path: zoo.SimBERT
  init_args: {hidden: 16, layers: 2, heads: 2, embedding_size: 8, lr: 0.001, dropout: 0.0,
    attention_dropout: 0.0, vocab_size: 1000}
data:
  class_path: zoo.data.SimilarGroups
  init_args: {batch_size: 4, val_batch_size: 8, val_share: 0.1, test_share: 0.1, max_length: 32}
"""
TRAINER = """\
seed_everything: 3
trainer:
  accelerator: cpu
  devices: 2
  max_steps: 6
  accumulate_grad_batches: 2
  gradient_clip_val: 0.5
  val_check_interval: 4
  check_val_every_n_epoch: null
  limit_val_batches: 2
  enable_progress_bar: false
  enable_model_summary: false
ema: {decay: 0.5}
"""
ON_TWO = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]


def fit(*arguments):
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "ZOO_RUN_DIR")}
    done = subprocess.run(
        [sys.executable, "-m", "zoo.cli", "fit", *arguments, *ON_TWO],
        env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def weights(run_dir):
    checkpoint = read_checkpoint(Path(run_dir, "checkpoints/last.ckpt"), keys=SPREAD)
    found = {}
    for part in ("state_dict", "current_model_state"):
        found |= {f"{part}/{k}": v for k, v in checkpoint[part].items() if torch.is_tensor(v)}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "shards"), [(DDPM, "false"), (SIMBERT, "true")], ids=["ddpm", "simbert"]
)
def test_fsdp_learns_what_ddp_learns_and_resumes(config, shards):
    """Gradients differ by their order of summation, relatively at most 1e-3 where they are small.

    Six steps of Adam, at most lr = 0.002 long each, differ by 6 * 0.002 * 1e-3 < 2e-5 then; 3e-5
    with the rounding of the weights.
    """
    Path("c.yaml").write_text(TRAINER + config)
    own = ["-c", "c.yaml"]
    fit(*own, "-c", "ddp", "--run_dir", "ddp")
    fsdp = [*own, "-c", "fsdp", "--trainer.strategy.save_distributed_checkpoint", shards]
    fit(*fsdp, "--run_dir", "fsdp")
    assert bool([*Path("fsdp/checkpoints").glob("*.shards")]) == (shards == "true")
    ddp, spread = weights("ddp"), weights("fsdp")
    assert ddp.keys() == spread.keys()
    for name, value in ddp.items():
        torch.testing.assert_close(spread[name], value, rtol=0, atol=3e-5, msg=name)
    fit(*fsdp, "--run_dir", "cut", "--trainer.max_steps", "3")
    fit(*fsdp, "--run_dir", "cut", "--ckpt_path", "last")
    cut = weights("cut")
    for name, value in spread.items():
        torch.testing.assert_close(cut[name], value, rtol=0, atol=0, msg=name)


def test_what_cannot_be_spread_says_so(mistake):
    for flag in ("vae/digits", "wgan/8gaussians-gp"):
        line = mistake("fit", "-c", flag, "-c", "fsdp", "--trainer.accelerator", "cpu",
                       "--trainer.devices", 1)  # fmt: skip
        assert "cannot be spread over processes: use -c ddp" in line
