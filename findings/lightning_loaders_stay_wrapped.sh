#!/usr/bin/env bash
# After one error in a DataModule, Lightning blames loaders that worked before it
#
# One would guess: an exception in train_dataloader() or predict_dataloader(), such as a file that is not
# there, leaves nothing behind; with the path mended, the next cell of the notebook runs as it always has.
#
# True, of lightning 2.6.6: while it calls such a hook it replaces __init__ of DataLoader and of all its
# subclasses, and puts them back only where the hook returns. After one that raised, all loaders of the
# process are made by the replaced ones, and predict, which takes a loader apart to build it anew, refuses
# a subclass that it served before: "more than one __init__ argument can be passed to its parent's
# sampler". Only a new process helps (or fit with loaders that need no rebuilding).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lightning==2.6.6 torch==2.14.1
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import lightning
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import DataLoader, SequentialSampler


warnings.simplefilter("ignore")
print("lightning", lightning.__version__, "torch", torch.__version__)
QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


class Named(DataLoader):
    """A loader that takes its sampler second, as many of one's own do."""

    def __init__(self, dataset, sampler, **options):
        super().__init__(dataset, sampler=sampler, **options)


class Repeat(LightningModule):
    def predict_step(self, batch):
        return batch


class Missing(LightningDataModule):
    def predict_dataloader(self):
        raise FileNotFoundError("no such data")


def predicted():
    data = torch.arange(4)
    loader = Named(data, SequentialSampler(data), batch_size=2)
    try:
        return [batch.tolist() for batch in Trainer(**QUIET).predict(Repeat(), loader)]
    except Exception as error:
        return f"{type(error).__name__}: {error}"


own = DataLoader.__init__
first = predicted()
print("at first:", first)
assert first == [[0, 1], [2, 3]] and DataLoader.__init__ is own

try:
    Trainer(**QUIET).predict(Repeat(), Missing())
    raise SystemExit("the DataModule's error was swallowed")
except FileNotFoundError as error:
    print("then predict_dataloader of another DataModule raises:", error)
again = predicted()
print("DataLoader.__init__ is its own:", DataLoader.__init__ is own, "- the first call again:", again[:90])
assert DataLoader.__init__ is not own
assert again.startswith("MisconfigurationException: The Named implementation has an error"), again
PYTHON
