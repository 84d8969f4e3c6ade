"""The convolutional networks of GN-GAN's (and SN-GAN's) "CNN" rows, of any depth."""

import itertools
import math

import torch
from torch import Tensor, nn

from zoo.wgan.networks.double_backward import Conv2d, Pair
from zoo.wgan.networks.layers import (
    Activation,
    BatchNorm2d,
    Blocks,
    Head,
    batch_norm,
    make_activation,
)


class DCGANGenerator(nn.Module):
    """Linear, then for each further width BN, ReLU and a transposed convolution that doubles.

    Args:
        latent_dim: Dimension of the latent vector.
        widths: Channels of the first map and after each doubling: [512, 256, 128, 64].
        size: Height and width of an image, divisible by 2 for each doubling.
        channels: Channels of an image.
        num_classes: Number of classes; 0 for none.
    """

    def __init__(
        self, latent_dim: int, widths: list[int], size: Pair, channels: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.start = (widths[0], *(side // 2 ** (len(widths) - 1) for side in size))
        self.linear = nn.Linear(latent_dim, math.prod(self.start))
        layers: list[nn.Module] = []
        for inside, outside in itertools.pairwise(widths):
            layers += [batch_norm(inside, num_classes), nn.ReLU()]
            layers += [nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1)]
        layers += [batch_norm(widths[-1], num_classes), nn.ReLU()]
        self.blocks = Blocks(*layers, nn.ConvTranspose2d(widths[-1], channels, 3, padding=1))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, latent_dim) to images in (-1, 1), (B, C, H, W)."""
        x = self.linear(z).unflatten(1, self.start)
        return torch.tanh(self.blocks(x, labels))


class DCGANCritic(nn.Module):
    """Convolutions, two for each width but the first, the first of which halves; then linear.

    Args:
        widths: Channels at each resolution: [64, 128, 256, 512].
        size: Height and width of an image, divisible by 2 for each halving.
        channels: Channels of an image.
        num_classes: Number of classes; 0 for none.
        activation: What comes after each convolution.
        batch_norm: Normalise before each activation but the first, as Arjovsky's WGAN did.
    """

    piecewise_linear = True

    def __init__(
        self,
        widths: list[int],
        size: Pair,
        channels: int,
        num_classes: int = 0,
        activation: Activation = "leaky_relu",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv2d(channels, widths[0], 3, padding=1)]
        layers += [make_activation(activation)]
        for inside, outside in itertools.pairwise(widths):
            halving = Conv2d(inside, outside, 4, stride=2, padding=1)
            for conv in (halving, Conv2d(outside, outside, 3, padding=1)):
                norm = [BatchNorm2d(outside)] if batch_norm else []
                layers += [conv, *norm, make_activation(activation)]
        self.layers = nn.Sequential(*layers)
        last = (widths[-1], *(side // 2 ** (len(widths) - 1) for side in size))
        self.head = Head(math.prod(last), num_classes)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B,)."""
        return self.head(self.layers(x).flatten(1), labels)
