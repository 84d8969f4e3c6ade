#!/usr/bin/env bash
# A prediction by Lightning does not end on SIGTERM, nor does a test whose batches are done
#
# One would guess: kill, `timeout`, `docker stop` or a scheduler's notice ends trainer.predict() as it ends
# any Python program, or after the batch, as it ends trainer.fit(), validate() and test().
#
# True, of lightning 2.6.6: the Trainer takes SIGTERM over for all four and notes it in
# trainer.received_sigterm. The loops of fit, validate and test ask for that after a batch; that of predict
# never does: it goes on to its end and returns, with what it was asked to stop still noted. So does a test
# that is signalled after its last batch, as in a metric computed in on_test_epoch_end. What waits for the
# process has to send SIGKILL. A handler set in on_predict_start or on_test_start takes the signal back.
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
    def __init__(self, when):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.when, self.batches = when, 0

    def training_step(self, batch, batch_idx):
        self.batches += 1
        if self.batches == self.when:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.weight * batch.mean()

    validation_step = test_step = predict_step = training_step

    def on_test_epoch_end(self):
        if self.when is None:
            os.kill(os.getpid(), signal.SIGTERM)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def ended(verb, when):
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    module = Stopped(when)
    try:
        getattr(trainer, verb)(module, DataLoader(torch.ones(10, 1)))
        end = "returned"
    except BaseException as error:
        end = type(error).__name__
    assert trainer.received_sigterm
    print(f"{verb}, SIGTERM in batch {when or 'none, but after the last'}: {module.batches} of 10 done, {end}")
    return module.batches, end


for verb in ("fit", "validate", "test"):
    assert ended(verb, 2) == (2, "SIGTERMException")
assert ended("predict", 2) == (10, "returned")
assert ended("test", None) == (10, "returned")
PYTHON
