"""The exact float/uint8 exchange, the flips, and what reaches a model under a Trainer."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from zoo.data import Digits, ImageBatch
from zoo.data.images.base import ImageData, ImageSet, ResidentImages, Split
from zoo.data.images.pixels import coin_flips, to_float, to_uint8
from zoo.layers.seeds import mix


class Ramp(ImageData):
    """Image i is i everywhere but for its first column, so that a flip is visible."""

    channels, size, num_classes = 1, (2, 3), 2

    def load_split(self, split: Split) -> ImageSet:
        size = {"train": 40, "val": 7, "test": 5}[split]
        images = torch.arange(size, dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 2, 3)
        images[..., 0] = 255
        return ResidentImages(images, torch.arange(size) % 2)


class Recorder(pl.LightningModule):
    """Keeps the batches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[str, list[tuple[int, ImageBatch]]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: ImageBatch) -> Tensor:
        self.seen["train"].append((self.current_epoch, batch))
        return self.weight * batch.images.mean()

    def validation_step(self, batch: ImageBatch) -> None:
        self.seen["val"].append((self.current_epoch, batch))

    def test_step(self, batch: ImageBatch) -> None:
        self.seen["test"].append((0, batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**kwargs: Any) -> pl.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(**quiet | kwargs)


def test_every_level_survives_the_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    x = to_float(levels)
    assert x.dtype == torch.float32
    assert x[0] == -1
    assert x[255] == 1
    torch.testing.assert_close(x.double(), levels.double() / 127.5 - 1, rtol=0, atol=1e-7)
    assert torch.equal(to_uint8(x), levels)
    assert torch.equal(to_uint8(x.double()), levels)
    # the reason for the rounding: truncation loses these levels
    assert int((((x + 1) / 2 * 255).to(torch.uint8) != levels).sum()) > 0
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_levels_in_float_stay_as_they_are() -> None:
    levels = torch.arange(17.0)
    assert torch.equal(to_float(levels, 17), torch.linspace(-1, 1, 17))
    assert torch.equal(levels, torch.arange(17.0))
    with pytest.raises(ValueError, match="levels=1"):
        to_float(levels, 1)
    with pytest.raises(ValueError, match=r"images of torch\.uint8: give floats"):
        to_uint8(levels.to(torch.uint8))


def test_seventeen_levels_are_the_nearest_of_256() -> None:
    levels = torch.arange(17, dtype=torch.uint8)
    expected = [round(v * 255 / 16) for v in range(17)]
    assert to_uint8(to_float(levels, 17)).tolist() == expected


def test_coins_are_the_seeds_hash_and_fair() -> None:
    coins = coin_flips(seed=3, epoch=5, size=1000, device="cpu")
    expected = [mix(mix(3, 5) + i) & 1 for i in range(1000)]
    assert coins.tolist() == expected
    many = coin_flips(seed=0, epoch=0, size=100_000, device="cpu").double()
    assert abs(many.mean() - 0.5) < 4 * 0.5 / 100_000**0.5  # 4 standard errors
    other = coin_flips(seed=0, epoch=1, size=100_000, device="cpu").double()
    assert abs(((many - 0.5) * (other - 0.5)).mean()) < 4 * 0.25 / 100_000**0.5


def test_training_images_are_flipped_by_epoch_and_index_and_nothing_else_is() -> None:
    data, model = Ramp(batch_size=8, val_batch_size=4, flip=True, seed=11), Recorder()
    fit = trainer(max_epochs=3, num_sanity_val_steps=0)
    fit.fit(model, datamodule=data)
    fit.test(model, datamodule=data, verbose=False)

    raw = data.split("train").first()
    assert len(model.seen["train"]) == 3 * 5
    for epoch, batch in model.seen["train"]:
        assert batch.images.dtype == torch.float32
        plain = to_float(raw[batch.index])
        coins = coin_flips(11, epoch, 40, "cpu")[batch.index].bool()[:, None, None, None]
        assert torch.equal(batch.images, torch.where(coins, plain.flip(-1), plain))
        assert torch.equal(batch.labels, batch.index % 2)
    for epoch in range(3):
        indices = torch.cat([b.index for e, b in model.seen["train"] if e == epoch])
        assert indices.sort().values.tolist() == list(range(40))

    for name, count in (("val", 7), ("test", 5)):
        batches = [batch for epoch, batch in model.seen[name] if epoch == 0]
        assert torch.cat([b.index for b in batches]).tolist() == list(range(count))
        plain = to_float(data.split(name).first())  # type: ignore[arg-type]
        assert torch.equal(torch.cat([b.images for b in batches]), plain)


def test_loaders_work_without_a_trainer() -> None:
    data = Ramp(batch_size=16, flip=True)
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(b.images) for b in batches] == [16, 16]
    assert batches[0].images.dtype == torch.uint8
    finished = data.on_after_batch_transfer(batches[0])
    assert torch.equal(finished.images, to_float(batches[0].images))


def test_worker_processes_give_the_same_batches() -> None:
    plain, forked = Ramp(batch_size=8), Ramp(batch_size=8, num_workers=1)
    for a, b in zip(plain.train_dataloader(), forked.train_dataloader(), strict=True):
        assert isinstance(b, ImageBatch)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of 41 is larger .* 40 items"):
        Ramp(batch_size=41).train_dataloader()


@pytest.mark.parametrize("name", ["batch_size", "val_batch_size", "limit"])
def test_counts_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"--data.{name}=0: must be 1 or more"):
        Digits(**{name: 0})
