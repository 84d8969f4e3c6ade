import math

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from sklearn.datasets import make_swiss_roll

from zoo.data import PointBatch, Toy2D
from zoo.data.toy2d import draw_points, mixture

NAMES = ["8gaussians", "25gaussians", "swissroll"]


def epochs(data, count):
    loader = data.train_dataloader()
    batches = []
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


# The distributions


def test_eight_gaussians_are_igul222s():
    # gan_toy.py: centers of (1, 0), (1/√2, 1/√2), ...; point = 0.02 randn + 2 center; / 1.414
    s = 1 / math.sqrt(2)
    unit = [(1, 0), (-1, 0), (0, 1), (0, -1), (s, s), (s, -s), (-s, s), (-s, -s)]
    expected = {(round(2 * x / 1.414, 4), round(2 * y / 1.414, 4)) for x, y in unit}
    centres, std = mixture("8gaussians")
    assert {(round(x, 4) + 0.0, round(y, 4) + 0.0) for x, y in centres.tolist()} == expected
    assert std == 0.02 / 1.414


def test_twenty_five_gaussians_are_igul222s():
    # for x in -2..2, y in -2..2: point = 0.05 randn(2) + (2 x, 2 y); / 2.828
    expected = torch.tensor([[2 * x, 2 * y] for x in range(-2, 3) for y in range(-2, 3)]) / 2.828
    centres, std = mixture("25gaussians")
    torch.testing.assert_close(centres, expected)
    assert std == 0.05 / 2.828


@pytest.mark.parametrize("name", NAMES[:2])
def test_modes_have_equal_shares_and_the_stated_moments(name):
    centres, std = mixture(name)
    K, n = len(centres), 200_000
    points, labels, _ = draw_points(name, torch.arange(n), seed=3)
    share = torch.bincount(labels, minlength=K) / n
    assert (share * K - 1).abs().max() < 5 * math.sqrt(K / n)
    for k in range(K):
        own = points[labels == k]
        assert (own.mean(0) - centres[k]).abs().max() < 5 * std / math.sqrt(len(own))
        cov = torch.cov((own - centres[k]).T) / std**2
        assert (cov - torch.eye(2)).abs().max() < 5 * math.sqrt(2 / len(own))


def test_swiss_roll_is_scikit_learns():
    n = 20_000
    ours = draw_points("swissroll", torch.arange(n), seed=0).points.double()
    theirs = make_swiss_roll(n, noise=0.25, random_state=0)[0][:, [0, 2]] / 7.5
    for f in (lambda p: p[:, 0], lambda p: p[:, 1], lambda p: np.linalg.norm(p, axis=1)):
        a, b = np.sort(f(ours.numpy())), np.sort(f(theirs))
        assert np.abs(a - b).mean() < 0.02  # exact W1 on the line; two samples of sklearn: 0.006
    # the arm at angle t is t / 7.5 from the centre: distance and angle agree up to turns
    radius, angle = 7.5 * ours.norm(dim=1), torch.atan2(ours[:, 1], ours[:, 0])
    off = (radius - angle + math.pi) % (2 * math.pi) - math.pi
    assert off.abs().mean() < 0.3


def test_an_unknown_distribution_is_refused():
    with pytest.raises(ValueError, match="'9gaussians': choose one of 8gaussians"):
        Toy2D(name="9gaussians")


# The batches


def test_points_are_a_function_of_their_number():
    whole = draw_points("25gaussians", torch.arange(100), seed=2)
    part = draw_points("25gaussians", torch.tensor([90, 7]), seed=2)
    for a, b in zip(part, whole, strict=True):
        assert torch.equal(a, b[[90, 7]])
    other = draw_points("25gaussians", torch.arange(100), seed=3)
    assert (whole.points != other.points).all()


def test_every_batch_is_fresh_in_every_epoch():
    data = Toy2D(batch_size=10, epoch_size=35, seed=4)
    batches = epochs(data, 3)
    assert len(batches) == 9
    index = torch.cat([b.index for b in batches])
    assert index.tolist() == [e * 35 + i for e in range(3) for i in range(30)]
    assert len(torch.cat([b.points for b in batches]).unique(dim=0)) == 90
    for batch in batches:
        assert isinstance(batch, PointBatch)
        for ours, whole in zip(batch, draw_points("8gaussians", batch.index, seed=4), strict=True):
            assert torch.equal(ours, whole)


def test_the_global_batch_does_not_depend_on_the_number_of_processes(monkeypatch):
    class Trainer:
        world_size, global_rank = 2, 0

    one = epochs(Toy2D(batch_size=8, epoch_size=40), 2)
    shares = []
    for rank in range(2):
        data = Toy2D(batch_size=4, epoch_size=40)
        data.trainer = Trainer()
        data.trainer.global_rank = rank
        shares.append(epochs(data, 2))
    for whole, *parts in zip(one, *shares, strict=True):
        merged = torch.stack([p.points for p in parts], 1).flatten(0, 1)
        assert torch.equal(whole.points, merged)


def test_a_resumed_loader_goes_on_where_it_was():
    batches = epochs(Toy2D(batch_size=4, epoch_size=20), 2)
    loader = Toy2D(batch_size=4, epoch_size=20).train_dataloader()
    loader.load_state_dict({"batches": 3})
    loader.sampler.set_epoch(1)
    rest = list(loader)
    assert len(rest) == 2
    for a, b in zip(rest, batches[8:], strict=True):
        assert torch.equal(a.points, b.points)


def test_held_out_points_are_the_same_for_all_seeds_and_no_training_points():
    a, b = Toy2D(seed=1, val_size=50), Toy2D(seed=8244, val_size=50)
    for split in ("val", "test"):
        assert torch.equal(a.reference_points(split), b.reference_points(split))
        loader = getattr(b, f"{split}_dataloader")()
        assert torch.equal(torch.cat([x.points for x in loader]), b.reference_points(split))
    three = torch.cat([b.reference_points(s) for s in ("train", "val", "test")])
    assert len(three.unique(dim=0)) == 150
    assert torch.equal(b.reference_points("test", 70)[:50], b.reference_points("test"))


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.seen, self.held_out = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch.index.clone())
        return (batch.points @ self.weight).mean()

    def validation_step(self, batch, batch_idx):
        self.held_out.append(batch.index.clone())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_goes_through_the_numbers_in_order():
    data = Toy2D(batch_size=8, epoch_size=24, val_size=20, val_batch_size=16)
    model = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=7,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(model, data)
    assert torch.cat(model.seen).tolist() == list(range(56))
    assert torch.cat(model.held_out).tolist() == list(range(20)) * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "data.batch_size=0: must be 1 or more"),
        ({"val_size": 0}, "data.val_size=0: must be 1 or more"),
        ({"epoch_size": 100}, "data.epoch_size=100: need at least a batch, 256"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Toy2D(**options)
