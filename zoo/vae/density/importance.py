"""log p(x) of a latent variable model by importance sampling, with its error bars.

kexue.fm/archives/8791 and arXiv 1509.00519: with the encoder as nothing but a proposal q(z|x),
p(x) = E_q[w], w = p(x|z) p(z) / q(z|x). The mean of M weights is unbiased for p(x); its logarithm
L_M = log (1/M) sum_i w_i is low by about chi^2 / 2M and has variance chi^2 / M, where chi^2 is the
relative variance of w. Both hold for chi^2 << M only, which is what Pareto-k watches over.

Letters: the post calls the encoder p and the model q; here p is the model, as in most papers.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.display import Table
from zoo.layers.counter_rng import normal
from zoo.training.module import evaluating
from zoo.vae.charts import precise
from zoo.vae.density.pareto import pareto_k, tail_length
from zoo.vae.density.refinement import refine as refined

_KEPT = 512  # at least so many of the largest weights of a datum are kept as they are
_POWERS = 6  # of the others only sums of powers: each is below 1/512, so w^7 no longer counts


class DensityEstimate(NamedTuple):
    """What M weights say about each datum, in nats, (B,) float64 each."""

    log_density: Tensor
    """L_M: log p(x) from below in the mean, tighter with every sample."""
    standard_error: Tensor
    """Of log_density, by the delta method; NaN for one sample."""
    ess: Tensor
    """Effective sample size 1 / sum of squared normalised weights, between 1 and M."""
    pareto_k: Tensor
    """Shape of the weights' tail: above 0.7 neither value nor error is reliable."""
    jackknife: Tensor
    """log_density with its bias of order 1/M removed: no bound any more; NaN for one sample."""
    elbo: Tensor
    """Mean log weight: the evidence lower bound of the proposal, that of one sample."""

    def _repr_html_(self) -> str:
        return Table(self._asdict())._repr_html_()


