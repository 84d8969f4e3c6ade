"""What is looked at beside training: samples, monitors, and the numbers of validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo.layers.counter_rng import normal
from zoo.training.averages import Averages
from zoo.wgan.constraints.weights import Evaluated
from zoo.wgan.objectives import CTransform
from zoo.wgan.toys import toy_metrics
from zoo.wgan.transport import exact_w1

if TYPE_CHECKING:
    from zoo.wgan.module import WGAN

# Of the samples of validation and test: an item meets the same one in every epoch and run.
EVALUATION_SEED = 8244
_TOY_SAMPLES, _TOY_POINTS = 2500, 2000
_W1_IMAGES = 512


def sample(
    model: WGAN,
    n: int,
    *,
    seed: int = 0,
    labels: Tensor | list[int] | int | None = None,
    first: int = 0,
    index: Tensor | None = None,
) -> Tensor:
    """Samples of the generator in eval mode.

    A sample is a function of (seed, its number): `sample(64)` is `sample(32)` and
    `sample(32, first=32)`.

    Args:
        model: The model.
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
        index = torch.arange(first, first + n, device=model.device)
    z = normal(seed, index, 0, (model.hparams["latent_dim"],))
    training = model.generator.training
    model.generator.eval()
    try:
        with torch.no_grad():
            x: Tensor = model(z, _labels(model, labels, index))
            return x
    finally:
        model.generator.train(training)


def _labels(model: WGAN, labels: Tensor | list[int] | int | None, index: Tensor) -> Tensor | None:
    K = model.num_classes
    if not K:
        if labels is not None:
            raise ValueError("labels were given, but this model has no classes (num_classes=0)")
        return None
    if labels is None:
        return index % K
    given = torch.as_tensor(labels, dtype=torch.long, device=index.device)
    if given.ndim and given.shape != index.shape:
        raise ValueError(f"{given.numel()} labels for {len(index)} samples: give one for each")
    if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < K:
        raise ValueError(f"labels must be in 0 ... {K - 1}: got {labels}")
    return given.expand(index.shape)


