"""Validation, test and embeddings of the image models."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.protocols import HasClasses, HasReferenceImages, HasSplits, datamodule_of
from zoo.files import replacing
from zoo.training.averages import Averages
from zoo.training.module import evaluating, numbers_of
from zoo.vae.baselines import PixelFrequencies
from zoo.vae.batch_norm import GaussianHead
from zoo.vae.density.importance import DensityEstimate, estimate_log_density, sample_noise
from zoo.vae.density.pareto import UNRELIABLE
from zoo.vae.density.refinement import described
from zoo.vae.diagnostics import LatentArrays, LatentStatistics, knn_votes, show_arrays
from zoo.vae.image_vae import EVALUATION_SEED, ImageVAE, Terms
from zoo.vae.likelihoods import Bernoulli, Gaussian
from zoo.vae.spherical_head import SphericalHead

NEIGHBOURS = 5
LABELLED = (100, 600, 1000)  # training images that the k-NN classifier knows (arXiv 1804.00891)


class Report:
    """What an evaluation adds up.

    Args:
        head: Says how codes are to be counted.
    """

    def __init__(self, head: GaussianHead | SphericalHead) -> None:
        self.validation = Averages("val/loss", "val/elbo", "val/reconstruction", "val/kl")
        self.test: Averages | None = None
        self.latents = {
            stage: LatentStatistics(stage, sum(head.blocks), head.kl_parts, head.space)
            for stage in ("val", "test")
        }
        self.found: dict[str, LatentArrays] = {}
        self.labelled: tuple[Tensor, Tensor, Tensor] | None = None  # codes, pixels, labels
        self.frequencies: PixelFrequencies | None = None
        self.embedded: list[dict[str, Tensor]] = []
        self.estimates: list[tuple[Tensor, ...]] = []  # of this process: log p, its error, k
        self.tested = 0


class Evaluation(ImageVAE):
    """How good a model of images is: bound and log p(x), its latent code, and embeddings.

    >>> import zoo
    >>> model = zoo.VAE(image_size=8, latent_dim=2, hidden=[16])
    >>> model.log_density(model.sample(3), samples=50).log_density.shape
    torch.Size([3])
    """

    def build(self, head: GaussianHead | SphericalHead) -> None:
        """The second half of the constructor; see `ImageVAE.build`."""
        super().build(head)
        self.report = Report(head)

    def _numbered(self, batch: Sequence[Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """A batch's prepared images and their numbers, which all noise is a function of."""
        index = numbers_of(batch, batch_idx)
        return self.prepare(self._images(batch), index), index

    def _terms_of(self, x: Tensor, index: Tensor) -> Terms:
        """The terms of the model's own bound."""
        noise = sample_noise(EVALUATION_SEED, index, 0, self.samples, self.noise_dim)
        return self.terms(x, noise)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to val/loss (minus the bound), the ELBO, its parts and the latent statistics."""
        terms = self._terms_of(*self._numbered(batch, batch_idx))
        kl, reconstruction = terms.posterior.kl(), terms.log_likelihood.mean(0)
        values = (-self.bound(terms), reconstruction - kl, reconstruction, kl)
        self.report.validation.add(dict(zip(self.report.validation.names, values, strict=True)))
        self.report.latents["val"].add(terms.posterior, terms.z[0])

    def on_validation_epoch_end(self) -> None:
        """Logs the numbers of the validation, and its histograms where a logger takes them."""
        self.report.validation.log(self, prog_bar=True)
        self.report.found["val"] = self.report.latents["val"].log(self)
        show_arrays(self, "val", self.report.found["val"])

    def on_test_start(self) -> None:
        """Encodes the labelled training images of the k-NN classifier, counts pixels' levels."""
        report, data = self.report, datamodule_of(self.trainer)
        report.estimates = []
        names = ["log_density", "elbo", "reconstruction", "kl", "ess", "unreliable"]
        baselines = []
        if self.nats_of_a_level is not None:
            names.append("bits_per_dim")
            if isinstance(data, HasReferenceImages):
                images = data.reference_images("train").to(self.device)
                report.frequencies = PixelFrequencies.of(
                    images, self._levels_of_likelihood, self.binarization
                )
                baselines = ["log_density", "bits_per_dim"]
        known: list[int] = []
        if (
            isinstance(data, HasClasses)
            and data.num_classes > 1
            and not getattr(data, "unlabelled", None)
            and isinstance(data, HasSplits)
        ):
            train = data.split("train")
            count = min(max(LABELLED), len(train))
            batch = train.__getitems__(list(range(count))).to(self.device)
            images, labels, index = data.on_after_batch_transfer(batch, 0)
            x = self.prepare(images, index)
            with evaluating(self, precise=True):
                codes = torch.cat([self.posterior(part).center for part in torch.split(x, 500)])
            report.labelled = codes, x.flatten(1), labels
            known = _labelled_counts(count)
        report.test = Averages(
            *(f"test/{name}" for name in names),
            *(f"baseline/{name}" for name in baselines),
            *(f"{group}/knn_{n}" for group in ("test", "baseline") for n in known),
        )

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to the importance-sampled density, the ELBO and its parts, and k-NN accuracy."""
        report = self.report
        x, index = self._numbered(batch, batch_idx)
        estimate = self.log_density(x, index=index, prepared=True)
        terms = self._terms_of(x, index)
        kl = terms.posterior.kl().double()
        # The proposal's ELBO is the posterior's only if the proposal is.
        own = self.widen == 1 and not self.refine
        elbo = estimate.elbo if own else terms.log_likelihood.mean(0) - kl
        values = {
            "test/log_density": estimate.log_density,
            "test/elbo": elbo,
            "test/reconstruction": elbo + kl,
            "test/kl": kl,
            "test/ess": estimate.ess,
            "test/unreliable": (estimate.pareto_k > UNRELIABLE).double(),
        }
        if self.nats_of_a_level is not None:
            level = self.nats_of_a_level
            values["test/bits_per_dim"] = -(
                estimate.log_density / self.dimensions + level
            ) / math.log(2)
            if report.frequencies is not None:
                plain = report.frequencies.log_prob(x)
                values["baseline/log_density"] = plain - self.dimensions * level
                values["baseline/bits_per_dim"] = -plain / (self.dimensions * math.log(2))
        if report.labelled is not None:
            codes, pixels, labels = report.labelled
            center, space = terms.posterior.center, terms.posterior.space
            for n in _labelled_counts(len(labels)):
                votes = knn_votes(codes[:n], labels[:n], center, space=space, k=NEIGHBOURS)
                plain = knn_votes(
                    pixels[:n], labels[:n], x.flatten(1), space="euclidean", k=NEIGHBOURS
                )
                values[f"test/knn_{n}"] = votes == batch[1]
                values[f"baseline/knn_{n}"] = plain == batch[1]
        shown = (estimate.log_density, estimate.standard_error, estimate.pareto_k)
        report.estimates.append(shown)
        assert report.test is not None
        report.test.add({name: value.double() for name, value in values.items()})
        report.latents["test"].add(terms.posterior, terms.z[0])

    def on_test_epoch_end(self) -> None:
        """Logs the numbers of the test."""
        report = self.report
        assert report.test is not None
        report.tested = report.test.log(self)
        report.found["test"] = report.latents["test"].log(self)
        report.labelled, report.frequencies = None, None

    @property
    def _levels_of_likelihood(self) -> int:
        return 2 if isinstance(self.likelihood, Bernoulli) else self.levels

    @property
    def nats_of_a_level(self) -> float | None:
        """What a pixel's log density lacks to be the log probability of its level.

        0 where p(x|z) is a probability already; the logarithm of a level's width for a density of
        dequantised images; None where neither is so, and no code length follows.
        """
        if isinstance(self.likelihood, Bernoulli):
            return None if self.binarization == "none" else 0.0
        if isinstance(self.likelihood, Gaussian):
            return math.log(2 / (self.levels - 1)) if self.dequantize else None
        return 0.0

    def log_density(
        self,
        x: Tensor,
        *,
        samples: int | None = None,
        index: Tensor | None = None,
        seed: int = EVALUATION_SEED,
        widen: float | None = None,
        refine: int | None = None,
        chunk: int | None = None,
        prepared: bool = False,
    ) -> DensityEstimate:
        """Estimates log p(x) by importance sampling, with error bars (kexue.fm/archives/8791).

        Args:
            x: Images in [-1, 1], (B, C, H, W); they are binarised or dequantised as the model says.
            samples: Weights a datum; the model's `log_density_samples` if not given.
            index: Numbers of the images, int64 (B,), that their noise is a function of; 0, 1, ...
                if not given.
            seed: Seed of the weights' noise.
            widen: Factor on the proposal's standard deviation; the model's if not given.
            refine: Newton steps from the posterior to the proposal, 0 for none; the model's if not
                given.
            chunk: Samples of a datum at a time; memory is in proportion.
            prepared: The images went through `prepare` already.

        Returns:
            float64 (B,) each: log_density, standard_error, ess, pareto_k, jackknife, elbo.
        """
        x, index = self._placed(x, index)
        return estimate_log_density(
            self,
            x if prepared else self.prepare(x, index),
            index,
            samples=self.log_density_samples if samples is None else samples,
            seed=seed,
            widen=self.widen if widen is None else widen,
            refine=self.refine if refine is None else refine,
            chunk=chunk,
        )

    def arrays(self) -> dict[str, list[float]]:
        """What the last test found that is more than a number, for results.json."""
        found = self.report.found.get("test")
        if found is None:
            return {}
        named = {f"test/{name}": value.tolist() for name, value in found._asdict().items()}
        return {name: values for name, values in named.items() if values}

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        report = self.report
        pixels = {
            "none": "as they are",
            "dynamic": f"binarised once at random, by item (seed {EVALUATION_SEED})",
            "threshold": "white from 1/2 on",
        }[self.binarization]
        if self.dequantize:
            pixels = f"dequantised once at random, by item (seed {EVALUATION_SEED})"
        count = f"{report.tested} items" if report.tested else "all items"
        wide = described(self.refine, self.widen)
        lines = {
            "test/log_density": (
                f"{self.log_density_samples} importance samples an item {wide}, seed "
                f"{EVALUATION_SEED}, {count} of the test split, pixels {pixels}, nats an image"
            ),
            "test/kl": "closed form; reconstruction is elbo + kl, elbo that of the posterior",
            "test/unreliable": f"share of items with Pareto-k above {UNRELIABLE}",
            "test/mutual_information": f"mixture over batches of {report.latents['test'].batch}",
        }
        if self.nats_of_a_level is not None:
            levels = self._levels_of_likelihood
            lines["test/bits_per_dim"] = f"of {levels} levels, by log_density"
            lines["baseline/bits_per_dim"] = "each pixel by the training split's frequencies"
        elif isinstance(self.likelihood, Bernoulli):
            lines["likelihood"] = (
                "cross-entropy of grey levels, which is not the log of a probability"
            )
        else:
            lines["likelihood"] = (
                "a density of grey levels that were not dequantised: no code length"
            )
        space = {"sphere": "cosine", "euclidean": "Euclidean"}[self.head.space]
        lines["test/knn_N"] = (
            f"{NEIGHBOURS} neighbours among the first N training images, {space} distance of "
            "E[z|x]; baseline: of the pixels"
        )
        return lines

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Each item's embedding: number, label, E[z|x], the posterior's parameters and its KL."""
        x, index = self._numbered(batch, batch_idx)
        posterior = self.posterior(x)
        embedding = {"index": index, "code": posterior.center, "kl": posterior.kl()}
        if len(batch) > 1:
            embedding["label"] = batch[1]
        embedding |= posterior.parameters()
        embedding = {name: value.detach().cpu() for name, value in embedding.items()}
        self.report.embedded.append(embedding)
        return embedding

    def on_predict_epoch_end(self) -> None:
        """Writes run_dir/embeddings.npz, a file a process, in the order of the data."""
        import numpy as np

        parts, self.report.embedded = self.report.embedded, []
        if not parts:
            return
        arrays: dict[str, Any] = {
            name: torch.cat([p[name] for p in parts]).numpy() for name in parts[0]
        }
        rank = "" if self.trainer.world_size == 1 else f"-{self.trainer.global_rank}"
        path = Path(self.trainer.default_root_dir, f"embeddings{rank}.npz")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)


def _labelled_counts(available: int) -> list[int]:
    return [n for n in LABELLED if n <= available]
