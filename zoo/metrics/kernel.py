"""Kernel distance (KID) between two sets of features."""

import torch
from torch import Tensor

from zoo.layers.precision import at_least_float32
from zoo.metrics.checks import checked_features
from zoo.waiting import waiting


def polynomial_kernel(x_MD: Tensor, y_ND: Tensor) -> Tensor:
    """k(x, y) = (x·y / d + 1)³, shape (M, N)."""
    return (x_MD @ y_ND.T / x_MD.shape[1] + 1) ** 3


def squared_mmd(x_MD: Tensor, y_ND: Tensor) -> Tensor:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3).

    Mean of k(x, x') over pairs x ≠ x', plus that of k(y, y'), minus twice the mean of k(x, y). It
    can be slightly negative.
    """
    x_MD, y_ND = (at_least_float32(t) for t in (x_MD, y_ND))
    m, n = len(x_MD), len(y_ND)
    if min(m, n) < 2:
        raise ValueError(f"squared_mmd needs at least 2 items a set, got {m} and {n}")
    k_xx, k_yy = polynomial_kernel(x_MD, x_MD), polynomial_kernel(y_ND, y_ND)
    within_x = (k_xx.sum() - k_xx.trace()) / (m * (m - 1))
    within_y = (k_yy.sum() - k_yy.trace()) / (n * (n - 1))
    return within_x + within_y - 2 * polynomial_kernel(x_MD, y_ND).mean()


def kernel_distance(
    x: Tensor, y: Tensor, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Kernel Inception distance (Binkowski et al. 2018, 1801.01401) on any features.

    The mean of `squared_mmd` over random subsets. Sets that are no larger than a subset are used
    whole, once.

    Args:
        x: Features (M, d).
        y: Features (N, d).
        subsets: Number of subsets.
        subset_size: Items in each, drawn without replacement.
        seed: Seed of the subsets.

    Returns:
        Mean and standard deviation over the subsets, float64 scalars.

    Raises:
        ValueError: A set or subset has fewer than two items, or features of another number or not
            finite.
    """
    x, y = checked_features(x, y)
    if min(len(x), len(y), subset_size) < 2 or subsets < 1:
        raise ValueError(
            f"a kernel distance needs at least 2 images a set, got {len(x)}, {len(y)} in {subsets} "
            f"subsets of {subset_size}"
        )
    x, y = x.double(), y.double()
    if max(len(x), len(y)) <= subset_size:
        estimate = squared_mmd(x, y)
        return estimate, torch.zeros_like(estimate)
    generator = torch.Generator().manual_seed(seed)
    size = min(subset_size, len(x), len(y))
    estimates = []
    for _ in waiting(range(subsets), "kernel distance", unit="subsets"):
        i, j = (torch.randperm(len(z), generator=generator)[:size].to(z.device) for z in (x, y))
        estimates.append(squared_mmd(x[i], y[j]))
    values = torch.stack(estimates)
    return values.mean(), values.std(correction=0)
