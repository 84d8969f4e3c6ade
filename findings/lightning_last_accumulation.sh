#!/usr/bin/env bash
# Lightning 2.6.6, accumulate_grad_batches=8 where an epoch is not a multiple of 8 batches.
# One would guess: the last step of an epoch has the mean gradient of the batches that it has, or these are
# left over, as drop_last does.
# True: it is taken with what there is, still divided by 8. An epoch of 17 batches ends with a step of an
# eighth of the gradient of its one batch: for SGD a step an eighth as long, for Adam moments that take in
# too small a gradient. Nothing is said. It depends on the length of the data set
# and on the number of processes, so that the same recipe has other gradients on two GPUs than on four.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check "lightning==2.6.6" "torch==2.14.1" "numpy==2.2.6"
venv/bin/python - <<'PY'
import logging
import warnings

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")
print("lightning", lightning.__version__, "torch", torch.__version__)


class Slope(lightning.LightningModule):
    """Loss w x with x = 1: the gradient of every batch, and of every mean of batches, is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(1))
        self.gradients: list[float] = []

    def training_step(self, batch: list, batch_idx: int) -> torch.Tensor:
        return (self.w * batch[0]).mean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.gradients.append(self.w.grad.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.w], lr=1.0)


found = {}
for batches in (16, 17, 20):
    model = Slope()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=8, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(TensorDataset(torch.ones(batches, 1)), batch_size=1))
    found[batches] = model.gradients
    print(f"{batches} batches, each of gradient 1: gradients of the steps {model.gradients}")
expected = {16: [1.0, 1.0], 17: [1.0, 1.0, 0.125], 20: [1.0, 1.0, 0.5]}
raise SystemExit(0 if found == expected else "another behaviour")
PY
