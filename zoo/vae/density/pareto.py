"""Pareto-k: does the law of the importance weights have the moments that error bars rely on?

Vehtari, Simpson, Gelman, Yao, Gabry: "Pareto smoothed importance sampling" (arXiv 1507.02646). The
largest weights are fitted by a generalised Pareto law of shape k: moments of order 1/k and above do
not exist. k < 0.5: finite variance; k > 0.7: the estimate and its standard error are not reliable,
however small the latter looks.
"""

import math

import torch
from torch import Tensor

UNRELIABLE = 0.7  # arXiv 1507.02646, section 3.2


def tail_length(samples: int) -> int:
    """How many of the largest weights the tail is: min(M/5, 3 sqrt(M)), rounded up."""
    return math.ceil(min(samples / 5, 3 * math.sqrt(samples)))


def pareto_k(largest: Tensor, samples: int) -> Tensor:
    """Shape k of the tail of the importance weights of each datum.

    Args:
        largest: The largest log weights, descending, (at least tail_length(samples) + 1, B).
        samples: Number M of all weights that they are the largest of.

    Returns:
        (B,), in the dtype of `largest`. NaN for fewer than 21 samples, whose tail is too short for
        a fit; -inf where the whole tail is within 0.1 % of one value: there is nothing to fear;
        inf where fewer than five weights stand out from the others, which are equal or zero.
    """
    tail = tail_length(samples)
    if tail < 5:
        return largest.new_full(largest.shape[1:], math.nan)
    weights = torch.exp(largest[: tail + 1] - largest[0])
    exceedances = (weights[:-1] - weights[-1]).flip(0)
    k = fit_generalized_pareto(exceedances)
    return torch.where(exceedances[-1] <= 1e-3, -math.inf, k)


def fit_generalized_pareto(exceedances: Tensor) -> Tensor:
    """Shape k by the empirical Bayes estimate of Zhang and Stephens (Technometrics 51, 2009).

    With the weak prior of PSIS (arXiv 1507.02646, appendix C), which draws k to 0.5 as ten
    observations would.

    Args:
        exceedances: Excess over the threshold, ascending, (N, B). Zeros are ties with the
            threshold, of weights that come in steps of rounding, and do not count.

    Returns:
        (B,); inf where fewer than five are left.
    """
    counts = exceedances > 0
    n = counts.sum(0).clamp_min(1)
    x = exceedances / exceedances[-1].clamp_min(torch.finfo(exceedances.dtype).tiny)
    quartile = x.gather(0, (len(x) - n + (n / 4 + 0.5).long() - 1).clamp(max=len(x) - 1)[None])[0]

    def shape(b: Tensor) -> Tensor:  # mean of log(1 - b x); a zero adds nothing
        return torch.log1p(-b * x).sum(0) / n

    # b = k / sigma on a grid; the law's support ends at 1 / b > max(x) = 1 for b > 0.
    grid = 30 + int(math.sqrt(len(x)))
    j = torch.arange(1, grid + 1, dtype=x.dtype, device=x.device)
    b = 1 + (1 - torch.sqrt(grid / (j - 0.5)))[:, None] / (3 * quartile)  # (grid, B)
    # Row by row: (grid, N, B) at once would be the largest tensor of an estimate.
    k = torch.stack([shape(row) for row in b])
    log_likelihood = n * (torch.log(-b / k) - k - 1)
    posterior = torch.softmax(log_likelihood, dim=0)
    k = shape((posterior * b).sum(0))
    return torch.where(n < 5, math.inf, (n * k + 5) / (n + 10))
