"""The weight of the KL over a run, and free bits; both against a KL that vanishes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.ranges import Count, NonNegative, Whole, check_ranges
from zoo.training.distributed import gather_with_grad


@dataclass(frozen=True)
class BetaSchedule:
    """The weight beta of the KL at each optimiser step (arXiv 1511.06349, section 3.1).

    It rises linearly from `start` to `beta` within `warmup_steps`. With `cycle_steps` it starts
    again that often (arXiv 1903.10145), `cycles` times in all, and stays at `beta` then.

    >>> beta = BetaSchedule(warmup_steps=4)
    >>> [beta(step) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]

    Args:
        beta: Last weight; 1 is the bound itself, more or less is arXiv 1804.03599.
        start: First weight.
        warmup_steps: Steps of the rise; 0 begins with `beta`.
        cycle_steps: Steps of a cycle, the rise included; 0 for one rise only.
        cycles: Number of cycles.
    """

    beta: NonNegative = 1.0
    start: NonNegative = 0.0
    warmup_steps: Whole = 0
    cycle_steps: Whole = 0
    cycles: Count = 4

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if self.cycle_steps and self.warmup_steps > self.cycle_steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} is longer than cycle_steps={self.cycle_steps}"
            )

    def __call__(self, step: int) -> float:
        """The weight at an optimiser step, the first being 0."""
        if self.cycle_steps and step < self.cycles * self.cycle_steps:
            step %= self.cycle_steps
        if step >= self.warmup_steps:
            return self.beta
        return self.start + (self.beta - self.start) * step / self.warmup_steps


def free_bits(kl_per_dimension: Tensor, nats: float) -> Tensor:
    """The KL with each dimension's mean over the batch held at `nats` or more.

    sum_j max(nats, E_x KL_j) of (B, d) (arXiv 1606.04934, eq. 15), a scalar: a dimension below gets
    no gradient from the KL. The mean is over the batch of all processes, so that two do what one
    does.
    """
    mean = kl_per_dimension.mean(0)
    if nats == 0:
        return mean.sum()
    everywhere = gather_with_grad(mean[None]).mean(0)
    return torch.clamp_min(everywhere, nats).sum()
