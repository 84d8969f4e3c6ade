"""How good samples in the plane are: modes, quality, and the exact distance to real points."""

import math

import torch
from torch import Tensor

from zoo.data.toy2d import ToyName, mixture
from zoo.wgan.transport import exact_w1

RADIUS = 0.1  # of a mode, for its coverage: a seventh of the least distance between centres
_W1_POINTS = 1000
_SHARE = 20 / 2500  # of the samples that make a mode count as covered


def toy_metrics(samples: Tensor, name: ToyName, reference: Tensor) -> dict[str, float]:
    """Metrics of samples of a distribution of `zoo.data.Toy2D`.

    Where there are modes: `modes`, how many have at least 20 of 2,500 samples (or that share)
    within `RADIUS`; `near`, the share of samples within `RADIUS` of a mode; `high_quality`, within
    3 standard deviations; `reverse_kl`, KL(samples | uniform) of the nearest modes, in nats, from 0
    to log K. Always: `w1`, the exact distance of the first 1,000 samples to the first 1,000 real
    points; `w1_real`, of the next 1,000 real points to those; `w1_ratio` of the two.

    Args:
        samples: (N, 2), N at least 1,000.
        name: The distribution.
        reference: Real points (M, 2), M at least 2,000.

    Raises:
        ValueError: There are too few samples or real points.
    """
    n = _W1_POINTS
    if len(samples) < n or len(reference) < 2 * n:
        raise ValueError(
            f"toy metrics need {n} samples and {2 * n} real points, got {len(samples)} and "
            f"{len(reference)}"
        )
    w1, real = (exact_w1(p, reference[:n]) for p in (samples[:n], reference[n : 2 * n]))
    distances = {"w1": float(w1), "w1_real": float(real), "w1_ratio": float(w1 / real)}
    modes = mixture(name)
    return distances if modes is None else mode_metrics(samples, *modes) | distances


def mode_metrics(samples: Tensor, centres: Tensor, std: float) -> dict[str, float]:
    """`modes`, `near`, `high_quality` and `reverse_kl` of `toy_metrics`, of centres (K, 2)."""
    K = len(centres)
    distance, nearest = torch.cdist(samples.double(), centres.to(samples).double()).min(1)
    near = distance <= RADIUS
    covered = torch.bincount(nearest[near], minlength=K) >= _SHARE * len(samples)
    histogram = torch.bincount(nearest, minlength=K).double() / len(samples)
    return {
        "modes": float(covered.sum()),
        "near": float(near.double().mean()),
        "high_quality": float((distance <= 3 * std).double().mean()),
        "reverse_kl": float(torch.special.xlogy(histogram, histogram).sum()) + math.log(K),
    }
