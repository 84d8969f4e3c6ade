"""What a training step of the WGAN computes, as functions of tensors."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from zoo.training.distributed import processes
from zoo.wgan.constraints.gradient import Critic
from zoo.wgan.constraints.weights import Evaluated, Unconstrained
from zoo.wgan.objectives import Objective


def critic_step_loss(
    constraint: Unconstrained,
    objective: Objective,
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
        critic: The critic.
        real: Real points, shape (B, ...).
        fake: Generated points of the same shape.
        labels: Classes of both, shape (B,).
        noise: What the constraint drew.
    """
    out = constraint.evaluate(critic, real, fake, labels, noise)
    loss = objective.batch_loss(real, fake, out.real, out.fake)
    return (loss if out.penalty is None else loss + out.penalty), out


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
