"""Tables that depend on the dimension alone: built once a process, kept once a device."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

Build = Callable[[int], "np.ndarray"]


def wide(device: torch.device) -> torch.dtype:
    """The dtype in which scalars are computed: float64 wherever the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


# Compiled code holds the tensor as a constant instead of tracing what builds it.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def device_table(build: Build, dim: int, device: torch.device) -> Tensor:
    """The array `build(dim)` on a device.

    No module owns it: checkpoints, copies and pickles stay without it, and another process builds
    its own.

    Args:
        build: Makes the float64 array; cached by itself if it is slow.
        dim: Ambient dimension.
        device: Where it goes; the first call for a device copies, and later ones do not wait.
    """
    return _device_table(build, dim, device)


@functools.cache
def _device_table(build: Build, dim: int, device: torch.device) -> Tensor:
    # A tensor made in inference mode could not be used by a training step later.
    with torch.inference_mode(False):
        return torch.from_numpy(build(dim)).to(wide(device)).to(device)


class WithSlope(torch.autograd.Function):
    """A value with the derivative that is already known: backward is one multiplication."""

    @staticmethod
    def forward(ctx, parameter: Tensor, value: Tensor, slope: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """`value` in the dtype of `parameter`, with gradient `slope` in `parameter`."""
        ctx.save_for_backward(slope.to(parameter.dtype))
        return value.to(parameter.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        """Gradient in `parameter`."""
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def with_slope(parameter: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """`value` as a function of `parameter` with derivative `slope`; shapes equal."""
    result: Tensor = WithSlope.apply(parameter, value, slope)
    return result
