"""Weights, averages and a resumed run under FSDP are those of DDP; what cannot be cut says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# In float64, as Adam's division makes of the order of a sum's terms what it likes in float32.
DDPM = """\
model:
  class_path: zoo.DDPM
  init_args: {image_size: 8, channels: 1, levels: 17, timesteps: 20, width: 8, multipliers: [1, 2],
    blocks: 1, attention_levels: [1], groups: 4, dropout: 0.1, lr: 0.002, checkpointing: true,
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
    checkpoint = torch.load(Path(run_dir, "checkpoints/last.ckpt"), weights_only=True)
    found = {}
    for part in ("state_dict", "current_model_state"):
        found |= {f"{part}/{k}": v for k, v in checkpoint[part].items() if torch.is_tensor(v)}
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "precision", "close"),
    [(DDPM, "64-true", 1e-9), (SIMBERT, "32-true", 2e-5)],
    ids=["ddpm", "simbert"],
)
def test_fsdp_learns_what_ddp_learns_and_resumes(config, precision, close):
    Path("c.yaml").write_text(TRAINER + config)
    own = ["-c", "c.yaml", "--trainer.precision", precision]
    fit(*own, "-c", "ddp", "--run_dir", "ddp")
    fit(*own, "-c", "fsdp", "--run_dir", "fsdp")
    ddp, fsdp = weights("ddp"), weights("fsdp")
    assert ddp.keys() == fsdp.keys()
    for name, value in ddp.items():
        torch.testing.assert_close(fsdp[name], value, rtol=0, atol=close, msg=name)
    fit(*own, "-c", "fsdp", "--run_dir", "cut", "--trainer.max_steps", "3")
    fit(*own, "-c", "fsdp", "--run_dir", "cut", "--ckpt_path", "last")
    cut = weights("cut")
    for name, value in fsdp.items():
        torch.testing.assert_close(cut[name], value, rtol=0, atol=0, msg=name)


def test_what_cannot_be_spread_says_so(mistake):
    for flag in ("vae/digits", "wgan/8gaussians-gp"):
        line = mistake("fit", "-c", flag, "-c", "fsdp", "--trainer.accelerator", "cpu",
                       "--trainer.devices", 1)  # fmt: skip
        assert "cannot be spread over processes: use -c ddp" in line
