"""What critic and generator minimise (kexue.fm/archives/8244), a small class for each objective."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.layers.precision import at_least_float32
from zoo.training.distributed import gather_with_grad
from zoo.wgan.constraints.gradient import Critic
from zoo.wgan.transport import dual_loss, dual_value, pairwise_cost, transform

ObjectiveName = Literal["wasserstein", "hinge", "ns", "c_transform", "c_eps_transform"]
_C_PENALTY = 0.1


@dataclass(frozen=True)
class Wasserstein:
    """Critic: E f(fake) - E f(real); generator: -E f(fake). The base of the others.

    The first three methods are functions of the critic's values alone; a constraint may change
    these values. The others see the points too, and are what a training step calls.

    >>> Wasserstein().critic_loss(torch.tensor([2.0]), torch.tensor([0.5]))
    tensor(-1.5000)
    """

    name: ClassVar[ObjectiveName] = "wasserstein"

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the critic minimises, of f on real points (B,) and on fake ones (B',)."""
        return fake.mean() - real.mean()

    def generator_losses(self, fake: Tensor) -> Tensor:
        """What the generator minimises the mean of, (B,), of f on generated points (B,)."""
        return -fake

    def generator_slopes(self, fake: Tensor) -> Tensor:
        """The derivative of each of these losses by its f(fake), (B,)."""
        return -torch.ones_like(fake)

    def batch_loss(self, real: Tensor, fake: Tensor, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """The critic's loss of a batch of real and of fake points (B, ...), and of f on them."""
        return self.critic_loss(on_real, on_fake)

    def estimates(self, real: Tensor, fake: Tensor, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """The terms (B,) whose mean is the critic's estimate of W1 of a batch."""
        return on_real - on_fake

    def generator_gradient(
        self,
        through: Callable[..., tuple[Tensor, Tensor]],
        critic: Critic,
        fake: Tensor,
        labels: Tensor | None,
        real: Tensor,
        of_real: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The generator's loss at generated points, and its gradient by them.

        Args:
            through: `generator_gradient` of the critic's constraint.
            critic: The critic.
            fake: Generated points, shape (B, ...).
            labels: Their classes, shape (B,).
            real: Real points, which the dual objectives look at.
            of_real: Their classes.

        Returns:
            A scalar and (B, ...).
        """
        return through(critic, fake, labels, self)


@dataclass(frozen=True)
class Hinge(Wasserstein):
    """Critic: E max(0, 1 - f(real)) + E max(0, 1 + f(fake)); the generator's is Wasserstein's.

    >>> Hinge().critic_loss(torch.tensor([2.0, 0.0]), torch.tensor([-1.0]))
    tensor(0.5000)
    """

    name = "hinge"

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the critic minimises."""
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


@dataclass(frozen=True)
class NonSaturating(Wasserstein):
    """The first GAN's: E softplus(-f(real)) + E softplus(f(fake)), and E softplus(-f(fake))."""

    name = "ns"

    def critic_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the critic minimises."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_losses(self, fake: Tensor) -> Tensor:
        """softplus(-f(fake)), (B,)."""
        return F.softplus(-fake)

    def generator_slopes(self, fake: Tensor) -> Tensor:
        """-sigmoid(-f(fake)), (B,)."""
        return -torch.sigmoid(-fake)


@dataclass(frozen=True)
class CTransform(Wasserstein):
    """The dual of a batch by the c-transform, or for epsilon > 0 the (c, epsilon)-transform.

    arXiv 1910.03875; any function is admissible, so the critic has no constraint. The transform's
    minimum is over the whole batch: that of all processes.

    Args:
        epsilon: Softness of the minimum, in units of the distance.
        penalty: Weight of the two penalties of arXiv 1902.03642.
    """

    name = "c_transform"

    epsilon: float = 0.0
    penalty: float = _C_PENALTY

    def batch_loss(self, real: Tensor, fake: Tensor, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """Minus the dual value, and the penalties."""
        x, y, phi_x, phi_y = map(gather_with_grad, (real, fake, on_real, on_fake))
        cost = pairwise_cost(both := torch.cat([x, y]), both)
        phi = torch.cat([phi_x, phi_y])
        return dual_loss(phi, cost, len(x), eps=self.epsilon, penalty=self.penalty)

    def estimates(self, real: Tensor, fake: Tensor, on_real: Tensor, on_fake: Tensor) -> Tensor:
        """The terms phi(x) + phi^c(y) of pairs of a real and a fake point."""
        return on_real + transform(pairwise_cost(real, fake), on_real, self.epsilon)

    def generator_gradient(
        self,
        through: Callable[..., tuple[Tensor, Tensor]],
        critic: Critic,
        fake: Tensor,
        labels: Tensor | None,
        real: Tensor,
        of_real: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The dual value at generated points, and its gradient by them: that of the cost."""
        with torch.no_grad():
            phi = gather_with_grad(at_least_float32(critic(real, of_real)))
        with torch.enable_grad():
            points = fake.detach().requires_grad_()
            cost = pairwise_cost(gather_with_grad(real), gather_with_grad(points))
            value = dual_value(phi, cost, self.epsilon)
            (gradient,) = torch.autograd.grad(value, points)
        return value.detach(), gradient


Objective = Wasserstein
_OF_VALUES: dict[str, Objective] = {cls.name: cls() for cls in (Wasserstein, Hinge, NonSaturating)}


def make_objective(
    name: str,
    *,
    lipschitz: str,
    critic_batch_norm: bool,
    epsilon: float | None,
    penalty: float | None,
) -> Objective:
    """The objective of this name.

    `epsilon` and `penalty` are WGAN's c_epsilon and c_penalty; the ValueError says what of the
    model's options does not go with the objective.
    """
    if name not in get_args(ObjectiveName):
        raise ValueError(f"objective={name!r}: choose {', '.join(get_args(ObjectiveName))}")
    dual = name not in _OF_VALUES
    if dual and lipschitz != "none":
        raise ValueError(f"objective={name} needs no constraint: set lipschitz=none")
    if dual and critic_batch_norm:
        raise ValueError(f"objective={name} takes its critic without critic_batch_norm")
    if penalty is not None and not (dual and penalty >= 0):
        raise ValueError(
            f"objective={name}, c_penalty={penalty}: for c_transform and c_eps_transform, 0 or more"
        )
    soft = name == "c_eps_transform"
    if soft != (epsilon is not None) or (epsilon is not None and not epsilon > 0):
        raise ValueError(
            f"objective={name}, c_epsilon={epsilon}: c_eps_transform needs c_epsilon > 0, and no "
            "other objective takes it"
        )
    if not dual:
        return _OF_VALUES[name]
    return CTransform(epsilon or 0.0, _C_PENALTY if penalty is None else penalty)
