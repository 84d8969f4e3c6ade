import lightning.pytorch as L
import pytest
import torch

from zoo.training.averages import Averages


class Evaluated(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.averages = Averages("val/a", "val/b")
        self.counts = []

    def validation_step(self, batch, batch_idx):
        self.averages.add({"val/a": batch, "val/b": batch**2})

    def on_validation_epoch_end(self):
        self.counts.append(self.averages.log(self))


def test_every_item_counts_once_whatever_the_batches():
    x = torch.arange(7, dtype=torch.float32) + 2**20
    for size in (1, 3, 7):
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
        )
        model = Evaluated()
        loader = torch.utils.data.DataLoader(x, batch_size=size)
        for _ in range(2):  # the second time, nothing is left of the first
            trainer.validate(model, loader, verbose=False)
        logged = {k: v.item() for k, v in trainer.callback_metrics.items()}
        expected = {"val/a": x.double().mean().item(), "val/b": (x.double() ** 2).mean().item()}
        assert logged == pytest.approx(expected, rel=1e-7)
        assert model.counts == [7, 7]
