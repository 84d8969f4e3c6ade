"""Validation, test and embeddings of the image models; methods of `ImageVAE`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.files import replacing
from zoo.training.averages import Averages
from zoo.vae.baselines import PixelFrequencies
from zoo.vae.density.importance import (
    DensityEstimate,
    estimate_log_density,
    evaluating,
    sample_noise,
)
from zoo.vae.diagnostics import LatentArrays, LatentStatistics, knn_votes, show_arrays

if TYPE_CHECKING:
    from zoo.vae.image_vae import ImageVAE, Terms

EVALUATION_SEED = 8791  # of noise and binarisation: an item meets the same in every epoch and run
NEIGHBOURS = 5
LABELLED = (100, 600, 1000)  # training images that the k-NN classifier knows (arXiv 1804.00891)
UNRELIABLE = 0.7  # Pareto-k from which an importance estimate is not to be trusted


class Report:
    """What an evaluation adds up.

    Args:
        model: The model, of which only sizes are kept.
    """

    def __init__(self, model: ImageVAE) -> None:
        self.validation = Averages("val/loss", "val/elbo", "val/reconstruction", "val/kl")
        self.test: Averages | None = None
        parts, space = model.head.kl_parts, model.head.space
        self.latents = {
            stage: LatentStatistics(stage, model.latent_dim, parts, space)
            for stage in ("val", "test")
        }
        self.found: dict[str, LatentArrays] = {}
        self.labelled: tuple[Tensor, Tensor, Tensor] | None = None  # codes, pixels, labels
        self.frequencies: PixelFrequencies | None = None
        self.embedded: list[dict[str, Tensor]] = []
        self.tested = 0


def item_numbers(batch: Sequence[Tensor], batch_idx: int) -> Tensor:
    """Numbers of a batch's items in their split; data without numbers is counted by batch."""
    if len(batch) > 2:
        return batch[2]
    size = len(batch[0])
    return torch.arange(batch_idx * size, (batch_idx + 1) * size, device=batch[0].device)


def _terms(model: ImageVAE, x: Tensor, index: Tensor) -> Terms:
    """The terms of the model's own bound, with noise that depends on the items only."""
    samples = int(model.hparams["samples"])
    return model.terms(x, sample_noise(EVALUATION_SEED, index, 0, samples, model.noise_dim))


def validation_step(model: ImageVAE, batch: Sequence[Tensor], batch_idx: int) -> None:
    """Adds to val/loss (minus the model's bound), the ELBO, its parts and the latent statistics."""
    index = item_numbers(batch, batch_idx)
    terms = _terms(model, model.prepare(model._images(batch), index), index)
    kl, reconstruction = terms.posterior.kl(), terms.log_likelihood.mean(0)
    values = (-model.bound(terms), reconstruction - kl, reconstruction, kl)
    report = model.report
    report.validation.add(dict(zip(report.validation.names, values, strict=True)))
    report.latents["val"].add(terms.posterior, terms.z[0])


def on_validation_epoch_end(model: ImageVAE) -> None:
    """Logs the numbers of the validation, and its histograms where a logger takes them."""
    report = model.report
    report.validation.log(model, prog_bar=True)
    report.found["val"] = report.latents["val"].log(model)
    show_arrays(model, "val", report.found["val"])


def on_test_start(model: ImageVAE) -> None:
    """Encodes the labelled training images of the k-NN classifier, counts pixels' levels."""
    report, data = model.report, getattr(model.trainer, "datamodule", None)
    names = ["log_density", "elbo", "reconstruction", "kl", "ess", "unreliable"]
    if nats_of_a_level(model) is not None:
        names.append("bits_per_dim")
    if nats_of_a_level(model) is not None and hasattr(data, "reference_images"):
        report.frequencies = PixelFrequencies.of(
            data.reference_images("train").to(model.device),  # type: ignore[union-attr]
            _levels(model),
            model.hparams["binarization"],
        )
    if getattr(data, "num_classes", 0) > 1 and not getattr(data, "unlabelled", None):
        train = data.split("train")  # type: ignore[union-attr]
        count = min(max(LABELLED), len(train))
        batch = train.__getitems__(list(range(count))).to(model.device)
        images, labels, index = data.on_after_batch_transfer(batch)  # type: ignore[union-attr]
        x = model.prepare(images, index)
        with evaluating(model):
            codes = torch.cat([model.posterior(part).center for part in torch.split(x, 500)])
        report.labelled = codes, x.flatten(1), labels
    baselines = [] if report.frequencies is None else ["baseline/log_density"]
    if baselines and "bits_per_dim" in names:
        baselines.append("baseline/bits_per_dim")
    known = [] if report.labelled is None else _labelled_counts(len(report.labelled[2]))
    neighbours = [f"{group}/knn_{n}" for group in ("test", "baseline") for n in known]
    report.test = Averages(*(f"test/{name}" for name in names), *baselines, *neighbours)


