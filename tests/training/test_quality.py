"""The callback's numbers are those of the metrics, whatever the number of processes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.data import Digits, ImageBatch, ImageFolder
from zoo.data.images.base import ResidentImages
from zoo.data.images.pixels import to_float, to_uint8
from zoo.metrics.features import ASSETS, load_extractor
from zoo.metrics.frechet import FeatureMoments, frechet_distance
from zoo.metrics.kernel import kernel_distance
from zoo.metrics.manifold import manifold_metrics
from zoo.metrics.quality import SampleQuality
from zoo.untrusted import sha256

NAMES = ("frechet_distance", "kid", "precision", "recall", "density", "coverage")


class Stored(pl.LightningModule):
    """'Samples' are the images it was given, one after the other."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.images = [images]  # in a list: not a buffer
        self.drawn: list[tuple[int, int]] = []

    def sample(self, n: int, *, seed: int = 0, first: int = 0) -> Tensor:
        assert seed == 7
        self.drawn.append((first, n))
        return self.images[0][first : first + n].to(self.device)

    def training_step(self, batch: ImageBatch) -> Tensor:
        return self.weight * batch.images.mean()

    def validation_step(self, batch: ImageBatch) -> None:
        pass

    def test_step(self, batch: ImageBatch) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture(autouse=True)
def _clean_process() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    if dist.is_initialized():
        dist.destroy_process_group()


def trainer(callback: SampleQuality | None = None, **kwargs: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "callbacks": [callback] if callback else [],
    }
    return pl.Trainer(**quiet | kwargs)


def expected(real: Tensor, fake: Tensor, seed: int) -> dict[str, float]:
    extractor = load_extractor("digits-net")
    features = [extractor(images) for images in (real, fake)]
    moments = [FeatureMoments(64), FeatureMoments(64)]
    for moment, x in zip(moments, features, strict=True):
        moment.update(x)
    values = {
        "frechet_distance": frechet_distance(*moments),
        "kid": kernel_distance(*features, seed=seed)[0],
        **manifold_metrics(*features, k_precision=3, k_density=5)._asdict(),
    }
    return {name: float(value) for name, value in values.items()}


def images(count: int = 100) -> Tensor:
    return to_float(Digits().reference_images("val", count))


def quality(**kwargs: Any) -> SampleQuality:
    defaults = {"extractor": "digits-net", "samples": 100, "batch_size": 32, "seed": 7}
    return SampleQuality(**defaults | kwargs)


def close(ours: dict[str, Any], theirs: dict[str, float], prefix: str) -> None:
    for name in NAMES:
        value = float(ours[f"{prefix}/{name}"])
        assert value == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


def test_the_numbers_are_those_of_the_metrics_and_so_is_the_baseline() -> None:
    data, model = Digits(), Stored(images())
    logged = trainer(quality()).test(model, datamodule=data, verbose=False)[0]
    test = data.reference_images("test")
    close(logged, expected(test, data.reference_images("val", 100), 7), "test")
    close(logged, expected(test, data.reference_images("train", 100), 7), "baseline")
    assert model.drawn == [(0, 32), (32, 32), (64, 32), (96, 4)]


class FewDigits(Digits):
    """So many test images only, and training images."""

    counts: ClassVar[dict[str, int]] = {}

    def load_split(self, split: Any) -> Any:
        whole = super().load_split(split)
        count = self.counts.get(split, len(whole))
        return ResidentImages(whole.images[:count], whole.labels[:count])


@pytest.mark.parametrize(
    ("test", "train", "names", "baseline"),
    [(4, 100, 2, 2), (1, 100, 0, 0), (100, 0, 6, 0), (100, 3, 6, 2), (100, 6, 6, 6)],
)
def test_numbers_that_need_more_images_are_left_out_by_name(
    test: int, train: int, names: int, baseline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FewDigits, "counts", {"test": test, "train": train})
    callback, data = quality(), FewDigits()
    logged = trainer(callback).test(Stored(images()), datamodule=data, verbose=False)[0]
    for group, count in (("test", names), ("baseline", baseline)):
        assert {n for n in NAMES if f"{group}/{n}" in logged} == set(NAMES[:count])
        said = callback.protocol().get(f"left out of {group}", "")
        assert all(f"{name} (needs" in said for name in NAMES[count:])
        assert not any(f"{name} (needs" in said for name in NAMES[:count])
    if names == 2:  # the right values
        extractor = load_extractor("digits-net")
        real = extractor(data.reference_images("test"))
        fake = extractor(to_uint8(images()))
        kid = kernel_distance(real, fake, seed=7)[0]
        assert logged["test/kid"] == pytest.approx(float(kid), rel=1e-4, abs=1e-5)


def test_real_images_as_samples_are_perfect() -> None:
    model = Stored(to_float(Digits().reference_images("test")))
    logged = trainer(quality(samples=360)).test(model, datamodule=Digits(), verbose=False)[0]
    assert logged["test/frechet_distance"] < 1e-4
    assert [logged[f"test/{name}"] for name in ("precision", "recall", "coverage")] == [1, 1, 1]
    assert logged["test/kid"] <= 0  # unbiased: below zero for equal sets
    assert logged["baseline/frechet_distance"] > logged["test/frechet_distance"]


