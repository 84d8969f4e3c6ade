"""What mean directions and concentrations may be."""

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.vae.sphere.tables import floating


class _Sphere(constraints.Constraint):
    """Vectors of length 1, up to 1e-3 (to the rounding of short dtypes)."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector is on the sphere."""
        value = floating(value)
        tolerance = max(1e-3, 4 * torch.finfo(value.dtype).eps)
        wide_value = value.to(torch.promote_types(value.dtype, torch.float32))
        return (torch.linalg.vector_norm(wide_value, dim=-1) - 1).abs() <= tolerance


class _Concentration(constraints.Constraint):
    """Finite numbers from 0 on."""

    def check(self, value: Tensor) -> Tensor:
        """Whether each number is one."""
        return (value >= 0) & (value < math.inf)


sphere, concentration_range = _Sphere(), _Concentration()


def refuse_bad(mean_direction: Tensor, concentration: Tensor) -> None:
    """Raises ValueError with the first entry that is out of range; waits for the device."""
    bad = concentration[~concentration_range.check(concentration)]
    if len(bad):
        raise ValueError(
            f"concentration has an entry {bad[0].item()}: give finite numbers from 0 on"
        )
    bad = mean_direction[~sphere.check(mean_direction)]
    if len(bad):
        norm = torch.linalg.vector_norm(bad[0].float()).item()
        raise ValueError(
            f"mean_direction has a vector of length {norm:.6g}: normalise it, for instance with "
            "torch.nn.functional.normalize"
        )