def _labelled_counts(available: int) -> list[int]:
    return [n for n in LABELLED if n <= available]


def test_step(model: ImageVAE, batch: Sequence[Tensor], batch_idx: int) -> None:
    """Adds to the importance-sampled density, the ELBO and its parts, and k-NN accuracy."""
    report, own = model.report, model.hparams
    index = item_numbers(batch, batch_idx)
    x = model.prepare(model._images(batch), index)
    estimate = log_density(model, x, index=index, prepared=True)
    terms = _terms(model, x, index)
    kl = terms.posterior.kl().double()
    # The proposal's ELBO is the posterior's only if it was not widened.
    elbo = estimate.elbo if own["widen"] == 1 else terms.log_likelihood.mean(0) - kl
    values = {
        "test/log_density": estimate.log_density,
        "test/elbo": elbo,
        "test/reconstruction": elbo + kl,
        "test/kl": kl,
        "test/ess": estimate.ess,
        "test/unreliable": (estimate.pareto_k > UNRELIABLE).double(),
    }
    level = nats_of_a_level(model)
    if level is not None:
        values["test/bits_per_dim"] = _bits(model, estimate.log_density, level)
    if report.frequencies is not None:
        plain = report.frequencies.log_prob(x)
        values["baseline/log_density"] = plain - model.dimensions * level  # type: ignore[operator]
        values["baseline/bits_per_dim"] = -plain / (model.dimensions * math.log(2))
    if report.labelled is not None:
        codes, pixels, labels = report.labelled
        for n in _labelled_counts(len(labels)):
            center, space = terms.posterior.center, terms.posterior.space
            votes = knn_votes(codes[:n], labels[:n], center, space=space, k=NEIGHBOURS)
            plain = knn_votes(pixels[:n], labels[:n], x.flatten(1), space="euclidean", k=NEIGHBOURS)
            values[f"test/knn_{n}"] = (votes == batch[1]).double()
            values[f"baseline/knn_{n}"] = (plain == batch[1]).double()
    assert report.test is not None
    report.test.add({name: value.double() for name, value in values.items()})
    report.latents["test"].add(terms.posterior, terms.z[0])


def _levels(model: ImageVAE) -> int:
    return 2 if model.hparams["likelihood"] == "bernoulli" else int(model.hparams["levels"])


def nats_of_a_level(model: ImageVAE) -> float | None:
    """What a pixel's log density lacks to be the log probability of its level.

    0 where p(x|z) is a probability already; the logarithm of a level's width for a density of
    dequantised images; None where neither is so, and no code length follows.
    """
    own = model.hparams
    if own["likelihood"] == "bernoulli":
        return None if own["binarization"] == "none" else 0.0
    if own["likelihood"] == "gaussian":
        return math.log(2 / (own["levels"] - 1)) if own["dequantize"] else None
    return 0.0


def _bits(model: ImageVAE, log_density: Tensor, level: float) -> Tensor:
    return -(log_density / model.dimensions + level) / math.log(2)


def on_test_epoch_end(model: ImageVAE) -> None:
    """Logs the numbers of the test."""
    report = model.report
    assert report.test is not None
    report.tested = report.test.log(model)
    report.found["test"] = report.latents["test"].log(model)
    report.labelled, report.frequencies = None, None


