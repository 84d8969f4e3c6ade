"""log p(x) between two bounds that owe nothing to the encoder: annealed importance sampling.

Neal 2001 (arXiv physics/9803008); Wu, Burda, Salakhutdinov, Grosse 2017 (arXiv 1611.04273) for
decoders; bidirectional Monte Carlo, Grosse, Ghahramani, Adams 2015 (arXiv 1511.02543). Chains go
from the prior to the posterior through p(z) p(x|z)^beta, beta from 0 to 1, by Hamiltonian moves.
The weights' mean is unbiased for p(x), so its logarithm is a lower bound on average; the same path
backwards from a true posterior sample gives an upper one. There is one where x was simulated: the
code that it was made of. Bounds that meet prove an estimate; a gap says that there are too few
temperatures.

On spheres the moves follow great circles (Byrne, Girolami 2013, arXiv 1301.6064).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.layers.seeds import mix
from zoo.training.module import evaluating
from zoo.vae.density.importance import LogWeights, sample_noise

_TARGET, _UP, _DOWN = 0.65, 1.02, 0.98  # of the acceptance, and a step size's change
_FIRST, _SMALLEST, _LARGEST = 0.05, 1e-4, 0.5
_SHARPNESS = 4.0  # of the sigmoid schedule


class Bound(NamedTuple):
    """A bound of log p(x) of each datum, in nats, (B,) float64 each."""

    value: Tensor
    standard_error: Tensor
    """By the delta method over the chains. Those of an upper bound share their start, which it does
    not see: it is too small there, by a half or so."""
    acceptance: Tensor
    """Share of the moves that were accepted."""


class Euclidean:
    """R^d with the prior N(0, I), but for its constant."""

    def prior(self, noise: Tensor) -> Tensor:
        """A draw from the prior."""
        return noise

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p(z) up to a constant, over the last dimension."""
        return -0.5 * z.square().sum(-1)

    def tangent(self, z: Tensor, v: Tensor) -> Tensor:
        """The part of v along the space at z."""
        return v

    def prior_gradient(self, z: Tensor) -> Tensor:
        """Of log_prior."""
        return -z

    def move(self, z: Tensor, v: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Free motion for a time `step` (..., 1)."""
        return z + step * v, v


class Spheres:
    """A product of unit spheres with the uniform prior, as the base measure.

    >>> spheres, pole = Spheres([2]), torch.tensor([1.0, 0.0])
    >>> place, _ = spheres.move(pole, torch.tensor([0.0, 1.0]), torch.tensor([torch.pi / 2]))
    >>> place.round().abs().tolist()  # a quarter of the circle on
    [0.0, 1.0]

    Args:
        blocks: Numbers of each sphere's part of a code.
    """

    def __init__(self, blocks: list[int]) -> None:
        self.blocks = blocks

    def _each(self, f: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        split = zip(*(torch.split(part, self.blocks, dim=-1) for part in parts), strict=True)
        return torch.cat([f(*block) for block in split], dim=-1)

    def prior(self, noise: Tensor) -> Tensor:
        """A draw from the prior."""
        return self._each(lambda part: F.normalize(part, dim=-1), noise)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log p(z) against itself: 0."""
        return z.new_zeros(z.shape[:-1])

    def prior_gradient(self, z: Tensor) -> Tensor:
        """Of log_prior."""
        return torch.zeros_like(z)

    def tangent(self, z: Tensor, v: Tensor) -> Tensor:
        """The part of v along the spheres at z."""
        return self._each(lambda z, v: v - (z * v).sum(-1, keepdim=True) * z, z, v)

    def move(self, z: Tensor, v: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """Along great circles for a time `step` (..., 1)."""
        to, velocity = [], []
        parts = (torch.split(part, self.blocks, dim=-1) for part in (z, v))
        for place, speed in zip(*parts, strict=True):
            rate = speed.norm(dim=-1, keepdim=True).clamp_min(1e-20)
            cos, sin = torch.cos(rate * step), torch.sin(rate * step)
            to.append(F.normalize(place * cos + speed / rate * sin, dim=-1))
            velocity.append(speed * cos - place * rate * sin)
        return torch.cat(to, dim=-1), torch.cat(velocity, dim=-1)


Manifold = Euclidean | Spheres


def schedule(temperatures: int) -> Tensor:
    """The betas from 0 to 1, (temperatures,) float64: a sigmoid, slow at both ends.

    As published with arXiv 1611.04273.
    """
    s = torch.sigmoid(torch.linspace(-_SHARPNESS, _SHARPNESS, temperatures, dtype=torch.float64))
    return (s - s[0]) / (s[-1] - s[0])


class Annealer:
    """Annealed importance sampling of a batch.

    The step sizes, one a temperature and datum, are found by a first run over the path with noise
    of its own, and then fixed: steps that followed the chains that are weighted would bias them.

    Args:
        model: Has `log_likelihood(x, z)` and `latent_dim`.
        manifold: Where codes live, and their prior.
        x: Data, as the model takes them.
        index: Their numbers, int64 (B,), that all noise is a function of.
        chains: Chains a datum.
        temperatures: Betas from 0 to 1.
        leapfrog: Steps of a move.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        model: Any,
        manifold: Manifold,
        x: Any,
        index: Tensor,
        *,
        chains: int = 16,
        temperatures: int = 1000,
        leapfrog: int = 10,
        seed: int = 0,
    ) -> None:
        if chains < 2 or temperatures < 2 or leapfrog < 1:
            raise ValueError(
                f"chains={chains}, temperatures={temperatures}, leapfrog={leapfrog}: need at least "
                "2, 2 and 1"
            )
        self.model, self.manifold, self.x, self.index = model, manifold, x, index
        self.chains, self.leapfrog, self.seed = chains, leapfrog, seed
        self.betas = schedule(temperatures).tolist()
        self.steps: list[Tensor] = []  # (B,) a temperature, from the second on
        self._accepted: Tensor = torch.zeros(())
        floating = isinstance(x, Tensor) and x.is_floating_point()
        self._dtype = x.dtype if floating else torch.float32

    def lower(self) -> Bound:
        """The bound from the prior on."""
        if not self.steps:
            self._forward(0, adapt=True)
        return self._bound(self._forward(1, adapt=False), 1)

    def upper(self, z: Tensor) -> Bound:
        """The bound from exact posterior samples back.

        Args:
            z: One of each datum, (B, d): for simulated data, the code that it was made of.
        """
        if not self.steps:
            self._forward(0, adapt=True)
        return self._bound(self._backward(2, z), -1)

    def _bound(self, log_weights: Tensor, sign: int) -> Bound:
        weights = LogWeights(self.chains)
        weights.add(sign * log_weights)
        estimate = weights.estimate()
        return Bound(sign * estimate.log_density, estimate.standard_error, self._accepted)

    def _forward(self, run: int, *, adapt: bool) -> Tensor:
        """Log weights (K, B); T_t leaves p(z) p(x|z)^beta_t as it is."""
        with evaluating(self.model, precise=True):
            state = self._evaluate(self.manifold.prior(self._noise(run, 0)[..., :-1]))
            log_weights = torch.zeros_like(state[1], dtype=torch.float64)
            step = torch.full_like(state[1][0], _FIRST)
            self._accepted = torch.zeros_like(step)
            for t in range(1, len(self.betas)):
                log_weights += (self.betas[t] - self.betas[t - 1]) * state[1].double()
                if not adapt:
                    step = self.steps[t - 1]
                state, accepted = self._move(state, self.betas[t], step, self._noise(run, t))
                if adapt:
                    self.steps.append(step)
                    change = torch.where(accepted > _TARGET, _UP, _DOWN)
                    step = (step * change).clamp(_SMALLEST, _LARGEST)
        return log_weights

    def _backward(self, run: int, z: Tensor) -> Tensor:
        """Log weights (K, B) of the path walked back: move by T_t, then weigh."""
        with evaluating(self.model, precise=True):
            state = self._evaluate(z.expand(self.chains, *z.shape))
            log_weights = torch.zeros_like(state[1], dtype=torch.float64)
            self._accepted = torch.zeros_like(state[1][0])
            for t in range(len(self.betas) - 1, 0, -1):
                state, _ = self._move(state, self.betas[t], self.steps[t - 1], self._noise(run, t))
                log_weights += (self.betas[t] - self.betas[t - 1]) * state[1].double()
        return log_weights

    def _noise(self, run: int, t: int) -> Tensor:
        seed = mix(self.seed, 1 + run)
        count = self.model.latent_dim + 1
        noise = sample_noise(seed, self.index, t * self.chains, self.chains, count)
        return noise.to(self._dtype)

    def _evaluate(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The codes, log p(x|z) (K, B), and its gradient in z."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.model.log_likelihood(self.x, z)
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return z.detach(), value.detach(), gradient

    def _move(
        self, state: tuple[Tensor, Tensor, Tensor], beta: float, step: Tensor, noise: Tensor
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """One Hamiltonian move (arXiv 1206.1901), and the share of the chains that took it (B,)."""
        space, size = self.manifold, step[:, None]
        z, value, gradient = state

        def force(z: Tensor, gradient: Tensor) -> Tensor:
            return space.tangent(z, space.prior_gradient(z) + beta * gradient)

        v = space.tangent(z, noise[..., :-1])
        before = space.log_prior(z) + beta * value - 0.5 * v.square().sum(-1)
        v = v + 0.5 * size * force(z, gradient)
        for i in range(self.leapfrog):
            z, v = space.move(z, v, size)
            z, value, gradient = self._evaluate(z)
            half = 0.5 if i == self.leapfrog - 1 else 1.0
            v = v + half * size * force(z, gradient)
        after = space.log_prior(z) + beta * value - 0.5 * v.square().sum(-1)
        # The last normal number of a chain, as a uniform one; NaN is no acceptance.
        taken = torch.special.log_ndtr(noise[..., -1]) < after - before
        new = (z, value, gradient)
        kept = [
            torch.where(taken if b.ndim == 2 else taken[..., None], b, a)
            for a, b in zip(state, new, strict=True)
        ]
        share = taken.to(step.dtype).mean(0)
        self._accepted = self._accepted + share / (len(self.betas) - 1)
        return (kept[0], kept[1], kept[2]), share
