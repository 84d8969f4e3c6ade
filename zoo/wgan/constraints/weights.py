"""Lipschitz constraints that act on the critic's weights, and what every constraint can do.

The others: `penalties` add a term to the loss, `normalization` changes the
critic's output. A constraint gets the critic as a function and holds no weights of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from zoo.layers.precision import at_least_float32
from zoo.wgan.constraints.gradient import Critic, norm_of_each, value_and_gradient
from zoo.wgan.constraints.piecewise_linear import check_no_batch_statistics

Noise = Tensor | None  # what a constraint draws, if it does


class LossOfValues(Protocol):
    """What a constraint needs of an objective."""

    def generator_losses(self, fake: Tensor) -> Tensor:
        """Losses (B,) of the critic's values (B,)."""

    def generator_slopes(self, fake: Tensor) -> Tensor:
        """Their derivatives by these values, (B,)."""


class Evaluated(NamedTuple):
    """What the critic's loss is made of."""

    real: Tensor
    """f_hat on the real batch, (B,)."""
    fake: Tensor
    """f_hat on the fake batch, (B',)."""
    penalty: Tensor | None
    """To be added to the loss, or nothing."""


@dataclass(frozen=True)
class Unconstrained:
    """No constraint: f_hat = f. The base of the others."""

    name: ClassVar[str] = "none"
    inner_gradient: ClassVar[bool] = False
    """Whether the critic's loss contains the gradient of the critic."""

    def check(self, critic: nn.Module) -> None:
        """Raises ValueError, naming the layer, if the critic is none that this can act on."""
        if self.inner_gradient:
            check_no_batch_statistics(critic, self.name)

    def prepare(self, critic: nn.Module) -> None:
        """Changes the critic once, before training."""

    def project(self, critic: nn.Module) -> None:
        """Changes the weights after each critic step."""

    @contextmanager
    def frozen(self, critic: nn.Module) -> Iterator[None]:
        """Where the critic is only looked at, as in the generator's step.

        Batch normalisation goes by the batch and leaves its running statistics as they are.
        """
        norms = [
            m for m in critic.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats
        ]
        for norm in norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm in norms:
                norm.track_running_stats = True

    def noise(self, real: Tensor) -> Tensor | None:
        """The random numbers of a critic step, drawn from the global stream."""
        return None

    def normalized(self, f: Tensor, n: Tensor) -> Tensor:
        """f_hat of f and n = |grad f|, shape (B,) each."""
        return f

    def slope(self, f: Tensor, n: Tensor) -> Tensor:
        """∇f̂ = slope ∇f."""
        return torch.ones_like(f)

    def evaluate(
        self, critic: Critic, real: Tensor, fake: Tensor, labels: Tensor | None, noise: Noise
    ) -> Evaluated:
        """The critic on both batches in one forward pass, and the penalty.

        Args:
            critic: The critic.
            real: Real points, shape (B, ...).
            fake: Generated points of the same shape.
            labels: Classes of real and of fake, shape (B,), if the critic takes some.
            noise: What `noise` drew, for a constraint that draws.
        """
        both = None if labels is None else torch.cat([labels, labels])
        values = at_least_float32(critic(torch.cat([real, fake]), both))
        return Evaluated(values[: len(real)], values[len(real) :], None)

    def generator_gradient(
        self, critic: Critic, x: Tensor, labels: Tensor | None, objective: LossOfValues
    ) -> tuple[Tensor, Tensor]:
        """The generator's loss at generated points, and its gradient by them; no double backward.

        Args:
            critic: The critic; with batch normalisation a sample's gradient is also through the
                values of the others.
            x: Generated points, shape (B, ...).
            labels: Their classes, shape (B,).
            objective: Which loss.

        Returns:
            A scalar and (B, ...).
        """

        def losses(points: Tensor, labels: Tensor | None = None, /) -> Tensor:
            return objective.generator_losses(at_least_float32(critic(points, labels)))

        each, gradient = value_and_gradient(losses, x, labels, create_graph=False)
        return each.detach().mean(), gradient / len(x)

    def look(
        self, critic: Critic, x: Tensor, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """f̂, ‖∇f‖ and ‖∇f̂‖ at points x (B, ...) of classes (B,), without gradient, (B,) each."""
        f, gradient = value_and_gradient(critic, x, labels, create_graph=False)
        f, n = at_least_float32(f.detach()), norm_of_each(gradient)
        return self.normalized(f, n), n, self.slope(f, n) * n


@dataclass(frozen=True)
class WeightClipping(Unconstrained):
    """WGAN: each parameter is kept in [-c, c] (arXiv 1701.07875, algorithm 1).

    >>> critic = nn.Linear(2, 1)
    >>> WeightClipping(c=0.01).project(critic)
    >>> bool(critic.weight.abs().max() <= 0.01)
    True

    Args:
        c: The bound.
    """

    name = "clip"

    c: float = 0.01

    def prepare(self, critic: nn.Module) -> None:
        """Clips the first weights."""
        self.project(critic)

    def project(self, critic: nn.Module) -> None:
        """Clips all parameters in place."""
        with torch.no_grad():
            parameters: list[Tensor] = list(critic.parameters())
            torch._foreach_clamp_max_(parameters, self.c)
            torch._foreach_clamp_min_(parameters, -self.c)


@dataclass(frozen=True)
class SpectralNormalization(Unconstrained):
    """SN-GAN: each weight is divided by its largest singular value (arXiv 1802.05957).

    One power iteration a critic step estimates it. As published, the singular value of a
    convolution is that of its kernel as a matrix (O, C h w), which does not bound the operator.
    """

    name = "spectral_norm"

    def prepare(self, critic: nn.Module) -> None:
        """Parametrises all layers with a weight."""
        for layer in list(critic.modules()):
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
                parametrizations.spectral_norm(layer)

    @contextmanager
    def frozen(self, critic: nn.Module) -> Iterator[None]:
        """No power iterations."""
        norms = [m for m in critic.modules() if isinstance(m, parametrize.ParametrizationList)]
        before = [norm.training for norm in norms]
        for norm in norms:
            norm.eval()
        try:
            with super().frozen(critic):
                yield
        finally:
            for norm, training in zip(norms, before, strict=True):
                norm.train(training)
