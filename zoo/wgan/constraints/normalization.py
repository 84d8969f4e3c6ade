"""Gradient normalisation of the critic (kexue.fm/archives/8757), and its closed form for G.

Both are functions of f and n = |grad_x f|. Where f is piecewise linear, n is constant around
almost every x, so grad_x f_hat = slope(f, n) grad_x f with the slope of f_hat as a function of f
alone: the generator's step needs no double backward. The critic's step does, because n depends on
its weights.

What holds is |grad_x f_hat| <= 1 inside each linear piece. From one piece to the next n jumps, and
f_hat with it: it is not Lipschitz on the whole space.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.layers.precision import at_least_float32
from zoo.wgan.constraints.gradient import Critic, norm_of_each, value_and_gradient
from zoo.wgan.constraints.piecewise_linear import check_piecewise_linear
from zoo.wgan.constraints.weights import Evaluated, LossOfValues, Noise, Unconstrained


@dataclass(frozen=True)
class GradientNormalization(Unconstrained):
    """GN-GAN: f_hat = f / (n + |f|), in [-1, 1] (arXiv 2109.02235).

    With it the hinge loss is 2 plus the Wasserstein loss, and neither is a distance: the difference
    of the means is at most 2.

    >>> GradientNormalization().normalized(torch.tensor([3.0]), torch.tensor([1.0]))
    tensor([0.7500])

    Args:
        scale: The output is multiplied by it, so that the bound of the gradient is `scale`.
    """

    name = "gn"
    inner_gradient = True

    scale: float = 1.0

    def check(self, critic: torch.nn.Module) -> None:
        """Raises ValueError for a critic that is not piecewise linear."""
        super().check(critic)
        check_piecewise_linear(critic, self.name)

    def normalized(self, f: Tensor, n: Tensor) -> Tensor:
        """f_hat; 0 where f and its gradient are both 0."""
        return self.scale * f / _not_zero(n + f.abs())

    def slope(self, f: Tensor, n: Tensor) -> Tensor:
        """The derivative of f_hat by f for constant n: |grad f_hat| = (n / (n + |f|))^2."""
        both = _not_zero(n + f.abs())
        return self.scale * (n / both) / both  # the square of a small sum would be 0 in float32

    def evaluate(
        self, critic: Critic, real: Tensor, fake: Tensor, labels: Tensor | None, noise: Noise
    ) -> Evaluated:
        """f_hat of real and fake, from one forward and one inner backward pass."""
        both = None if labels is None else torch.cat([labels, labels])
        f, gradient = value_and_gradient(critic, torch.cat([real, fake]), both)
        f_hat = self.normalized(at_least_float32(f), norm_of_each(gradient))
        return Evaluated(f_hat[: len(real)], f_hat[len(real) :], None)

    def generator_gradient(
        self, critic: Critic, x: Tensor, labels: Tensor | None, objective: LossOfValues
    ) -> tuple[Tensor, Tensor]:
        """The generator's loss at generated points, and its gradient by them in closed form.

        Of each sample it is loss'(f_hat) slope(f, n) grad_x f.
        """
        f, gradient = value_and_gradient(critic, x, labels, create_graph=False)
        f, n = at_least_float32(f.detach()), norm_of_each(gradient)
        f_hat = self.normalized(f, n)
        upstream = objective.generator_slopes(f_hat) * self.slope(f, n) / len(x)
        upstream = upstream.to(gradient.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return objective.generator_losses(f_hat).mean(), gradient * upstream


@dataclass(frozen=True)
class GraN(GradientNormalization):
    """GraN-GAN: f_hat = f n / (n^2 + epsilon) (arXiv 2111.03162).

    Args:
        scale: The paper's K: the output is multiplied by it.
        epsilon: Where n^2 is well below it, f_hat is flat.
    """

    name = "gran"

    epsilon: float = 0.1

    def normalized(self, f: Tensor, n: Tensor) -> Tensor:
        """f_hat."""
        return self.scale * f * n / (n.square() + self.epsilon)

    def slope(self, f: Tensor, n: Tensor) -> Tensor:
        """The derivative of f_hat by f for constant n: |grad f_hat| = n^2 / (n^2 + epsilon)."""
        return self.scale * n / (n.square() + self.epsilon)


def _not_zero(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)
