"""Lipschitz constraints by a penalty on the critic's gradient; n = |grad_x f| of each sample."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.layers.precision import at_least_float32
from zoo.training.distributed import gather_with_grad
from zoo.wgan.constraints.gradient import Critic, norm_of_each, value_and_gradient
from zoo.wgan.constraints.weights import Evaluated, Noise, Unconstrained


@dataclass(frozen=True)
class GradientPenalty(Unconstrained):
    """WGAN-GP: weight * E (n - 1)^2 between real and fake (arXiv 1704.00028, eq. 3).

    The points are alpha real + (1 - alpha) fake with one alpha ~ U(0, 1) a sample.

    >>> GradientPenalty(weight=10.0).penalty(torch.tensor([1.0, 2.0]))
    tensor(5.)

    Args:
        weight: The paper's lambda: 10, and 0.1 for its toys.
    """

    name = "gp"
    inner_gradient = True

    weight: float = 10.0

    def noise(self, real: Tensor) -> Tensor:
        """alpha, shape (B, 1, ...)."""
        shape = (len(real), *[1] * (real.ndim - 1))
        return torch.rand(shape, device=real.device, dtype=real.dtype)

    def points(self, real: Tensor, fake: Tensor, noise: Tensor) -> Tensor:
        """Where the gradient is taken."""
        return torch.lerp(fake, real, noise)

    def penalty(self, n: Tensor) -> Tensor:
        """The penalty, a scalar."""
        return self.weight * (n - 1).square().mean()

    def evaluate(
        self, critic: Critic, real: Tensor, fake: Tensor, labels: Tensor | None, noise: Noise
    ) -> Evaluated:
        """Values on real and fake, and the penalty at points of its own."""
        assert noise is not None
        values = super().evaluate(critic, real, fake, labels, noise)
        _, gradient = value_and_gradient(critic, self.points(real, fake, noise), labels)
        return values._replace(penalty=self.penalty(norm_of_each(gradient)))


@dataclass(frozen=True)
class LipschitzPenalty(GradientPenalty):
    """WGAN-LP: weight * E max(0, n - 1)^2 between real and fake (arXiv 1709.08894)."""

    name = "lp"

    def penalty(self, n: Tensor) -> Tensor:
        """The penalty, a scalar."""
        return self.weight * (n - 1).relu().square().mean()


@dataclass(frozen=True)
class DRAGAN(GradientPenalty):
    """DRAGAN: weight * E (n - 1)^2 around the real points (arXiv 1705.07215).

    The points are real + alpha 0.5 std(real) u with alpha ~ U(0, 1) a sample and u ~ U(0, 1) an
    entry.
    """

    name = "dragan"

    def noise(self, real: Tensor) -> Tensor:
        """The displacements, of the shape of real; std is that of the batch of all processes."""
        alpha, std = super().noise(real), gather_with_grad(real).std()
        return alpha * 0.5 * std * torch.rand_like(real)

    def points(self, real: Tensor, fake: Tensor, noise: Tensor) -> Tensor:
        """Where the gradient is taken."""
        return real + noise


@dataclass(frozen=True)
class DivergencePenalty(Unconstrained):
    """WGAN-div: (weight / 2) (E n^power on real + E n^power on fake) (arXiv 1712.01026).

    Args:
        weight: k; the paper's is 2.
        power: p; the paper's is 6.
    """

    name = "div"
    inner_gradient = True

    weight: float = 2.0
    power: float = 6.0

    def evaluate(
        self, critic: Critic, real: Tensor, fake: Tensor, labels: Tensor | None, noise: Noise
    ) -> Evaluated:
        """Values and gradients on real and fake, from one forward and one inner backward pass."""
        both = None if labels is None else torch.cat([labels, labels])
        f, gradient = value_and_gradient(critic, torch.cat([real, fake]), both)
        f, powers, B = at_least_float32(f), norm_of_each(gradient).pow(self.power), len(real)
        penalty = self.weight / 2 * (powers[:B].mean() + powers[B:].mean())
        return Evaluated(f[:B], f[B:], penalty)


@dataclass(frozen=True)
class R1(Unconstrained):
    """R1: (weight / 2) E n^2 on real (arXiv 1801.04406, eq. 9).

    Args:
        weight: gamma.
    """

    name = "r1"
    inner_gradient = True

    weight: float = 10.0

    def evaluate(
        self, critic: Critic, real: Tensor, fake: Tensor, labels: Tensor | None, noise: Noise
    ) -> Evaluated:
        """Values on both, the gradient on real."""
        # Two passes of B: in one of 2B the inner backward pass would be twice as long.
        on_real, gradient = value_and_gradient(critic, real, labels)
        on_fake = at_least_float32(critic(fake, labels))
        penalty = self.weight / 2 * norm_of_each(gradient).square().mean()
        return Evaluated(at_least_float32(on_real), on_fake, penalty)
