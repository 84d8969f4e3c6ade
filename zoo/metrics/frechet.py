"""Fréchet distance between Gaussians fitted to two sets of features.

A covariance Σ is carried as a factor F with F'F = Σ: Tr (Σ1^½ Σ2 Σ1^½)^½ is then the nuclear norm
of F1 F2', the sum of its singular values, which are known to d ε of the largest one. The roots of
the eigenvalues of Σ1 Σ2 are known to √ε of it only, half of the digits, wherever Σ is singular: a
set of no more features than dimensions, or a feature that is dead. Which half is kept depends on
the processor.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.metrics.checks import checked_features

_OFF = 1e-3  # of the largest number: what no rounding of a covariance comes to


class FeatureMoments:
    """Mean and covariance of features that arrive in batches, in float64 (Chan et al. 1979).

    The covariance is kept as the triangular factor of the centred features, the R of their QR
    decomposition. Features are centred about their batch's mean, and a row tells how far that is
    from the mean before it: nothing cancels when the mean is large.

    Args:
        dim: Number of features d.
        device: Where the sums live.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self._rows = torch.zeros(0, dim, dtype=torch.float64, device=device)

    def update(self, features_BD: Tensor) -> None:
        """Adds a batch (B, d)."""
        (x,) = checked_features(features_BD, width=len(self.mean))
        x = x.to(self.mean)
        if len(x) == 0:
            return
        mean = x.mean(0)
        total = self.count + len(x)
        shift = mean - self.mean
        between = shift * (self.count * len(x) / total).sqrt()
        self._add(x - mean, between[None])
        self.mean = self.mean + shift * (len(x) / total)
        self.count = total

    def all_reduce(self) -> None:
        """Makes the moments those of the features of all processes; does nothing without any."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        count, mean = self.count.clone(), self.mean * self.count
        dist.all_reduce(count)
        dist.all_reduce(mean)
        mean /= count.clamp(min=1)
        self._add(((self.mean - mean) * self.count.sqrt())[None])
        # Rows of zeros, so that all processes send equally many, change no product F'F.
        own = torch.zeros(len(mean), len(mean)).to(mean)
        factor = _triangle(self._rows)
        own[: len(factor)] = factor
        factors = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(factors, own)
        self._rows = _triangle(torch.cat(factors))
        self.count, self.mean = count, mean

    def _add(self, *rows: Tensor) -> None:
        """Adds rows to the factor, which is made triangular once it has twice the rows it needs."""
        self._rows = torch.cat([self._rows, *rows])
        if len(self._rows) > 2 * len(self.mean):
            self._rows = _triangle(self._rows)

    @property
    def factor(self) -> Tensor:
        """F of at most d rows, F'F being the unbiased covariance, of two features or more."""
        if self.count < 2:
            raise ValueError(
                f"a covariance needs at least 2 images, got {int(self.count)}: draw more samples"
            )
        return _triangle(self._rows) / (self.count - 1).sqrt()

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (d, d); raises what `factor` does."""
        return self.factor.T @ self.factor


def _triangle(rows_ND: Tensor) -> Tensor:
    """At most d rows with the same product F'F."""
    if len(rows_ND) <= rows_ND.shape[1]:
        return rows_ND
    return torch.linalg.qr(rows_ND, mode="r").R


def _root(covariance: Tensor) -> Tensor:
    """A factor F of a covariance that has been rounded, F'F = Σ.

    Rounding moves eigenvalues by d ε of the largest one. Those that are no larger are taken for the
    zeros of a singular covariance, whose roots would be √(d ε), not 0.
    """
    precision = torch.finfo(covariance.dtype).eps
    values, vectors = torch.linalg.eigh(covariance.double())
    if values[0] < -_OFF * values[-1].abs() or not torch.allclose(
        covariance, covariance.T, rtol=0, atol=_OFF * float(covariance.abs().max())
    ):
        raise ValueError("no covariance: it is not symmetric, or has a negative eigenvalue")
    values = values.where(values > len(values) * precision * values[-1], 0).clamp(min=0)
    return (vectors * values.sqrt()).T


def gaussian_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> Tensor:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians (Heusel et al. 2017, 1706.08500).

    |μ1 - μ2|² + Tr(Σ1 + Σ2 - 2 (Σ1^½ Σ2 Σ1^½)^½). Near singularity a covariance in floating point
    fixes its root to √ε only: of features, `frechet_distance` says more.

    Means are (d,), covariances (d, d), whose dtype tells how they were rounded. The distance is a
    float64 scalar, at least 0.
    """
    means, covs = (
        [t if t.is_floating_point() else t.double() for t in map(torch.as_tensor, pair)]
        for pair in ((mean_1, mean_2), (cov_1, cov_2))
    )
    d = means[0].numel()
    if not d or any(m.shape != (d,) for m in means) or any(c.shape != (d, d) for c in covs):
        shapes = ", ".join(str(tuple(t.shape)) for t in (means[0], covs[0], means[1], covs[1]))
        raise ValueError(f"means and covariances have shapes {shapes}: give (d,) and (d, d)")
    if not all(bool(t.isfinite().all()) for t in (*means, *covs)):
        raise ValueError("a mean or covariance is not finite: the features it is of were not")
    return _distance(means[0], _root(covs[0]), means[1], _root(covs[1]))


def frechet_distance(moments_1: FeatureMoments, moments_2: FeatureMoments) -> Tensor:
    """Fréchet distance of two sets of features; with Inception features this is the FID.

    Biased upwards by an amount that grows as sets shrink: compare numbers of equal counts only.
    Known to a few d ε of the traces of both covariances, singular or not; float64, at least 0.
    """
    return _distance(moments_1.mean, moments_1.factor, moments_2.mean, moments_2.factor)


def _distance(mean_1: Tensor, root_1: Tensor, mean_2: Tensor, root_2: Tensor) -> Tensor:
    """|μ1 - μ2|² + |F1|² + |F2|² - 2 |F1 F2'|*, |.|* being the nuclear norm."""
    cross = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    traces = root_1.square().sum() + root_2.square().sum()
    distance = (mean_1.double() - mean_2.double()).square().sum() + traces - 2 * cross
    return distance.clamp(min=0)
