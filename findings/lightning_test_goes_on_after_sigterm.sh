#!/usr/bin/env bash
# A test, validation or prediction by Lightning does not end on SIGTERM
#
# One would guess: kill, `timeout`, `docker stop` or a scheduler's notice ends a trainer.test() as it ends
# any Python program, or at the next batch, as it ends trainer.fit().
#
# True, of lightning 2.6.6: the Trainer takes SIGTERM over for all four, notes it in
# trainer.received_sigterm, and nothing but the loop of fit ever asks for that. The other three log
# "Received SIGTERM" and go on to their end, after which the process exits with 0. What waits for it has to
# send SIGKILL. A handler set in on_test_start, on_validation_start or on_predict_start takes it back.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lightning==2.6.6 torch==2.14.1
"$folder/venv/bin/python" - <<'PYTHON'
import os
import signal
import warnings

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

warnings.simplefilter("ignore")
print("lightning", lightning.__version__, "torch", torch.__version__)


class Stopped(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = 0

    def training_step(self, batch, batch_idx):
        self.batches += 1
        if self.batches == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.weight * batch.mean()

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


found = {}
for verb in ("fit", "validate", "test", "predict"):
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    module = Stopped()
    try:
        getattr(trainer, verb)(module, DataLoader(torch.ones(10, 1)))
        end = "returned"
    except BaseException as error:
        end = type(error).__name__
    found[verb] = module.batches, end, trainer.received_sigterm
    print(f"{verb}: SIGTERM in batch 2 of 10, {module.batches} were done, then {end}")
assert found["fit"][0] == 2 and found["fit"][1] != "returned", found
assert all(found[verb] == (10, "returned", True) for verb in ("validate", "test", "predict")), found
PYTHON
