"""Weights spread over two processes learn what one process learns."""

import os
import subprocess
import sys

import pytest
import torch

CONFIG = """\
seed_everything: 3
model:
  class_path: zoo.FlashLM
  init_args:
    {vocab_size: 67, dim: 16, depth: 2, head_size: 16, chunk: 16, lr: 0.01, position_bias: true}
data:
  class_path: datamodules.Text
  init_args: {sequence_length: 32, batch_size: 8, limit: 20000, val_batch_size: 64}
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 6
  gradient_clip_val: 1.0
  limit_val_batches: 2
  val_check_interval: 3
  check_val_every_n_epoch: null
  enable_progress_bar: false
  enable_model_summary: false
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    more = ["-c", "fsdp", "--trainer.accelerator", "cpu", "--trainer.devices", "2"]
    runs = {"one": [], "two": [*more, "--data.batch_size", "4", "--data.val_batch_size", "32"]}
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "ZOO_RUN_DIR")}
    weights = {}
    for name, options in runs.items():
        command = [sys.executable, "-m", "zoo.cli", "fit", "-c", "c.yaml", *options]
        done = subprocess.run(
            [*command, "--run_dir", name],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        checkpoint = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        weights[name] = checkpoint["state_dict"]
    assert weights["one"].keys() == weights["two"].keys()
    for key, tensor in weights["one"].items():
        torch.testing.assert_close(weights["two"][key], tensor, rtol=1e-3, atol=2e-5)
