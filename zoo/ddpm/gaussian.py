"""Gaussians of the variational bound: their KL divergence, and the decoder over grey levels."""

import math
from typing import Literal

import torch
from torch import Tensor

CDF = Literal["tanh", "erf"]


def normal_kl(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """KL(N(mean1, exp(log_var1)) || N(mean2, exp(log_var2))) in nats, elementwise."""
    return 0.5 * (
        log_var2
        - log_var1
        + torch.exp(log_var1 - log_var2)
        + (mean1 - mean2) ** 2 * torch.exp(-log_var2)
        - 1
    )


def _cdf(z: Tensor, cdf: CDF) -> Tensor:
    if cdf == "erf":
        return torch.special.ndtr(z)
    # (1 + tanh(y)) / 2 = sigmoid(2 y), which keeps its digits in the lower tail.
    return torch.sigmoid(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))


def discretized_log_prob(
    x: Tensor, mean: Tensor, log_var: Tensor, levels: int, cdf: CDF = "tanh"
) -> Tensor:
    """Log-mass of the grey level x under N(mean, exp(log_var)) (arXiv 2006.11239, eq. 13).

    A level is the bin of half width 1 / (levels - 1) around it; the first and the last one reach to
    infinity. Masses below 1e-12 count as 1e-12, as in the published evaluations.

    Args:
        x: Grey levels 2 v / (levels - 1) - 1 for v = 0 ... levels - 1.
        mean: Mean, of the shape of x.
        log_var: Log of the variance; shape of x.
        levels: Number of grey levels; 256 for 8-bit images.
        cdf: tanh for the approximation that all published numbers use (within 1.8e-4 of the normal
            distribution function), erf for the function itself.

    Returns:
        Log-probabilities in nats, elementwise.
    """
    half = 1 / (levels - 1)
    scale = torch.exp(-0.5 * log_var)
    above = x > mean
    # The mass of a bin above the mean is that of its mirror image below: a difference of two small
    # numbers instead of two numbers near 1.
    centre = -(x - mean).abs()
    upper, lower = _cdf((centre + half) * scale, cdf), _cdf((centre - half) * scale, cdf)
    # An outermost bin reaches to infinity on its outer side; above the mean, sides are swapped.
    first, last = x < -1 + half / 2, x > 1 - half / 2
    open_below = torch.where(above, last, first)
    open_above = torch.where(above, first, last)
    mass = torch.where(open_above, 1 - lower, upper - torch.where(open_below, 0, lower))
    return torch.log(mass.clamp(min=1e-12))