@pytest.mark.parametrize("samples", [101, 64])
def test_two_processes_give_the_numbers_of_one(samples: int) -> None:
    one, two = Stored(images(101)), Stored(images(101))
    reference = trainer(quality(samples=samples)).test(one, datamodule=Digits(), verbose=False)[0]
    parallel = trainer(
        quality(samples=samples), strategy="ddp_fork", devices=2, use_distributed_sampler=False
    )
    logged = parallel.test(two, datamodule=Digits(), verbose=False)[0]
    assert set(logged) == set(reference)
    for name, value in reference.items():
        assert logged[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_validation_is_judged_if_asked_and_sanity_checks_are_not() -> None:
    model, data = Stored(images()), Digits(limit=256)
    for callback, count in ((quality(validate=True), 2), (quality(), 0)):
        model.drawn.clear()
        fit = trainer(callback, max_epochs=2, num_sanity_val_steps=1)
        fit.fit(model, datamodule=data)
        assert len(model.drawn) == 4 * count
        assert ("val/kid" in fit.callback_metrics) == bool(count)
    fit = trainer(quality(validate=True))
    logged = fit.validate(model, datamodule=data, verbose=False)[0]
    val = data.reference_images("val")
    close(logged, expected(val, data.reference_images("val", 100), 7), "val")


def test_it_may_compare_with_training_images() -> None:
    data, model = Digits(), Stored(images())
    callback = quality(reference="train")
    logged = trainer(callback).test(model, datamodule=data, verbose=False)[0]
    train = data.reference_images("train")
    close(logged, expected(train, data.reference_images("val", 100), 7), "test")
    close(logged, expected(train, data.reference_images("test", 100), 7), "baseline")
    assert callback.protocol()["real"] == "1257 images of train"


def test_the_protocol_says_how_the_numbers_were_made() -> None:
    callback = quality()
    assert callback.protocol() == {}
    trainer(callback).test(Stored(images()), datamodule=Digits(), verbose=False)
    assert callback.protocol() == {
        "extractor": "digits-net",
        "extractor_sha256": sha256(ASSETS / "digits-net.safetensors"),
        "resize": "bilinear with antialiasing to 8x8",
        "rounding": "to the nearest of 256 levels",
        "real": "360 images of test",
        "generated": "100",
        "baseline": "100 images of train",
        "seed": "7",
        "kid": "whole sets",
        "neighbours": "3 (precision, recall), 5 (density, coverage)",
    }


@pytest.mark.parametrize("kwargs", [{"extractor": None}, {"samples": 0}])
def test_it_does_nothing_unless_asked(kwargs: dict[str, Any]) -> None:
    model = Stored(images())
    logged = trainer(quality(**kwargs)).test(model, datamodule=Digits(), verbose=False)
    assert logged == [{}]
    assert model.drawn == []


def test_the_extractor_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    model = Stored(images())
    fit = trainer(quality(validate=True), max_epochs=1, num_sanity_val_steps=0)
    fit.fit(model, datamodule=Digits(limit=256))
    fit.save_checkpoint(tmp_path / "x.ckpt")
    assert list(torch.load(tmp_path / "x.ckpt")["state_dict"]) == ["weight"]
    assert [name for name, _ in model.named_modules()] == [""]


class Mute(Stored):
    sample = None  # type: ignore[assignment]


def test_mistakes_end_before_anything_is_drawn(tmp_path: Path) -> None:
    model = Stored(images())
    loader = DataLoader(torch.zeros(2, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no reference_images.* instead of NoneType"):
        trainer(quality()).test(model, dataloaders=loader, verbose=False)
    with pytest.raises(ValueError, match=r"Mute has no sample\(n, seed=, first=\) to judge"):
        trainer(quality()).test(Mute(images()), datamodule=Digits(), verbose=False)
    with pytest.raises(ValueError, match="samples must be more than the 5 neighbours, got 5"):
        trainer(quality(samples=5)).test(model, datamodule=Digits(), verbose=False)
    from PIL import Image

    for i in range(30):
        Image.new("RGB", (8, 8), (8 * i, 0, 0)).save(tmp_path / f"{i}.png")
    colour = ImageFolder(root=str(tmp_path), size=8)
    with pytest.raises(ValueError, match=r"digits-net takes images with 1 channel, these have 3"):
        trainer(quality()).test(model, datamodule=colour, verbose=False)
    with pytest.raises(ValueError, match="no extractor 'digitsnet'"):
        trainer(quality(extractor="digitsnet")).test(model, datamodule=Digits(), verbose=False)
    with pytest.raises(ValueError, match="no extractor 'digitsnet'"):  # not after hours of a fit
        quality(extractor="digitsnet").setup(trainer(), model, "fit")
    assert model.drawn == []
    with pytest.raises(ValueError, match=r"--quality\.reference='val': choose one of test, train"):
        quality(reference="val")
    with pytest.raises(ValueError, match="samples=-1: must be 0 or more"):
        quality(samples=-1)
