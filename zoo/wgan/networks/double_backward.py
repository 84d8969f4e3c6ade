"""A convolution whose double backward uses the kernels of a first one.

A critic step with an inner gradient (penalty, normalisation) differentiates the input gradient of
each convolution with respect to its weight. PyTorch does that by an ordinary convolution whose
kernel is a whole feature map, for which no library has a fast path. Written as a transposed
convolution, the input gradient is a forward operation like any other, and what its backward asks
for are two more convolutions and the weight-gradient kernel: the same numbers, the same FLOPs, fast
shapes. NVIDIA's conv2d_gradfix of StyleGAN2-ADA does the same for the PyTorch of its time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


class _Switch:
    """Whether backward passes are asked for weights: the engine does not tell a Function.

    A plain attribute, because the engine's threads for other devices must see it too.
    """

    weights = True


@contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Leaves out the weight gradients of backward passes that only want the input's."""
    before, _Switch.weights = _Switch.weights, False
    try:
        yield
    finally:
        _Switch.weights = before


class _WeightGradient(torch.autograd.Function):
    """The sum over images and positions of output gradient times input patch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair
    ) -> Tensor:
        ctx.save_for_backward(x, grad)
        ctx.stride, ctx.padding = stride, padding
        mask = [False, True, False]
        _, out, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, mask
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (weight,) = grads
        x, grad = ctx.saved_tensors
        # Bilinear in x and grad: each one's gradient is a convolution with `weight`.
        to_x = _input_gradient(grad, weight, x.shape, ctx.stride, ctx.padding)
        to_grad = _Convolution.apply(x, weight, ctx.stride, ctx.padding)
        return to_x, to_grad, None, None, None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:
            to_x = _input_gradient(grad, weight, x.shape, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1] and _Switch.weights:
            to_weight = _WeightGradient.apply(x, grad, weight.detach(), ctx.stride, ctx.padding)
        return to_x, to_weight, None, None


class _Transposed(torch.autograd.Function):
    """The input gradient of a convolution as an operation of its own."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, weight: Tensor, stride: Pair, padding: Pair, extra: Pair
    ) -> Tensor:
        ctx.save_for_backward(grad, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv_transpose2d(grad, weight, None, stride, padding, extra)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (outer,) = grads  # of the shape of the convolution's input
        grad, weight = ctx.saved_tensors
        to_grad = to_weight = None
        if ctx.needs_input_grad[0]:
            to_grad = _Convolution.apply(outer, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1] and _Switch.weights:
            to_weight = _WeightGradient.apply(outer, grad, weight.detach(), ctx.stride, ctx.padding)
        return to_grad, to_weight, None, None, None


def _input_gradient(
    grad: Tensor, weight: Tensor, shape: torch.Size, stride: Pair, padding: Pair
) -> Tensor:
    # Rows that the stride skipped at the end have no gradient, but are part of the input.
    size = [
        (grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + weight.shape[2 + i] for i in (0, 1)
    ]
    extra = (shape[2] - size[0], shape[3] - size[1])
    return _Transposed.apply(grad, weight, stride, padding, extra)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair = (1, 1), padding: Pair = (0, 0)
) -> Tensor:
    """`torch.nn.functional.conv2d`, differentiable any number of times by fast kernels.

    Under autocast in its precision; while compiling by PyTorch's own double backward.

    Args:
        x: (B, C, H, W).
        weight: (O, C, h, w).
        bias: (O,), or none.
        stride: Rows and columns from one patch to the next.
        padding: Zeros around the input.
    """
    if torch.compiler.is_compiling():
        # The compiler does not trace through a Function here.
        return F.conv2d(x, weight, bias, stride, padding)
    if torch.is_autocast_enabled(kind := x.device.type):
        half = torch.get_autocast_dtype(kind)
        x, weight = x.to(half), weight.to(half)
    out: Tensor = _Convolution.apply(x, weight, stride, padding)
    return out if bias is None else out + bias.to(out.dtype)[:, None, None]


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` by `conv2d` above; the state dict is the same."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, H', W')."""
        assert self.groups == 1
        assert self.dilation == (1, 1)
        assert self.padding_mode == "zeros"
        stride, padding = self.stride, self.padding
        assert isinstance(padding, tuple)
        return conv2d(input, self.weight, self.bias, stride, padding)  # type: ignore[arg-type]
