"""A learning rate that waits for the validation, also for one that a killed run did not do."""

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from zoo.data.loader import epoch_loader
from zoo.training import EMA, Checkpoint, StepRNG
from zoo.training.averages import Averages
from zoo.training.plateau import Plateau


@pytest.mark.parametrize(("patience", "decays"), [(1, 3), (2, 100), (4, 100)])
def test_decays_when_pytorchs_scheduler_does(patience, decays):
    values = np.random.default_rng(0).normal(size=200) - np.linspace(0, 3, 200)
    rates = []
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plateau = Plateau(0.5, patience, decays)
    for step, value in enumerate(values):
        plateau.update(value, step, optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
    other = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        other, factor=0.5, patience=patience - 1, threshold=0.0, min_lr=0.5**decays, eps=0.0
    )
    expected = []
    for value in values:
        theirs.step(value)
        expected.append(other.param_groups[0]["lr"])
    assert rates == expected
    assert len(set(rates)) > 3


def test_validations_of_one_step_count_once_and_those_of_the_warm_up_not_at_all():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plateau = Plateau(0.5, 2, 9)
    for step in range(5):
        plateau.update(float(step), step, optimizer, wait=True)
    assert plateau.waited == 0
    for _ in range(5):
        plateau.update(9.0, 5, optimizer)
    assert plateau.waited == 1
    plateau.update(9.0, 6, optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), float("inf")])
def test_a_metric_that_is_not_finite_is_never_the_best(bad):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plateau = Plateau(0.5, 9, 9)
    for step, value in enumerate((bad, 3.0, bad, 2.0)):
        plateau.update(value, step, optimizer)
    assert plateau.best == 2.0
    assert plateau.waited == 0
    plateau.load({**plateau.save(), "best": float("nan")})
    plateau.update(1.0, 9, optimizer)
    assert plateau.best == 1.0


def test_no_patience_never_decays():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    plateau = Plateau(0.5, 0, 9)
    for step in range(50):
        plateau.update(float(step), step, optimizer)
    assert optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("values", [(1.0, 1, 1), (0.0, 1, 1), (0.5, -1, 1), (0.5, 1, -1)])
def test_values_out_of_range_are_named(values):
    with pytest.raises(ValueError, match=f"lr_decay={values[0]}, lr_patience={values[1]}"):
        Plateau(*values)


class Points:
    def __init__(self, n):
        self.x = torch.randn(n, 3, generator=torch.Generator().manual_seed(n))

    def __len__(self):
        return len(self.x)

    def __getitems__(self, indices):
        return self.x[indices]


class Noisy(L.LightningModule):
    """Its validation goes up and down, so the learning rate falls often."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.plateau = Plateau(0.8, 1, 100)
        self.averages = Averages("val/loss")
        self.validations = []

    def training_step(self, batch):
        return (self.layer(batch) - torch.randn_like(batch)).square().mean()

    def validation_step(self, batch):
        self.averages.add({"val/loss": (self.layer(batch) - batch).square().mean(1)})

    def on_validation_epoch_end(self):
        self.averages.log(self)
        value = float(self.trainer.callback_metrics["val/loss"])
        self.validations.append((self.global_step, value))
        self.plateau.update(value, self.global_step, self.trainer.optimizers[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["plateau"] = self.plateau.save()

    def on_load_checkpoint(self, checkpoint):
        self.plateau.load(checkpoint["plateau"])


class SaveAt(L.Callback):
    """Saves after a step, or after the validation that follows it."""

    def __init__(self, step, after_validation):
        self.step, self.after_validation = step, after_validation

    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == self.step and not self.after_validation:
            trainer.save_checkpoint("at.ckpt")

    def on_validation_end(self, trainer, module):
        if trainer.global_step == self.step and self.after_validation:
            trainer.save_checkpoint("at.ckpt")


def run(callbacks, checkpoint=None, **options):
    torch.manual_seed(0)
    module = Noisy()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
        max_epochs=-1, max_steps=20, **options,
        callbacks=[StepRNG(seed=1), EMA(0.5), *callbacks, Checkpoint()],
    )  # fmt: skip
    loaders = epoch_loader(Points(21), 4, train=True), epoch_loader(Points(7), 4, train=False)
    trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    return module, trainer


EVERY_THIRD_STEP = {"check_val_every_n_epoch": None, "val_check_interval": 3}
EVERY_EPOCH = {}  # of 5 steps
TWICE_AN_EPOCH = {"val_check_interval": 2}


@pytest.mark.parametrize("options", [EVERY_THIRD_STEP, EVERY_EPOCH, TWICE_AN_EPOCH])
@pytest.mark.parametrize("after_validation", [False, True])
def test_resumes_exactly_from_every_step(options, after_validation):
    """Lightning itself leaves out a validation between whose step and itself a run was saved."""
    whole, trainer = run([], **options)
    assert whole.plateau.decays > 1
    steps = (6, 10, 12) if not after_validation else [s for s, _ in whole.validations[1:4:2]]
    for step in steps:
        run([SaveAt(step, after_validation)], **options)
        parts, resumed = run([], checkpoint="at.ckpt", **options)
        for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.equal(a, b), step
        rates = [t.optimizers[0].param_groups[0]["lr"] for t in (trainer, resumed)]
        assert rates[0] == rates[1], step
        assert vars(parts.plateau) == vars(whole.plateau), step
        # Whatever was validated again gave the same number.
        assert set(parts.validations) <= set(whole.validations), step
