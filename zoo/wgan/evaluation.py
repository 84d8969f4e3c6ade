"""What is looked at beside training: samples, monitors, and the numbers of validation and test."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.data.protocols import HasReferenceImages, HasReferencePoints, datamodule_of
from zoo.layers.counter_rng import normal
from zoo.layers.labels import Labels, labels_of
from zoo.training.averages import Averages
from zoo.training.fit_of_data import classes_of, floats_of
from zoo.training.module import Module, evaluating, numbers_of
from zoo.wgan.constraints.weights import Evaluated, Unconstrained
from zoo.wgan.objectives import CTransform, Objective
from zoo.wgan.toys import toy_metrics
from zoo.wgan.transport import exact_w1

# Of the samples of validation and test: an item meets the same one in every epoch and run.
EVALUATION_SEED = 8244
_TOY_SAMPLES, _TOY_POINTS = 2500, 2000
_W1_IMAGES = 512


class Evaluation(Module):
    """Samples of a generator, and what its critic says of them.

    >>> import zoo
    >>> model = zoo.WGAN(network="mlp", generator_widths=[16], critic_widths=[16])
    >>> points = model.sample(3)
    >>> [tuple(values.shape) for values in model.critic_values(points)]
    [(3,), (3,), (3,)]
    """

    generator: nn.Module
    critic: nn.Module
    constraint: Unconstrained
    objective: Objective
    shape: tuple[int, ...]
    num_classes: int
    latent_dim: int
    critic_bf16: bool
    channels_last: bool

    def __init__(self) -> None:
        super().__init__()
        self._validation = Averages("val/wasserstein_critic")
        self._test = Averages("test/wasserstein_critic")
        self._tested = 0

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        labels: Labels | None = None,
        first: int = 0,
        index: Tensor | None = None,
    ) -> Tensor:
        """Samples of the generator in eval mode.

        A sample is a function of (seed, its number): `sample(64)` is `sample(32)` and
        `sample(32, first=32)`.

        Args:
            n: How many.
            seed: Of the noise.
            labels: Classes, one for all or one for each; the classes in turn if not given.
            first: Number of the first sample.
            index: Numbers of the samples, int64, shape (n,), if they are not first, first + 1, ...

        Returns:
            float32: images in [-1, 1], shape (n, C, H, W), or points, (n, D).

        Raises:
            ValueError: Labels do not fit the model, or n is not positive.
        """
        if n < 1:
            raise ValueError(f"n={n}: draw at least one sample")
        if index is None:
            index = torch.arange(first, first + n, device=self.device)
        z = normal(seed, index, 0, (self.latent_dim,)).to(self.dtype)
        with evaluating(self.generator):
            x: Tensor = self(z, labels_of(index, labels, self.num_classes, items="samples"))
        return x

    def critic_values(
        self, x: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """f_hat, |grad f| and |grad f_hat|, shape (B,) each, at points or images (B, ...)."""
        with (
            evaluating(self.critic),
            # Lightning validates in inference mode, which has no gradients; a clone is out of it.
            torch.inference_mode(False),
            torch.enable_grad(),
            self.critic_precision(),
        ):
            labels = labels.clone() if labels is not None and self.num_classes else None
            return self.constraint.look(self.critic, x.clone(), labels)

    def critic_precision(self) -> AbstractContextManager[Any]:
        """Float32 where the loss contains the critic's gradient."""
        if self.constraint.inner_gradient and not self.critic_bf16:
            return torch.autocast(self.device.type, enabled=False)
        return nullcontext()

    def monitor(
        self, real: Tensor, fake: Tensor, labels: Tensor | None, values: Evaluated
    ) -> dict[str, Tensor]:
        """What is logged of a critic batch: its estimate, the exact distance, and gradients."""
        estimate = self.objective.estimates(real, fake, values.real.detach(), values.fake.detach())
        logged = {"wasserstein/critic": estimate.mean(), "wasserstein/exact": exact_w1(real, fake)}
        alpha = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        places = {"real": real, "fake": fake, "between": torch.lerp(fake, real, alpha)}
        for name, x in places.items():
            _, n, n_hat = self.critic_values(x, labels)
            logged |= {f"gradient/f_{name}": n.mean(), f"gradient/f_hat_{name}": n_hat.mean()}
        return logged

    def unpack(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Images or points, and their classes if the model has any."""
        x = floats_of(batch)
        self._check_shape(tuple(x.shape[1:]))
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, classes_of(batch, self.num_classes)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to val/wasserstein_critic."""
        self._add_values(self._validation, batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Logs the critic's estimate, and of points how good the samples are."""
        self._finish(self._validation, "val")

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to test/wasserstein_critic."""
        self._add_values(self._test, batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Logs the same of the test split, beside what real data would get."""
        self._tested = self._finish(self._test, "test")

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """A sample for each item: of its label, and with its number."""
        index = numbers_of(batch, batch_idx)
        labels = batch[1] if self.num_classes else None
        return self.sample(len(index), labels=labels, index=index)

    def _add_values(self, averages: Averages, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds the critic's estimate between the real items of a batch and as many samples."""
        x, labels = self.unpack(batch)
        index = numbers_of(batch, batch_idx)
        fake = self.sample(len(x), seed=EVALUATION_SEED, labels=labels, index=index)
        on_real, on_fake = (self.critic_values(each, labels)[0] for each in (x, fake))
        averages.add({averages.names[0]: self.objective.estimates(x, fake, on_real, on_fake)})

    def _finish(self, averages: Averages, stage: Literal["val", "test"]) -> int:
        """Logs the numbers of a split; returns how many items it had."""
        count = averages.log(self)
        values: dict[str, float] = {}
        data = datamodule_of(self.trainer)
        if isinstance(data, HasReferencePoints):
            values = self._toy_metrics(data, stage)
        elif stage == "test" and isinstance(data, HasReferenceImages):
            values = self._image_distances(data)
        # Every process has the same values; sync_dist only tells Lightning that we thought of it.
        self.log_dict(values, sync_dist=True)
        return count

    def _toy_metrics(
        self, data: HasReferencePoints, stage: Literal["val", "test"]
    ) -> dict[str, float]:
        """Every process does all of it: it takes less time than a collective's wait."""
        real = data.reference_points(stage, _TOY_POINTS + _TOY_SAMPLES)
        samples = self.sample(_TOY_SAMPLES, seed=EVALUATION_SEED).cpu()
        found = toy_metrics(samples, data.name, real[:_TOY_POINTS])
        values = {f"{stage}/{k}": v for k, v in found.items()}
        if stage == "test":
            perfect = toy_metrics(real[_TOY_POINTS:], data.name, real[:_TOY_POINTS])
            values |= {f"baseline/{k}": v for k, v in perfect.items()}
        return values

    def _image_distances(self, data: HasReferenceImages) -> dict[str, float]:
        """Exact W1 in pixels of a set of test images to samples, and to training images."""
        test, train = (data.reference_images(split, _W1_IMAGES) for split in ("test", "train"))
        n = min(len(test), len(train)) or len(test)  # without training images there is no baseline
        real, other = (images[:n].float() / 127.5 - 1 for images in (test, train))
        fake = self.sample(n, seed=EVALUATION_SEED)
        values = {"test/wasserstein_exact": float(exact_w1(real, fake))}
        if len(other):
            values["baseline/wasserstein_exact"] = float(exact_w1(real, other))
        return values

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        what = "mean of the critic on the test split less its mean on as many samples"
        if isinstance(self.objective, CTransform):
            what = "mean of phi on the items of a batch and of its transform on as many samples"
        count = f"{self._tested} items" if self._tested else "all items"
        lines = {
            "test/wasserstein_critic": (
                f"{what}, {count}, lipschitz {self.constraint.name}, "
                f"objective {self.hparams['objective']} (seed {EVALUATION_SEED}); "
                "under gn and gran no distance"
            )
        }
        if len(self.shape) == 1:
            lines["test/w1"] = (
                f"exact W1 of 1000 samples (seed {EVALUATION_SEED}) to 1000 held-out points; modes "
                f"and shares of {_TOY_SAMPLES} samples; the baseline is of held-out points instead"
            )
        else:
            lines["test/wasserstein_exact"] = (
                f"exact W1 of up to {_W1_IMAGES} test images to as many samples (seed "
                f"{EVALUATION_SEED}), Euclidean distance of pixels in [-1, 1]; the baseline is of "
                "training images instead"
            )
        return lines

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape == self.shape:
            return
        found, own = ("x".join(map(str, s)) for s in (shape, self.shape))
        if len(shape) == 1:
            fix = f"--model.network=mlp --model.features={shape[0]}"
        else:
            fix = f"--model.channels={shape[0]} --model.image_size={list(shape[1:])}"
        raise ValueError(f"data of shape {found} for a model of {own}: set {fix}")
