"""Tables that depend on the dimension alone: built once a process, kept once a device."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.layers.precision import wide

if TYPE_CHECKING:
    import numpy as np

Build = Callable[[int], "np.ndarray"]


def floating(x: Tensor | float, like: Tensor | None = None) -> Tensor:
    """Whole numbers, truth values and Python's numbers as a tensor of float32 or float64.

    Args:
        x: A tensor of a floating dtype stays as it is.
        like: Whose precision and device other numbers get; torch's default ones if None.

    Raises:
        ValueError: It is complex.
    """
    if isinstance(x, Tensor) and x.is_floating_point():
        return x
    if isinstance(x, complex) or (isinstance(x, Tensor) and x.is_complex()):
        raise ValueError(f"got complex numbers, {x}: give real ones")
    dtype = torch.get_default_dtype() if like is None else like.dtype
    device = x.device if isinstance(x, Tensor) else getattr(like, "device", None)
    return torch.as_tensor(x, dtype=torch.promote_types(dtype, torch.float32), device=device)


@functools.cache
def device_table(build: Build, dim: int, device: torch.device) -> Tensor:
    """The array `build(dim)` on a device.

    No module owns it: checkpoints, copies and pickles stay without it, and another process builds
    its own.

    Args:
        build: Makes the float64 array; cached by itself, for other devices.
        dim: Ambient dimension.
        device: Where it goes; the first call for a device copies, and later ones do not wait.
    """
    # A tensor made in inference mode could not be used by a training step later.
    with torch.inference_mode(False):
        return torch.from_numpy(build(dim)).to(wide(device)).to(device)


def table_rows(name: str, build: Build, shape: tuple[int, ...]) -> Callable[[int, Tensor], Tensor]:
    """A function (dim, cells) that looks up rows of the table `build(dim)`.

    In compiled code it is one operation, of any dimension and device. As a constant of the graph
    (torch.compiler.assume_constant_result) a table would bear the name of the function that returns
    it, and since torch 2.14 AOTAutograd refuses two of one name, as a KL beside a draw and spheres
    of two dimensions have; torch 2.11 took them.

    Args:
        name: Name of the operation.
        build: Makes the array, shape (cells, *shape).
        shape: Shape of a row.

    Returns:
        (dim, int64 cells (N,)) to rows (N, *shape) on the cells' device, without gradients.
    """

    def lookup(dim: int, cells: Tensor) -> Tensor:
        return device_table(build, dim, cells.device).index_select(0, cells)

    operation = torch.library.custom_op(f"zoo::{name}", lookup, mutates_args=())

    @operation.register_fake
    def _(dim: int, cells: Tensor) -> Tensor:
        return cells.new_empty((len(cells), *shape), dtype=wide(cells.device))

    def rows(dim: int, cells: Tensor) -> Tensor:
        # Uncompiled, calling it as an operation would cost more than looking up.
        chosen = operation if torch.compiler.is_compiling() else lookup
        return chosen(dim, cells)

    return rows


class WithSlope(torch.autograd.Function):
    """A value with the derivative that is already known: backward is one multiplication."""

    @staticmethod
    def forward(ctx, parameter: Tensor, value: Tensor, slope: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        """`value` in the dtype of `parameter`, with gradient `slope` in `parameter`."""
        ctx.save_for_backward(slope.to(parameter.dtype))
        return value.to(parameter.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        """Gradient in `parameter`."""
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def with_slope(parameter: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """`value` as a function of `parameter` with derivative `slope`; shapes equal."""
    return WithSlope.apply(floating(parameter), value, slope)
