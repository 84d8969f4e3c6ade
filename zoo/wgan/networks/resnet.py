"""The residual networks of WGAN-GP, SN-GAN and GN-GAN, which differ in widths and first weights."""

import itertools
import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.wgan.networks.double_backward import Conv2d, Pair
from zoo.wgan.networks.layers import Activation, Blocks, Head, batch_norm, make_activation, pool
from zoo.wgan.networks.resampling import ConvMean, Double, UpConv


class UpBlock(nn.Module):
    """BN, ReLU, nearest x2, conv, BN, ReLU, conv; the shortcut is x2 and a 1x1 convolution.

    Those two commute, and the small map goes first.
    """

    takes_labels = True

    def __init__(self, inside: int, outside: int, num_classes: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1), Double())
        self.residual = Blocks(
            batch_norm(inside, num_classes),
            nn.ReLU(),
            UpConv(inside, outside),
            batch_norm(outside, num_classes),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1),
        )

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C', 2 H, 2 W)."""
        return self.residual(x, labels) + self.shortcut(x)


class ResNetGenerator(nn.Module):
    """Linear, an `UpBlock` for each further width, BN, ReLU, conv, tanh.

    The arguments are those of `DCGANGenerator`.
    """

    def __init__(
        self, latent_dim: int, widths: list[int], size: Pair, channels: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.start = (widths[0], *(side // 2 ** (len(widths) - 1) for side in size))
        self.linear = nn.Linear(latent_dim, math.prod(self.start))
        pairs = itertools.pairwise(widths)
        self.blocks = Blocks(*(UpBlock(a, b, num_classes) for a, b in pairs))
        last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        self.output = Blocks(batch_norm(widths[-1], num_classes), nn.ReLU(), last)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim) to images in (-1, 1), (B, C, H, W)."""
        x = self.linear(z).unflatten(1, self.start)
        return torch.tanh(self.output(self.blocks(x, labels), labels))


class FirstBlock(nn.Module):
    """conv, ReLU, conv, mean 2x2; the shortcut is mean 2x2 and a 1x1 convolution."""

    piecewise_linear = True

    def __init__(self, inside: int, outside: int, activation: Activation) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), Conv2d(inside, outside, 1))
        self.residual = nn.Sequential(
            Conv2d(inside, outside, 3, padding=1),
            make_activation(activation),
            ConvMean(outside, outside),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / 2, W / 2)."""
        return self.residual(x) + self.shortcut(x)


class DownBlock(nn.Module):
    """ReLU, conv, ReLU, conv and, where it halves, mean 2x2.

    The first ReLU does not act in place: the shortcut gets x itself. It is x, or where the shape
    changes the mean and a 1x1 convolution, which commute.
    """

    piecewise_linear = True

    def __init__(self, inside: int, outside: int, halve: bool, activation: Activation) -> None:
        super().__init__()
        mean = [nn.AvgPool2d(2)] if halve else []
        changes = halve or inside != outside
        self.shortcut = nn.Sequential(*([*mean, Conv2d(inside, outside, 1)] if changes else []))
        last = ConvMean if halve else partial(Conv2d, kernel_size=3, padding=1)
        self.residual = nn.Sequential(
            make_activation(activation),
            Conv2d(inside, outside, 3, padding=1),
            make_activation(activation),
            last(outside, outside),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W), or half of it."""
        return self.residual(x) + self.shortcut(x)


class ResNetCritic(nn.Module):
    """A block for each width, ReLU, global pooling, linear; no normalisation.

    Args:
        widths: Channels after each block: [128, 128, 128, 128].
        halvings: How many of the blocks halve, the first ones.
        channels: Channels of an image.
        num_classes: Number of classes; 0 for none.
        activation: The activation of all blocks.
        pooling: mean, or sum as SN-GAN has it.
        bias: Whether the last layer has a bias.
    """

    piecewise_linear = True

    def __init__(
        self,
        widths: list[int],
        halvings: int,
        channels: int,
        num_classes: int = 0,
        activation: Activation = "relu",
        pooling: Literal["mean", "sum"] = "mean",
        bias: bool = True,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = [FirstBlock(channels, widths[0], activation)]
        for i, (inside, outside) in enumerate(itertools.pairwise(widths)):
            blocks.append(DownBlock(inside, outside, i + 1 < halvings, activation))
        self.model = nn.Sequential(*blocks, make_activation(activation))
        self.pooling: Literal["mean", "sum"] = pooling
        self.head = Head(widths[-1], num_classes, bias)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B,)."""
        return self.head(pool(self.model(x), self.pooling), labels)
