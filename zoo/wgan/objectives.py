"""Losses of critic and generator as functions of the critic's values (kexue.fm/archives/8244)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Objective = Literal["wasserstein", "hinge", "ns", "c_transform", "c_eps_transform"]


def critic_loss(objective: Objective, real: Tensor, fake: Tensor) -> Tensor:
    """What the critic minimises.

    Args:
        objective: wasserstein: E f(fake) - E f(real); hinge: E max(0, 1 - f(real)) + E max(0, 1 +
            f(fake)); ns, of the first GAN: E softplus(-f(real)) + E softplus(f(fake)).
        real: f on real points, shape (B,).
        fake: f on fake points, shape (B',).
    """
    if objective == "wasserstein":
        return fake.mean() - real.mean()
    if objective == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    assert objective == "ns"
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_losses(objective: Objective, fake: Tensor) -> Tensor:
    """What the generator minimises the mean of: -f(fake); for ns softplus(-f(fake)).

    Args:
        objective: As for the critic.
        fake: f on generated points, shape (B,).

    Returns:
        (B,).
    """
    if objective == "ns":
        return F.softplus(-fake)
    assert objective in ("wasserstein", "hinge")
    return -fake


def generator_slopes(objective: Objective, fake: Tensor) -> Tensor:
    """The derivative of each of these losses by its f(fake), shape (B,)."""
    return -torch.sigmoid(-fake) if objective == "ns" else -torch.ones_like(fake)
