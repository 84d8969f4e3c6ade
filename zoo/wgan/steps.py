"""What a training step of the WGAN computes, as functions of tensors."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.layers.precision import at_least_float32
from zoo.training.distributed import gather_with_grad, processes
from zoo.wgan.gradient import Critic
from zoo.wgan.lipschitz import Evaluated, Unconstrained
from zoo.wgan.objectives import Objective, critic_loss
from zoo.wgan.transport import dual_loss, dual_value, pairwise_cost


def critic_step_loss(
    constraint: Unconstrained,
    objective: Objective,
    epsilon: float,
    dual_penalty: float,
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None,
    noise: Tensor | None,
) -> tuple[Tensor, Evaluated]:
    """The critic's loss, and the values that it is made of.

    Args:
        constraint: Of the critic.
        objective: Which loss.
        epsilon: Of c_eps_transform; 0 for c_transform.
        dual_penalty: Weight of the penalties of these two.
        critic: The critic.
        real: Real points, shape (B, ...).
        fake: Generated points of the same shape.
        labels: Classes of both, shape (B,).
        noise: What the constraint drew.
    """
    out = constraint.evaluate(critic, real, fake, labels, noise)
    if objective in ("c_transform", "c_eps_transform"):
        # Its minimum is over the whole batch: that of all processes.
        x, y, phi_x, phi_y = map(gather_with_grad, (real, fake, out.real, out.fake))
        cost = pairwise_cost(both := torch.cat([x, y]), both)
        phi = torch.cat([phi_x, phi_y])
        return dual_loss(phi, cost, len(x), eps=epsilon, penalty=dual_penalty), out
    loss = critic_loss(objective, out.real, out.fake)
    return (loss if out.penalty is None else loss + out.penalty), out


def dual_generator_gradient(
    critic: Critic, real: Tensor, labels: Tensor | None, x: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """The dual value at generated points, and its gradient by them, which is that of the cost.

    Args:
        critic: phi.
        real: Real points, shape (B, ...).
        labels: Their classes, shape (B,).
        x: Generated points, shape (B', ...).
        epsilon: Of the (c, epsilon)-transform; 0 for the c-transform.

    Returns:
        A scalar and (B', ...).
    """
    with torch.no_grad():
        phi = gather_with_grad(at_least_float32(critic(real, labels)))
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        cost = pairwise_cost(gather_with_grad(real), gather_with_grad(points))
        value = dual_value(phi, cost, epsilon)
        (gradient,) = torch.autograd.grad(value, points)
    return value.detach(), gradient


def average_over_processes(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Means over the processes, by one collective over one flat buffer; nothing to do for one.

    `DistributedDataParallel` would wait, at every backward pass, for gradients of the network that
    is not trained; and it does not see what `torch.autograd.grad` returns.
    """
    if processes() == 1:
        return gradients
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= processes()
    parts = torch.split(flat, [g.numel() for g in gradients])
    return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