def critic_values(
    model: WGAN, x: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """f_hat, |grad f| and |grad f_hat| at some points, shape (B,) each.

    Args:
        model: The model.
        x: Points or images, shape (B, ...).
        labels: Their classes, shape (B,).
    """
    training = model.critic.training
    model.critic.eval()
    try:
        # Lightning validates in inference mode, which has no gradients; a clone is out of it.
        with torch.inference_mode(False), torch.enable_grad(), model.critic_precision():
            labels = labels.clone() if labels is not None and model.num_classes else None
            return model.constraint.look(model.critic, x.clone(), labels)
    finally:
        model.critic.train(training)


def monitor(
    model: WGAN, real: Tensor, fake: Tensor, labels: Tensor | None, values: Evaluated
) -> dict[str, Tensor]:
    """What is logged of a critic batch: the critic's estimate, the exact distance, and gradients.

    Args:
        model: The model.
        real: Real points, shape (B, ...).
        fake: Generated points.
        labels: Classes of both.
        values: Of the critic step.
    """
    estimate = model.objective.estimates(real, fake, values.real.detach(), values.fake.detach())
    logged = {"wasserstein/critic": estimate.mean(), "wasserstein/exact": exact_w1(real, fake)}
    alpha = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    places = {"real": real, "fake": fake, "between": torch.lerp(fake, real, alpha)}
    for name, x in places.items():
        _, n, n_hat = critic_values(model, x, labels)
        logged |= {f"gradient/f_{name}": n.mean(), f"gradient/f_hat_{name}": n_hat.mean()}
    return logged


def item_numbers(batch: Sequence[Tensor], batch_idx: int) -> Tensor:
    """Numbers of a batch's items in their split; data without numbers is counted by batch."""
    if len(batch) > 2:
        return batch[2]
    size = len(batch[0])
    return torch.arange(batch_idx * size, (batch_idx + 1) * size, device=batch[0].device)


def add_values(model: WGAN, averages: Averages, batch: Sequence[Tensor], batch_idx: int) -> None:
    """Adds the critic's estimate between the real items of a batch and as many samples."""
    x, labels = model.unpack(batch)
    index = item_numbers(batch, batch_idx)
    fake = sample(model, len(x), seed=EVALUATION_SEED, labels=labels, index=index)
    on_real, on_fake = (critic_values(model, each, labels)[0] for each in (x, fake))
    averages.add({averages.names[0]: model.objective.estimates(x, fake, on_real, on_fake)})


def finish(model: WGAN, averages: Averages, stage: Literal["val", "test"]) -> int:
    """Logs the numbers of a split; returns how many items it had."""
    count = averages.log(model)
    values: dict[str, float] = {}
    data: Any = getattr(model.trainer, "datamodule", None)
    if hasattr(data, "reference_points"):
        values = _toy(model, data, stage)
    elif stage == "test" and hasattr(data, "reference_images"):
        values = _image_distances(model, data)
    # Every process has the same values; sync_dist only tells Lightning that we thought of it.
    model.log_dict(values, sync_dist=True)
    return count


def _toy(model: WGAN, data: Any, stage: Literal["val", "test"]) -> dict[str, float]:
    """Every process does all of it: it takes less time than a collective's wait."""
    real = data.reference_points(stage, _TOY_POINTS + _TOY_SAMPLES)
    samples = sample(model, _TOY_SAMPLES, seed=EVALUATION_SEED).cpu()
    found = toy_metrics(samples, data.name, real[:_TOY_POINTS])
    values = {f"{stage}/{k}": v for k, v in found.items()}
    if stage == "test":
        perfect = toy_metrics(real[_TOY_POINTS:], data.name, real[:_TOY_POINTS])
        values |= {f"baseline/{k}": v for k, v in perfect.items()}
    return values


def _image_distances(model: WGAN, data: Any) -> dict[str, float]:
    """Exact W1 in pixels of a set of test images to samples, and to training images."""
    test, train = (data.reference_images(split, _W1_IMAGES) for split in ("test", "train"))
    n = min(len(test), len(train)) or len(test)  # without training images there is no baseline
    real, other = (images[:n].float() / 127.5 - 1 for images in (test, train))
    fake = sample(model, n, seed=EVALUATION_SEED)
    values = {"test/wasserstein_exact": float(exact_w1(real, fake))}
    if len(other):
        values["baseline/wasserstein_exact"] = float(exact_w1(real, other))
    return values


def protocol(model: WGAN, tested: int) -> dict[str, str]:
    """How the numbers of a test were made."""
    count = f"{tested} items" if tested else "all items"
    lines = {
        "test/wasserstein_critic": (
            f"{_what(model)}, {count}, lipschitz {model.hparams['lipschitz']}, objective "
            f"{model.hparams['objective']} (seed {EVALUATION_SEED}); under gn and gran no distance"
        )
    }
    if len(model.shape) == 1:
        lines["test/w1"] = (
            f"exact W1 of 1000 samples (seed {EVALUATION_SEED}) to 1000 held-out points; modes and "
            f"shares of {_TOY_SAMPLES} samples; the baseline is of held-out points instead"
        )
    else:
        lines["test/wasserstein_exact"] = (
            f"exact W1 of up to {_W1_IMAGES} test images to as many samples (seed "
            f"{EVALUATION_SEED}), Euclidean distance of pixels in [-1, 1]; the baseline is of "
            "training images instead"
        )
    return lines


def _what(model: WGAN) -> str:
    if isinstance(model.objective, CTransform):
        return "mean of phi on the items of a batch and of its transform on as many samples"
    return "mean of the critic on the test split less its mean on as many samples"


def check_shape(model: WGAN, shape: tuple[int, ...]) -> None:
    """Raises ValueError if the data has another shape."""
    if shape == model.shape:
        return
    theirs, own = ("x".join(map(str, s)) for s in (shape, model.shape))
    if len(shape) == 1:
        fix = f"--model.network=mlp --model.features={shape[0]}"
    else:
        fix = f"--model.channels={shape[0]} --model.image_size={list(shape[1:])}"
    raise ValueError(f"data of shape {theirs} for a model of {own}: set {fix}")


def check_data(model: WGAN, data: Any, stage: str) -> None:
    """Raises ValueError if the data does not fit the model."""
    if hasattr(data, "features"):
        check_shape(model, (data.features,))
    elif hasattr(data, "size"):
        check_shape(model, (data.channels, *data.size))
        for name, own in (("levels", model.hparams["levels"]), ("num_classes", model.num_classes)):
            theirs = getattr(data, name, own)
            needed = model.num_classes if name == "num_classes" else model.hparams["dequantize"]
            if needed and theirs != own:  # a model without classes takes any data
                raise ValueError(
                    f"the data has {name}={theirs} but the model {own}: set --model.{name}={theirs}"
                )
    n, B = model.hparams["n_critic"], model.hparams["critic_batch"]
    size = getattr(data, "batch_size", n * B)
    if stage == "fit" and size != n * B:
        raise ValueError(
            f"--data.batch_size={size}: a training step takes n_critic * critic_batch = {n} * {B} "
            f"real items; set --data.batch_size={n * B}"
        )
