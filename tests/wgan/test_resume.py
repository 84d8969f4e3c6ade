"""A WGAN that was stopped and resumed ends with the very bits of one that was not."""

import os
import signal

import pytest
import torch

from tests.test_resume import LAST, PARTS, compare_metrics, differences
from zoo.training import StepRNG

CONFIG = """\
seed_everything: 3
model:
  class_path: zoo.WGAN
  init_args:
    network: dcgan
    image_size: 8
    channels: 1
    num_classes: 10
    latent_dim: 4
    generator_widths: [8, 4]
    critic_widths: [4, 8]
    n_critic: 2
    critic_batch: 8
    lr_schedule: {0: 1.0, 40: 0.0}
data:
  class_path: zoo.data.Digits
  init_args: {batch_size: 16, val_batch_size: 60, flip: true, limit: 200}
trainer:
  accelerator: cpu
  devices: 1
  max_steps: 30
  log_every_n_steps: 5
  val_check_interval: 10
  check_val_every_n_epoch: null
  enable_progress_bar: false
  enable_model_summary: false
ema: {decay: 0.9}
checkpoint: {every_n_train_steps: 7}
"""


@pytest.mark.parametrize("lipschitz", ["gp", "spectral_norm"])
def test_stopped_by_a_signal_and_resumed(lipschitz, tmp_path, zoo_cli, monkeypatch):
    """In the middle of an epoch; noise, order, both optimisers and power iterations go on."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    command = ["fit", "-c", config, "--model.lipschitz", lipschitz]
    code, _, err = zoo_cli(*command, "--run_dir", "whole")
    assert code == 0, err
    original = StepRNG.on_train_batch_start
    sent = []

    def interrupt(self, trainer, module, batch, batch_idx):
        original(self, trainer, module, batch, batch_idx)
        if trainer.global_step == 17 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    monkeypatch.setattr(StepRNG, "on_train_batch_start", interrupt)
    code, _, err = zoo_cli(*command, "--run_dir", "parts")
    assert code == 143, err
    monkeypatch.undo()
    os.chdir(tmp_path)
    stopped = torch.load(f"parts/{LAST}", weights_only=True)
    assert stopped["global_step"] == 18
    assert len(stopped["optimizer_states"]) == 2
    code, _, err = zoo_cli(*command, "--run_dir", "parts", "--ckpt_path", "last")
    assert code == 0, err
    a, b = (torch.load(f"{run}/{LAST}", weights_only=True) for run in ("whole", "parts"))
    assert a["global_step"] == 30
    assert differences({k: a[k] for k in PARTS}, {k: b[k] for k in PARTS}) == []
    compare_metrics("whole", "parts")
