"""What a latent code carries: active units, mutual information, KL by dimension, k-NN accuracy."""

import math
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from zoo.layers.precision import wide
from zoo.training.log import batches_that_stepped
from zoo.vae.posteriors import Posterior, Space

ACTIVE = 0.01  # variance of E[z|x] over x from which a unit is active (arXiv 1509.00519, section 5)
KAPPA_BINS = 32  # of the histogram of log10 kappa
KAPPA_RANGE = (-2.0, 6.0)


def mutual_information(posterior: Posterior, z: Tensor) -> Tensor:
    """How much of each item its code tells: log q(z|x) - log q(z), with q(z) the batch's mixture.

    Its mean estimates the mutual information of x and z under q (arXiv 1901.05534, section 2.1). It
    is at most log B, so a number without its batch size says nothing. In nats, float64 (B,).
    """
    own_density = posterior.log_prob(z[None]).double()[0]
    mixture = posterior.log_prob(z[:, None]).double().logsumexp(1) - math.log(len(z))
    return own_density - mixture


def covariance(count: Tensor, total: Tensor, outer: Tensor) -> Tensor:
    """Covariance (d, d) from the number, the sum (d,) and the sum of outer products (d, d)."""
    mean = total / count
    return outer / count - mean[:, None] * mean[None, :]


def active_units(covariance: Tensor, space: Space) -> Tensor:
    """Number of units with a variance of E[z|x] of at least 0.01 (arXiv 1509.00519, section 5).

    `covariance` (d, d) is that of E[z|x] over the data.
    """
    return (variances(covariance, space) >= ACTIVE).sum()


def variances(covariance: Tensor, space: Space) -> Tensor:
    """By axis, or of a sphere, whose axes mean nothing, the eigenvalues of the covariance."""
    return torch.linalg.eigvalsh(covariance) if space == "sphere" else covariance.diagonal()


def knn_votes(
    codes: Tensor, labels: Tensor, queries: Tensor, *, space: Space, k: int = 5
) -> Tensor:
    """The class (M,) that most of a query's k nearest codes have; of equals, the lowest.

    Codes (N, d) and queries (M, d) are E[z|x]; near is by distance, or on a sphere by angle.
    """
    if space == "sphere":
        codes, queries = (x / x.norm(dim=1, keepdim=True) for x in (codes, queries))
    nearest = torch.cdist(queries, codes).topk(min(k, len(codes)), largest=False).indices
    votes = torch.nn.functional.one_hot(labels[nearest]).sum(1)
    return votes.argmax(1)


class LatentArrays(NamedTuple):
    """What an evaluation found that is more than a number."""

    kl_per_dimension: Tensor
    """Mean KL of each dimension, or of each sphere, in nats."""
    variances: Tensor
    """Variances of E[z|x] by axis, or on spheres the eigenvalues of its covariance; descending."""
    log10_kappa: Tensor
    """Counts of log10 kappa in 32 equal bins from -2 to 6, what is outside in the outer ones; empty
    for Gaussian posteriors."""


class LatentStatistics:
    """Sums over the items of an evaluation and over its processes.

    Logs <stage>/active_units and <stage>/mutual_information. The latter depends on the batches of
    the evaluation, whose size is `batch`.

    Args:
        stage: val or test.
        latent_dim: Numbers d of a code.
        parts: Parts of the KL: dimensions or spheres.
        space: Where codes live.
    """

    def __init__(self, stage: str, latent_dim: int, parts: int, space: Space) -> None:
        self.stage, self.space = stage, space
        self.batch = 0
        d = latent_dim
        self._sizes = [1, 1, d, d * d, parts, KAPPA_BINS]
        self._shapes = [(), (), (d,), (d, d), (parts,), (KAPPA_BINS,)]
        self._sums: Tensor | None = None

    def add(self, posterior: Posterior, z: Tensor) -> None:
        """Adds a batch's posteriors and a draw of each, (B, d); does not wait for the device."""
        dtype = wide(z.device)
        center = posterior.center.to(dtype)
        kappa = getattr(posterior, "concentrations", None)
        histogram = center.new_zeros(KAPPA_BINS)
        if kappa is not None:
            low, high = KAPPA_RANGE
            exponents = kappa.detach().flatten().log10().clamp(low, high)
            histogram = torch.histc(exponents, KAPPA_BINS, low, high).to(dtype)
        sums = torch.cat(
            [
                center.new_full((1,), len(z)),
                mutual_information(posterior, z).to(dtype).sum()[None],
                center.sum(0),
                (center.T @ center).flatten(),
                posterior.kl_per_dimension().to(dtype).sum(0),
                histogram,
            ]
        )
        self._sums = sums if self._sums is None else self._sums + sums
        self.batch = max(self.batch, len(z))

    def log(self, module: LightningModule) -> LatentArrays:
        """Logs the numbers from a hook at the end of an epoch, starts again, returns the rest."""
        sums = self._sums
        if sums is None:
            dtype = wide(module.device)
            sums = torch.zeros(sum(self._sizes), dtype=dtype, device=module.device)
        sums = module.trainer.strategy.reduce(sums, reduce_op="sum")
        assert isinstance(sums, Tensor)
        pieces = torch.split(sums, self._sizes)
        parts = [p.reshape(s) for p, s in zip(pieces, self._shapes, strict=True)]
        count, information, center, outer, kl, histogram = parts
        spread = covariance(count, center, outer)
        values = {
            f"{self.stage}/active_units": active_units(spread, self.space).float(),
            f"{self.stage}/mutual_information": (information / count).float(),
        }
        module.log_dict(values, sync_dist=True)
        self._sums = None
        return LatentArrays(
            kl / count,
            variances(spread, self.space).sort(descending=True).values,
            histogram if self.space == "sphere" else histogram[:0],
        )


def show_arrays(module: LightningModule, stage: str, arrays: LatentArrays) -> None:
    """Sends histograms to the W&B logger of a fit, if it has one."""
    for logger in module.loggers:
        if isinstance(logger, WandbLogger) and module.trainer.is_global_zero:
            import wandb

            low, high = KAPPA_RANGE
            shown: dict[str, object] = {
                f"{stage}/kl_per_dimension": wandb.Histogram(arrays.kl_per_dimension.tolist()),
                f"{stage}/code_variances": wandb.Histogram(arrays.variances.tolist()),
            }
            if len(arrays.log10_kappa):
                edges = [low + (high - low) * i / KAPPA_BINS for i in range(KAPPA_BINS + 1)]
                counts = arrays.log10_kappa.tolist()
                shown[f"{stage}/log10_kappa"] = wandb.Histogram(np_histogram=(counts, edges))
            logger.log_metrics(shown, step=batches_that_stepped(module.trainer))  # type: ignore[arg-type]
