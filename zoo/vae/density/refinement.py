"""A proposal of each datum's own: the encoder's, improved by a few Newton steps, with heavy tails.

An encoder's posterior is the same map for all data and has no correlations, so it misses parts of
p(z|x) that importance weights need. Here N(mean, L L^T) follows p(z|x) itself, in the coordinates
of `zoo.vae.charts`: Newton's method for the Gaussian that is closest to it, with the mean gradient
and the mean Hessian over that Gaussian (arXiv 2107.04562) instead of those at one point, which in a
network of piecewise linear units say little. The means are by cubature (Arasaratnam, Haykin 2009):
the 2 n points mean +- sqrt(n) L e_i. By Stein's lemma gradients are enough for the Hessian. There
is no noise in it, so the samples that weigh a datum are independent of how its proposal was chosen,
and the mean weight stays unbiased.

What is drawn from is the mixture of a multivariate t law of that mean and scale, whose tails are
heavier than those of any p(z|x), with a tenth of the encoder's posterior.
"""

import math
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from zoo.memory import check_memory
from zoo.vae.charts import Chart
from zoo.vae.posteriors import Posterior

STEPS = 5  # a tenth brings little on the models that ship
_FREEDOM = 5  # degrees of freedom of the t law
_DEFENSIVE = 0.1  # share of the encoder's posterior
_LIMIT = NormalDist().inv_cdf(1 - _DEFENSIVE)
_CURVATURE = (0.1, 10.0)  # smallest and largest change of a variance in a step, inverted
_REACH = 1.5  # longest step, in standard deviations a coordinate
_BACK = 3.0  # by which a step is shortened that did not help


def described(steps: int, widen: float) -> str:
    """How a proposal was made, for reports of numbers."""
    own = f"a proposal of its own ({steps} steps)" if steps else "the encoder's posterior"
    return f"from {own}" + ("" if widen == 1 else f", {widen:g} times as wide")


