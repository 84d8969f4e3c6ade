"""Weights spread over two processes learn what they learn otherwise."""

import os
import subprocess
import sys

import pytest
import torch

from zoo.loading import read_checkpoint

NETWORK = "dim: 16, depth: 2, head_size: 16, chunk: 16, lr: 0.01, position_bias: true"
LM = f"""\
model:
  class_path: zoo.FlashLM
  init_args: {{vocab_size: 67, {NETWORK}}}
data:
  class_path: zoo.data.Text
  init_args: {{sequence_length: 32, limit: 20000, batch_size: 4, val_batch_size: 32}}
"""
MLM = f"""\
model:
  class_path: zoo.FlashMLM
  init_args: {{vocab_size: 29, {NETWORK}}}
data:
  class_path: zoo.data.MaskedSentences
  init_args: {{root: pairs.tsv, batch_size: 4, val_batch_size: 32, pool: 1}}
"""
CLASSES = f"""\
model:
  class_path: zoo.FlashMLM
  init_args: {{vocab_size: 30, num_classes: 2, tied: false, {NETWORK}}}
data:
  class_path: zoo.data.MaskedSentences
  init_args: {{root: pairs.tsv, labels: true, batch_size: 4, val_batch_size: 32, pool: 1}}
"""
TRAINER = """\
seed_everything: 3
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
ON_TWO = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]
ALONE = ["--data.batch_size", "8", "--data.val_batch_size", "64"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "other"),
    [
        (LM, ALONE),
        (MLM, ["-c", "ddp", *ON_TWO]),  # the masks are each process's own: DDP draws the same
        pytest.param(CLASSES, ALONE, marks=pytest.mark.long),
        (CLASSES, ["-c", "ddp", *ON_TWO]),
    ],
    ids=["lm", "mlm", "classes", "classes-ddp"],
)
def test_two_processes_with_a_share_each_learn_the_same(config, other, tmp_path):
    rows = [
        f"{chr(97 + i % 26)}bc\t{chr(97 + i % 7)}{chr(97 + i // 7)}\t{i % 2}" for i in range(150)
    ]
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]))
    (tmp_path / "c.yaml").write_text(TRAINER + config)
    runs = {"other": other, "fsdp": ["-c", "fsdp", *ON_TWO]}
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "ZOO_RUN_DIR")}
    weights = {}
    for name, options in runs.items():
        command = [sys.executable, "-m", "zoo.cli", "fit", "-c", "c.yaml", *options]
        done = subprocess.run(
            [*command, "--run_dir", name],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        checkpoint = read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")
        weights[name] = checkpoint["state_dict"]
    assert weights["other"].keys() == weights["fsdp"].keys()
    for key, tensor in weights["other"].items():
        torch.testing.assert_close(weights["fsdp"][key], tensor, rtol=1e-3, atol=2e-5)