def log_density(
    model: ImageVAE,
    x: Tensor,
    *,
    samples: int | None = None,
    index: Tensor | None = None,
    seed: int | None = None,
    widen: float | None = None,
    chunk: int | None = None,
    prepared: bool = False,
) -> DensityEstimate:
    """Estimates log p(x) by importance sampling, with error bars (kexue.fm/archives/8791).

    Args:
        model: The model.
        x: Images in [-1, 1], (B, C, H, W); they are binarised or dequantised as the model says.
        samples: Weights a datum; the model's `log_density_samples` if not given.
        index: Numbers of the images, int64 (B,), that their noise is a function of; 0, 1, ... if
            not given.
        seed: Of the weights' noise.
        widen: Factor on the proposal's standard deviation; the model's if not given.
        chunk: Samples of a datum at a time; memory is in proportion.
        prepared: The images went through `prepare` already.

    Returns:
        float64 (B,) each: log_density, standard_error, ess, pareto_k, jackknife, elbo.
    """
    x = x.to(model.device)
    if index is None:
        index = torch.arange(len(x), device=model.device)
    index = index.to(model.device)
    return estimate_log_density(
        model,
        x if prepared else model.prepare(x, index),
        index,
        samples=model.hparams["log_density_samples"] if samples is None else samples,
        seed=EVALUATION_SEED if seed is None else seed,
        widen=model.hparams["widen"] if widen is None else widen,
        chunk=chunk,
    )


def arrays(model: ImageVAE) -> dict[str, list[float]]:
    """What the last test found that is more than a number, for results.json."""
    found = model.report.found.get("test")
    if found is None:
        return {}
    named = {f"test/{name}": value.tolist() for name, value in found._asdict().items()}
    return {name: values for name, values in named.items() if values}


def protocol(model: ImageVAE) -> dict[str, str]:
    """How the numbers of a test were made."""
    own, report = model.hparams, model.report
    pixels = {
        "none": "as they are",
        "dynamic": f"binarised once at random, by item (seed {EVALUATION_SEED})",
        "threshold": "white from 1/2 on",
    }[own["binarization"]]
    if own["dequantize"]:
        pixels = f"dequantised once at random, by item (seed {EVALUATION_SEED})"
    count = f"{report.tested} items" if report.tested else "all items"
    wide = "" if own["widen"] == 1 else f", proposal {own['widen']} times as wide"
    lines = {
        "test/log_density": (
            f"{own['log_density_samples']} importance samples an item{wide}, seed "
            f"{EVALUATION_SEED}, {count} of the test split, pixels {pixels}, nats an image"
        ),
        "test/kl": "closed form; reconstruction is elbo + kl, elbo the mean log weight",
        "test/unreliable": f"share of items with Pareto-k above {UNRELIABLE}",
        "test/mutual_information": f"mixture over batches of {report.latents['test'].batch}",
    }
    if own["likelihood"] == "bernoulli" and own["binarization"] == "none":
        lines["likelihood"] = "cross-entropy of grey levels, which is not the log of a probability"
    if own["likelihood"] == "gaussian" and not own["dequantize"]:
        lines["likelihood"] = "a density of grey levels that were not dequantised: no code length"
    if nats_of_a_level(model) is not None:
        lines["test/bits_per_dim"] = f"of {_levels(model)} levels, by log_density"
        lines["baseline/bits_per_dim"] = "each pixel by the training split's frequencies"
    space = {"sphere": "cosine", "euclidean": "Euclidean"}[model.head.space]
    lines["test/knn_N"] = (
        f"{NEIGHBOURS} neighbours among the first N training images, {space} distance of E[z|x]; "
        "baseline: of the pixels"
    )
    return lines


def predict_step(model: ImageVAE, batch: Sequence[Tensor], batch_idx: int) -> dict[str, Tensor]:
    """Each item's embedding: its number, label, E[z|x], the posterior's parameters and its KL."""
    index = item_numbers(batch, batch_idx)
    posterior = model.posterior(model.prepare(model._images(batch), index))
    embedding = {"index": index, "code": posterior.center, "kl": posterior.kl()}
    if len(batch) > 1:
        embedding["label"] = batch[1]
    embedding |= posterior.parameters()
    embedding = {name: value.detach().cpu() for name, value in embedding.items()}
    model.report.embedded.append(embedding)
    return embedding


def on_predict_epoch_end(model: ImageVAE) -> None:
    """Writes run_dir/embeddings.npz, a file a process, in the order of the data."""
    import numpy as np

    parts, model.report.embedded = model.report.embedded, []
    if not parts:
        return
    arrays: dict[str, Any] = {
        name: torch.cat([p[name] for p in parts]).numpy() for name in parts[0]
    }
    rank = "" if model.trainer.world_size == 1 else f"-{model.trainer.global_rank}"
    path = Path(model.trainer.default_root_dir, f"embeddings{rank}.npz")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
