"""The critic's value and input gradient at each sample, and its norm."""

from typing import Protocol

import torch
from torch import Tensor

from zoo.layers.precision import at_least_float32
from zoo.wgan.networks.double_backward import no_weight_gradients


class Critic(Protocol):
    """A function (B, ...), labels (B,) or None -> (B,) that treats each sample by itself."""

    def __call__(self, x: Tensor, labels: Tensor | None = None, /) -> Tensor:
        """Values, shape (B,)."""


def value_and_gradient(
    critic: Critic, x: Tensor, labels: Tensor | None = None, *, create_graph: bool = True
) -> tuple[Tensor, Tensor]:
    """f(x) and grad_x f(x) of each sample.

    Args:
        critic: Treats each sample by itself, so that one backward pass gives all gradients.
        x: Points, shape (B, ...); their own graph is cut off.
        labels: Classes, shape (B,).
        create_graph: Make the gradient differentiable by the critic's parameters.

    Returns:
        (B,) and (B, ...).
    """
    x = x.detach()
    if torch.compiler.is_compiling():
        # A compiled function cannot be differentiated twice from outside: both passes are in it.
        f, backward = torch.func.vjp(lambda point: critic(point, labels), x)[:2]
        return f, backward(torch.ones_like(f))[0]
    x.requires_grad_()
    with torch.enable_grad():
        f = critic(x, labels)
        with no_weight_gradients():
            (gradient,) = torch.autograd.grad(f.sum(), x, create_graph=create_graph)
    return f, gradient


def norm_of_each(gradient: Tensor) -> Tensor:
    """Norms (B,) over all dimensions of (B, ...), at least float32; their gradient at 0 is 0."""
    return torch.linalg.vector_norm(at_least_float32(gradient).flatten(1), dim=1)
