"""Learning rates in stages."""

from collections.abc import Callable, Mapping

from zoo.training.module import by_step
from zoo.training.optim import piecewise_linear


def piecewise_constant(points: Mapping[int, float]) -> Callable[[int], float]:
    """The function of the step that changes at each of `points` and is 1 before the first."""
    if not points or min(points) < 0 or min(points.values()) < 0:
        raise ValueError(f"lr_stages={dict(points)}: give multipliers >= 0 from steps >= 0 on")
    steps = sorted(points, reverse=True)

    def value(step: int) -> float:
        return next((points[s] for s in steps if step >= s), 1.0)

    return value


def multipliers(
    schedule: Mapping[int, float] | None, stages: Mapping[int, float] | None
) -> Callable[[int], float] | None:
    """The multiplier of the learning rate by step; None if it is constant.

    A schedule is linear between its steps; stages hold from their steps on.
    """
    if schedule and stages:
        raise ValueError("give lr_schedule or lr_stages, not both")
    if schedule:
        return piecewise_linear(by_step(schedule))
    if stages:
        return piecewise_constant(by_step(stages))
    return None
