"""Multi-layer perceptrons for points in the plane, as WGAN-GP's toys have them."""

import itertools

import torch
from torch import Tensor, nn

from zoo.wgan.networks.layers import Activation, make_activation


class MLPGenerator(nn.Module):
    """Latent vectors to points; `widths` are those of the hidden layers."""

    def __init__(self, latent_dim: int, widths: list[int], dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layers([latent_dim, *widths], "relu"))
        self.output = nn.Linear(widths[-1], dim)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim) to (B, dim)."""
        return self.output(self.layers(z))


class MLPCritic(nn.Module):
    """Points to values; `widths` are those of the hidden layers.

    >>> MLPCritic(2, [8, 8])(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    piecewise_linear = True

    def __init__(self, dim: int, widths: list[int], activation: Activation = "relu") -> None:
        super().__init__()
        self.layers = nn.Sequential(*_layers([dim, *widths], activation))
        self.linear = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, dim) to (B,)."""
        return self.linear(self.layers(x)).squeeze(1)


def _layers(widths: list[int], activation: Activation) -> list[torch.nn.Module]:
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(widths):
        layers += [nn.Linear(inside, outside), make_activation(activation)]
    return layers