class RefinedProposal:
    """A mixture of a t law of each datum's own and of the encoder's posterior, to draw from.

    Args:
        encoder: The encoder's posteriors.
        chart: Their chart.
        mean: Location of the t laws, (B, n).
        factor: L of their scale L L^T, (B, n, n).
    """

    def __init__(self, encoder: Posterior, chart: Chart, mean: Tensor, factor: Tensor) -> None:
        self.encoder, self.chart, self.mean, self.factor = encoder, chart, mean, factor
        n = self.dim = mean.shape[-1]
        # The number that chooses, then the numbers of the chosen.
        self.noise_dim = 1 + max(n + _FREEDOM, encoder.noise_dim)
        half = (n + _FREEDOM) / 2
        self._constant = math.lgamma(half) - math.lgamma(_FREEDOM / 2)
        self._constant -= n / 2 * math.log(_FREEDOM * math.pi)
        self._log_volume = torch.linalg.slogdet(factor).logabsdet
        self._whiten = torch.linalg.inv(factor)

    def draw(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws (K, B, d) and their log q(z|x) - log p(z); noise is (K, B, noise_dim), normal."""
        chooser, noise = noise[..., :1], noise[..., 1:]
        theirs = self.encoder.rsample(noise[..., : self.encoder.noise_dim])
        e = noise[..., : self.dim + _FREEDOM].to(self.mean)
        e, rest = torch.split(e, [self.dim, _FREEDOM], dim=-1)
        e = e * (_FREEDOM / rest.square().sum(-1, keepdim=True)).sqrt()
        own, _ = self.chart.codes(self.mean + _each(self.factor, e))
        z = torch.where(chooser > _LIMIT, theirs, own.to(theirs))
        return z, self.log_ratio(z)

    def log_ratio(self, z: Tensor) -> Tensor:
        """The log ratio log q(z|x) - log p(z) of z (K, B, d), float64 (K, B)."""
        u = self.chart.coordinates(z.to(self.mean))
        square = _each(self._whiten, u - self.mean).square().sum(-1)
        log_t = self._constant - (self.dim + _FREEDOM) / 2 * torch.log1p(square / _FREEDOM)
        own = log_t - self._log_volume - self.chart.codes(u)[1]
        theirs = self.encoder.log_ratio(z).to(own)
        return torch.logaddexp(own + math.log1p(-_DEFENSIVE), theirs + math.log(_DEFENSIVE))


def refine(
    model: Any, x: Any, q: Posterior, *, steps: int, chunk: int, widen: float = 1.0
) -> RefinedProposal:
    """The proposal that `steps` Newton steps make of the encoder's.

    A step that does not bring a datum's law closer to p(z|x) is taken back, and the next one is a
    third as long, in its mean and in its scale; after one that does it may be twice as long again.

    Args:
        model: Has `log_likelihood(x, z)`.
        x: Data, as the model takes them.
        q: The encoder's posteriors of them.
        steps: Newton steps; each takes 2 n gradients of log p(x|z), for n coordinates.
        chunk: Points of a datum at a time.
        widen: Factor on the scale.
    """
    chart = q.chart()
    # Some matrices of each datum at a time.
    check_memory(f"refine={steps}", 64 * chart.mean.numel() * chart.mean.shape[-1])
    mean, factor = fit(model, x, q, chart, steps=steps, chunk=chunk)
    return RefinedProposal(q, chart, mean, widen * factor)


def fit(
    model: Any, x: Any, q: Posterior, chart: Chart, *, steps: int, chunk: int
) -> tuple[Tensor, Tensor]:
    """Mean (B, n) and L (B, n, n) of the Gaussians N(mean, L L^T) close to p(z|x); see `refine`."""
    n = chart.mean.shape[-1]
    like = q.mode
    # Backwards through a recurrent network in evaluation is what cuDNN cannot do.
    cudnn = not any(isinstance(module, nn.RNNBase) for module in model.modules())
    unit = math.sqrt(n) * torch.eye(n).to(chart.mean)
    points = torch.cat([unit, -unit])[:, None]

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        """Values (K, B) of log p(x, z) in the coordinates u (K, B, n), and their gradients."""
        # A Trainer's tests are in inference mode, whose tensors have no gradients, but copies do.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.backends.cudnn.flags(enabled=cudnn),
        ):
            data = x.clone() if isinstance(x, Tensor) else x
            u = u.detach().clone().requires_grad_()
            z, log_prior = chart.codes(u)
            value = model.log_likelihood(data, z.to(like)).to(log_prior) + log_prior
            return value.detach(), torch.autograd.grad(value.sum(), u)[0]

    def measure(mean: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """L^T times the gradients at the points (2 n, B, n); the ELBO but for a constant, (B,)."""
        parts = [evaluate(mean + _each(factor, part)) for part in torch.split(points, chunk)]
        values, gradients = (torch.cat(column) for column in zip(*parts, strict=True))
        elbo = values.mean(0) + torch.linalg.slogdet(factor).logabsdet
        return _each(factor.mT, gradients).nan_to_num(0.0, 0.0, 0.0), elbo

    mean, factor = chart.mean, torch.diag_embed(chart.deviation)
    score, elbo = measure(mean, factor)
    length = torch.ones_like(elbo)  # of a step, of each datum
    for _ in range(steps):
        precision = (score[n:] - score[:n]).transpose(0, 1) / (2 * math.sqrt(n))
        curvature, axes = torch.linalg.eigh((precision + precision.mT) / 2)
        curvature = curvature.clamp(*_CURVATURE)
        step = _each(axes.mT, score.mean(0)) / curvature
        step = step / (step.norm(dim=-1, keepdim=True) / (_REACH * math.sqrt(n))).clamp_min(1)
        scale = curvature ** (-length[:, None] / 2)
        # The symmetric root: axes of equal curvature are arbitrary, and it does not depend on them.
        found = (
            mean + _each(factor @ axes, length[:, None] * step),
            factor @ (axes * scale[:, None]) @ axes.mT,
        )
        found_score, found_elbo = measure(*found)
        better = found_elbo > elbo  # not where it is NaN
        length = torch.where(better, (2 * length).clamp_max(1), length / _BACK)
        mean = torch.where(better[:, None], found[0], mean)
        factor = torch.where(better[:, None, None], found[1], factor)
        score = torch.where(better[:, None], found_score, score)
        elbo = torch.where(better, found_elbo, elbo)
    return mean, factor


def _each(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Each datum's matrix (B, n, n) times its vectors (..., B, n)."""
    return torch.einsum("bij,...bj->...bi", matrix, vectors)
