"""Sample quality at the end of a test or validation, with the protocol that made the numbers."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from zoo.data.images.pixels import to_uint8
from zoo.data.protocols import (
    HasReferenceImages,
    HasSampler,
    HasSamples,
    Split,
    datamodule_of,
)
from zoo.metrics.compare import compare, protocol
from zoo.metrics.features import Extractor, check_extractor, load_extractor
from zoo.ranges import Count, Seed, Whole, check_ranges
from zoo.waiting import Bar


class SampleQuality(Callback):
    """Compares samples of the model with real images, by features of both.

    Logs test/frechet_distance, test/kid, test/precision, test/recall, test/density, test/coverage,
    and as baseline/... the same numbers of as many real training images: what a perfect model would
    get. The model needs `sample(n, seed=, first=)` that returns images in [-1, 1], and the data
    module `reference_images(split, count)` that returns uint8 images, the first `count` or all.
    Every process draws its part of the samples; the numbers do not depend on how many there are.

    Does nothing unless an extractor and a number of samples are given.

    Args:
        extractor: digits-net, mnist-net, fashion-net, cifar-net, or inception (see `weights`).
        samples: Images to draw. Numbers of different counts are not comparable.
        batch_size: Images drawn at a time, on each process.
        seed: Seed of the samples and of the subsets of the kernel distance.
        k_precision: Neighbours that define a ball for precision and recall.
        k_density: Neighbours that define a ball for density and coverage.
        weights: File of the published Inception weights, or the folder that holds it.
        validate: Also at the end of each validation, as val/..., against validation images.
        reference: The real images of a test. Published FIDs of CIFAR-10 are mostly against train.

    Raises:
        ValueError: A count is negative, or `reference` is neither split.
    """

    def __init__(
        self,
        *,
        extractor: str | None = None,
        samples: Whole = 0,
        batch_size: Count = 256,
        seed: Seed = 0,
        k_precision: Count = 3,
        k_density: Count = 5,
        weights: str | None = None,
        validate: bool = False,
        reference: Literal["test", "train"] = "test",
    ) -> None:
        check_ranges(SampleQuality, locals(), "--quality.")
        if reference not in ("test", "train"):
            raise ValueError(f"quality.reference must be test or train, got {reference!r}")
        self.extractor, self.samples = extractor, samples
        self.batch_size, self.seed = batch_size, seed
        self.k_precision, self.k_density = k_precision, k_density
        self.weights, self.validate = weights, validate
        self.reference: Split = reference
        self._network: Extractor | None = None
        self._real: dict[tuple[Split, int | None], Tensor] = {}
        self._protocol: dict[str, str] = {}

    @property
    def enabled(self) -> bool:
        """Whether an extractor and samples were asked for."""
        return self.extractor is not None and self.samples > 0

    def protocol(self) -> dict[str, str]:
        """How the last numbers were made; empty before the first."""
        return dict(self._protocol)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Finds mistakes of model, data and extractor before the long part of a run."""
        if self.enabled:  # also of a fit that only a test follows
            check_extractor(str(self.extractor))
        data = datamodule_of(trainer)
        if stage == "fit" and self.enabled and not isinstance(data, HasReferenceImages):
            rank_zero_info(
                f"zoo test will need --quality.extractor null: {type(data).__name__} has no "
                "reference_images(split, count) to compare samples with"
            )
        if not self.enabled or (stage != "test" and not self.validate) or stage == "predict":
            return
        # Another run of the same callback may have other data, on another device.
        self._network, self._real = None, {}
        most = max(self.k_precision, self.k_density)
        if self.samples <= most:
            raise ValueError(
                f"--quality.samples must be more than the {most} neighbours, got {self.samples}"
            )
        if not isinstance(pl_module, HasSamples):
            raise ValueError(
                f"{type(pl_module).__name__} has no sample(n, seed=, first=) to judge: give "
                "--quality.extractor null"
            )
        if not isinstance(data, HasReferenceImages):
            raise ValueError(
                "no reference_images(split, count) to compare samples with: use an image data "
                f"module instead of {type(data).__name__}, or --quality.extractor null"
            )
        extractor = self._load(trainer)
        extractor.check_channels(getattr(data, "channels", extractor.channels))

    def _load(self, trainer: Trainer) -> Extractor:
        assert self.extractor is not None
        if self._network is None:
            device = trainer.strategy.root_device
            self._network = load_extractor(self.extractor, weights=self.weights, device=device)
        return self._network

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the numbers of the test."""
        if self.enabled:
            pl_module.log_dict(self._evaluate(trainer, pl_module, "test"), sync_dist=True)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the numbers of a validation, if asked."""
        if self.enabled and self.validate and not trainer.sanity_checking:
            pl_module.log_dict(self._evaluate(trainer, pl_module, "val"), sync_dist=True)

    def _evaluate(
        self, trainer: Trainer, module: LightningModule, stage: Literal["test", "val"]
    ) -> dict[str, Tensor]:
        split: Split = "val" if stage == "val" else self.reference
        other: Split = "test" if split == "train" else "train"
        real = self._real_features(trainer, split)
        # A baseline is of as many images as are drawn, or as there are.
        held_out = self._real_features(trainer, other, self.samples)
        assert isinstance(module, HasSamples)  # or `setup` has refused it
        sample = module.sample

        def draw(start: int, stop: int) -> Tensor:
            return to_uint8(sample(stop - start, seed=self.seed, first=start))

        fake = self._features(trainer, self.samples, draw, "draw and judge")
        self._record(trainer, module, split, other, len(real), len(held_out))
        groups = {stage: fake, "baseline": held_out}
        found = {group: self._compare(real, other, group) for group, other in groups.items()}
        return {f"{group}/{k}": v for group, values in found.items() for k, v in values.items()}

    def _real_features(self, trainer: Trainer, split: Split, count: int | None = None) -> Tensor:
        """Features of real images, kept for the next validation."""
        if (split, count) not in self._real:
            data = datamodule_of(trainer)
            assert isinstance(data, HasReferenceImages)
            images = data.reference_images(split, count)
            if len(images):
                self._real[split, count] = self._features(
                    trainer,
                    len(images),
                    lambda start, stop: images[start:stop],
                    f"features of {split}",
                )
            else:
                self._real[split, count] = torch.empty(0, 0)
        return self._real[split, count]

    def _features(
        self, trainer: Trainer, count: int, images: Callable[[int, int], Tensor], what: str
    ) -> Tensor:
        """Features of `count` images on every process, each having done a contiguous block."""
        extractor = self._load(trainer)
        world_size, rank = trainer.world_size, trainer.global_rank
        edges = [r * count // world_size for r in range(world_size + 1)]
        start, stop = edges[rank], edges[rank + 1]
        longest = -(-count // world_size)
        # A process without a share does an image too, to know the number of features.
        first = min(start, count - 1)
        last = max(stop, first + 1)
        parts = []
        with Bar(what, last - first, "images") as bar:
            for i in range(first, last, self.batch_size):
                parts.append(extractor(images(i, min(i + self.batch_size, last))))
                bar.update(len(parts[-1]))
        features = torch.cat(parts)
        if world_size > 1:
            padded = features.new_zeros(longest, features.shape[1])
            padded[: stop - start] = features[: stop - start]
            blocks = [torch.empty_like(padded) for _ in range(world_size)]
            dist.all_gather(blocks, padded)
            features = torch.cat([b[: edges[r + 1] - edges[r]] for r, b in enumerate(blocks)])
        # Metal has no float64, which the distances need.
        return features.cpu() if features.device.type == "mps" else features

    def _compare(self, real: Tensor, fake: Tensor, group: str) -> dict[str, Tensor]:
        """The numbers that so many images allow; what others would need is put on record."""
        values, missing = compare(real, fake, **self._settings())
        if missing:
            self._protocol[f"left out of {group}"] = missing
            rank_zero_info(f"left out of {group}: {missing.replace(': there', ', there')}")
        return {k: v.float() for k, v in values.items()}

    def _settings(self) -> dict[str, int]:
        names = ("k_precision", "k_density", "seed")
        return {name: getattr(self, name) for name in names}

    def _record(
        self,
        trainer: Trainer,
        module: LightningModule,
        split: Split,
        other: Split,
        real: int,
        held_out: int,
    ) -> None:
        extractor = self._load(trainer)
        made = protocol(extractor, max(real, self.samples), **self._settings())
        self._protocol = {
            **{k: made.pop(k) for k in ("extractor", "extractor_sha256", "resize")},
            "rounding": "to the nearest of 256 levels",
            "real": f"{real} images of {split}",
            "generated": str(self.samples),
            "baseline": f"{held_out} images of {other}",
            **made,
        }
        if isinstance(module, HasSampler):
            self._protocol["sampler"] = module.sampler_protocol()
        for callback in getattr(trainer, "callbacks", []):
            decay = getattr(callback, "decay", 0)
            if type(callback).__name__ == "EMA" and decay:
                self._protocol["weights"] = f"moving average with decay {decay}"
