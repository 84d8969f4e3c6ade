"""Fréchet distance between Gaussians fitted to two sets of features."""

import torch
import torch.distributed as dist
from torch import Tensor


class FeatureMoments:
    """Mean and covariance of features that arrive in batches, in float64 (Chan et al. 1979).

    Sums of squares about the running mean, not about zero: nothing cancels when the mean is large.

    Args:
        dim: Number of features d.
        device: Where the sums live.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def update(self, features_BD: Tensor) -> None:
        """Adds a batch (B, d)."""
        x = features_BD.to(self.mean)
        if len(x) == 0:
            return
        mean = x.mean(0)
        total = self.count + len(x)
        shift = mean - self.mean
        self.scatter += (x - mean).T @ (x - mean)
        self.scatter += torch.outer(shift, shift) * (self.count * len(x) / total)
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
        shift = self.mean - mean
        self.scatter += torch.outer(shift, shift) * self.count
        dist.all_reduce(self.scatter)
        self.count, self.mean = count, mean

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance (d, d).

        Raises:
            ValueError: There are fewer than two features.
        """
        if self.count < 2:
            raise ValueError(
                f"a covariance needs at least 2 images, got {int(self.count)}: draw more samples"
            )
        return torch.div(self.scatter, self.count - 1)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root


def gaussian_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> Tensor:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians (Heusel et al. 2017, 1706.08500).

    |μ1 - μ2|² + Tr(Σ1 + Σ2 - 2 (Σ1^½ Σ2 Σ1^½)^½), where the last trace is the sum of the roots of
    the eigenvalues of a symmetric matrix: real and stable also for singular Σ, unlike sqrtm(Σ1 Σ2).

    Args:
        mean_1: (d,).
        cov_1: (d, d).
        mean_2: (d,).
        cov_2: (d, d).

    Returns:
        A float64 scalar, at least 0.
    """
    mean_1, cov_1, mean_2, cov_2 = (t.double() for t in (mean_1, cov_1, mean_2, cov_2))
    root = _root(cov_1)
    cross = torch.linalg.eigvalsh(root @ cov_2 @ root).clamp(min=0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * cross
    clamped: Tensor = distance.clamp(min=0)
    return clamped


def frechet_distance(moments_1: FeatureMoments, moments_2: FeatureMoments) -> Tensor:
    """Fréchet distance of two sets of features; with Inception features this is the FID.

    Biased upwards by an amount that grows as sets shrink: compare numbers of equal counts only.
    """
    return gaussian_distance(
        moments_1.mean, moments_1.covariance, moments_2.mean, moments_2.covariance
    )