class LogWeights:
    """Log weights of each datum as a stream, in memory that does not grow with it.

    >>> weights = LogWeights(samples=2)
    >>> weights.add(torch.tensor([[1.0], [3.0]]).log())
    >>> round(weights.estimate().log_density.exp().item(), 6)
    2.0

    Args:
        samples: Number M of weights that will come.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.kept = max(_KEPT, tail_length(samples) + 1)
        self.count = 0
        self._parts: list[Tensor] = []
        self._held = 0
        self._sum: Tensor | float = 0.0
        self._scale: Tensor | None = None  # (B,): the powers are of exp(log weight - scale)
        self._powers: Tensor | None = None  # (_POWERS, B)

    def add(self, log_weights: Tensor) -> None:
        """Takes the next log weights, (K, B)."""
        part = log_weights.double()
        self.count += len(part)
        self._sum = self._sum + part.sum(0)
        self._parts.append(part)
        self._held += len(part)
        if self._held > 2 * self.kept:  # not at every chunk: most of the time would go to sorting
            self._reduce()

    def _reduce(self) -> Tensor:
        """Leaves the largest weights, descending; the others go into the sums of powers."""
        ordered = torch.cat(self._parts).sort(dim=0, descending=True).values
        largest, rest = ordered[: self.kept], ordered[self.kept :]
        self._parts, self._held = [largest], len(largest)
        if len(rest):
            top = rest[0].clamp_min(torch.finfo(rest.dtype).min)  # not -inf - -inf
            scale = top if self._scale is None else torch.maximum(top, self._scale)
            k = torch.arange(1, _POWERS + 1, dtype=rest.dtype, device=rest.device)[:, None]
            weights = torch.exp(rest - scale)
            powers = torch.stack([weights.pow(i + 1).sum(0) for i in range(_POWERS)])
            if self._powers is not None and self._scale is not None:
                powers = powers + self._powers * torch.exp(k * (self._scale - scale))
            self._scale, self._powers = scale, powers
        return largest

    def estimate(self) -> DensityEstimate:
        """The estimate from all weights that came."""
        assert self.count == self.samples, (self.count, self.samples)
        M = self.samples
        largest = self._reduce()
        powers = largest.new_zeros(_POWERS, largest.shape[1])
        log_rest = largest.new_full(largest.shape[1:], -math.inf)
        if self._powers is not None and self._scale is not None:
            powers, log_rest = self._powers, self._scale + torch.log(self._powers[0])
        log_others = torch.logaddexp(torch.logsumexp(largest[1:], 0), log_rest)  # without the first
        log_sum = torch.logaddexp(largest[0], log_others)
        normalised = torch.exp(largest - log_sum)
        if self._scale is not None:
            k = torch.arange(1, _POWERS + 1, dtype=powers.dtype, device=powers.device)[:, None]
            powers = powers * torch.exp(k * (self._scale - log_sum))
        squares = normalised.square().sum(0) + powers[1]
        log_density = log_sum - math.log(M)
        error = torch.sqrt((M * squares - 1).clamp_min(0) / (M - 1)) if M > 1 else None
        # Nowozin 2018, JVI-1: M L_M - (M - 1) mean_i L_{M-1} without weight i, and the latter is
        # log_sum + log(1 - w_i) - log(M - 1). Only the first w_i can be near 1.
        missing = log_others - log_sum + torch.log1p(-normalised[1:]).sum(0)
        missing = missing - sum(powers[i] / (i + 1) for i in range(_POWERS))
        jackknife = log_density + (M - 1) * (math.log1p(-1 / M) - missing / M) if M > 1 else None
        undefined = torch.full_like(log_density, math.nan)
        return DensityEstimate(
            log_density=log_density,
            standard_error=undefined if error is None else error,
            ess=1 / squares,
            pareto_k=pareto_k(largest, M),
            jackknife=undefined if jackknife is None else jackknife,
            elbo=torch.as_tensor(self._sum) / M,
        )


def sample_noise(seed: int, index: Tensor, first: int, count: int, dim: int) -> Tensor:
    """Noise of samples first, first + 1, ... of each datum: a function of (seed, datum, sample).

    Args:
        seed: Chooses the family of streams.
        index: Numbers of the data, int64, (B,).
        first: Number of the first sample.
        count: How many samples.
        dim: Normal numbers of a sample.

    Returns:
        float32, (count, B, dim).
    """
    sample = torch.arange(first, first + count, device=index.device)
    return normal(seed, index, sample, (dim,))


def default_chunk(batch: int, numbers: int, device: torch.device) -> int:
    """Samples of a datum at a time: about 4 MB of float32 on a CPU, 64 MB elsewhere.

    Args:
        batch: Data at a time.
        numbers: What decoding one sample makes.
        device: Where.
    """
    room: int = 2**20 if device.type == "cpu" else 2**24
    return max(1, room // max(batch * numbers, 1))


def estimate_log_density(
    model: Any,
    x: Any,
    index: Tensor,
    *,
    samples: int,
    seed: int = 0,
    widen: float = 1.0,
    refine: int = 0,
    chunk: int | None = None,
) -> DensityEstimate:
    """Estimates log p(x) of each datum from `samples` weights, with its error bars.

    The encoder runs once. A datum's estimate is a function of (model, datum, seed, its number,
    samples), to rounding: neither the batch it comes in nor `chunk` matter.

    Args:
        model: Has `posterior(x)`, `log_likelihood(x, z)` and `dimensions`; where decoding makes
            more numbers than these, `decoded_numbers` says how many.
        x: Data, as the model takes them.
        index: Their numbers, int64, (B,), on the device of the model.
        samples: Weights a datum, M; exactly so many are drawn.
        seed: Seed of the noise.
        widen: Factor on the standard deviation of the proposal: a little too wide is far safer
            than a little too narrow, whose weights can have infinite variance.
        refine: Newton steps from the encoder's posterior to a proposal of each datum's own; 0 to
            draw from the posterior itself, as published protocols do.
        chunk: Samples of a datum that are decoded at a time: memory is in proportion to it.

    Raises:
        ValueError: A number is out of range.
    """
    if samples < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"samples={samples}, chunk={chunk}: both must be 1 or more")
    if refine < 0:
        raise ValueError(f"refine={refine}: a number of steps, or 0 for none")
    if not 0 < widen < math.inf:
        raise ValueError(f"widen={widen}: a factor above 0, such as 1.2")
    if chunk is None:
        numbers = getattr(model, "decoded_numbers", model.dimensions)
        chunk = default_chunk(len(index), numbers, index.device)
    weights = LogWeights(samples)
    with evaluating(model, precise=True):
        q = model.posterior(x)
        if widen != 1:
            q = q.widen(widen)
        if refine:
            q = refined(model, x, q, steps=refine, chunk=chunk, widen=widen)
        for first in range(0, samples, chunk):
            noise = sample_noise(seed, index, first, min(chunk, samples - first), q.noise_dim)
            z, log_ratio = q.draw(noise)
            log_likelihood = model.log_likelihood(x, z)
            weights.add(precise(log_likelihood) - precise(log_ratio))
    return weights.estimate()
