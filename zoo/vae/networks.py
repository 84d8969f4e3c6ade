"""Encoders and decoders of images: perceptrons, and residual convolutions.

An encoder makes features (B, features) of images (B, C, H, W); a decoder makes an output
(N, C', H, W) of codes (N, d).
"""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

NetworkName = Literal["mlp", "conv"]
Activation = Literal["relu", "tanh", "gelu", "silu"]
Init = Literal["default", "glorot"]
Shape = tuple[int, int, int]
"""(C, H, W) of images, or of a decoder's output."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation_layer(name: str) -> nn.Module:
    """The layer of an activation's name."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation={name!r}: choose {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]()


def perceptron(widths: list[int], activation: str) -> nn.Sequential:
    """Linear layers between `widths`, each followed by the activation."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation_layer(activation)]
    return nn.Sequential(*layers)


class MLPEncoder(nn.Module):
    """Layers of `hidden` units over the pixels.

    >>> MLPEncoder((1, 4, 4), [8, 6], "relu")(torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 6])
    """

    def __init__(self, shape: Shape, hidden: list[int], activation: str) -> None:
        super().__init__()
        self.layers = perceptron([math.prod(shape), *hidden], activation)
        self.features = hidden[-1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, features)."""
        return self.layers(x.flatten(1))


class MLPDecoder(nn.Module):
    """The encoder's layers in reverse, and a linear layer to the output.

    >>> MLPDecoder(3, (1, 4, 4), [8, 6], "relu")(torch.zeros(2, 3)).shape
    torch.Size([2, 1, 4, 4])
    """

    def __init__(self, latent_dim: int, shape: Shape, hidden: list[int], activation: str) -> None:
        super().__init__()
        self.shape = shape
        self.layers = perceptron([latent_dim, *reversed(hidden)], activation)
        self.out = nn.Linear(hidden[0], math.prod(shape))

    def forward(self, z: Tensor) -> Tensor:
        """(N, d) to (N, C', H, W)."""
        output: Tensor = self.out(self.layers(z))
        return output.reshape(-1, *self.shape)


class Residual(nn.Module):
    """x + conv(act(conv(act(x)))), 3x3 both, the second from zero.

    >>> Residual(4, "relu")(torch.zeros(2, 4, 5, 5)).shape
    torch.Size([2, 4, 5, 5])
    """

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.act = activation_layer(activation)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        change: Tensor = self.conv2(self.act(self.conv1(self.act(x))))
        return x + change


@dataclass(frozen=True)
class Pyramid:
    """The resolutions of a convolutional network, each half the sides of the one before.

    >>> Pyramid(4, [1, 2], blocks=1, features=8, activation="relu").coarsest((1, 8, 8))
    (8, 4, 4)

    Args:
        width: Channels at multiplier 1.
        multipliers: Channels of each resolution in units of width.
        blocks: Residual blocks a resolution.
        features: Numbers between the coarsest resolution and the code.
        activation: relu, tanh, gelu or silu.
    """

    width: int
    multipliers: list[int]
    blocks: int
    features: int
    activation: str

    def coarsest(self, shape: Shape) -> Shape:
        """(C, H, W) of the coarsest resolution of images of a shape."""
        if not self.multipliers or self.blocks < 0 or self.width < 1:
            raise ValueError(
                f"width={self.width}, multipliers={self.multipliers}, blocks={self.blocks}: need a "
                "positive width, at least one multiplier, and 0 or more blocks"
            )
        _, height, width = shape
        halvings = len(self.multipliers) - 1
        if height % 2**halvings or width % 2**halvings:
            raise ValueError(
                f"images of {height}x{width} cannot be halved {halvings} times: give "
                f"--model.multipliers fewer entries, or sides that are multiples of {2**halvings}"
            )
        return self.width * self.multipliers[-1], height >> halvings, width >> halvings

    def layers(self, between: type[nn.Conv2d] | type[nn.ConvTranspose2d]) -> list[nn.Module]:
        """Blocks at each resolution, from fine to coarse, or with transposed layers back."""
        widths = [self.width * m for m in self.multipliers]
        if between is nn.ConvTranspose2d:
            widths.reverse()
        layers: list[nn.Module] = []
        for i, channels in enumerate(widths):
            if i:
                layers.append(between(widths[i - 1], channels, 4, stride=2, padding=1))
            layers += [Residual(channels, self.activation) for _ in range(self.blocks)]
        return [*layers, activation_layer(self.activation)]


class ConvEncoder(nn.Module):
    """Residual blocks at each resolution, halved between, and a linear layer to the features.

    >>> pyramid = Pyramid(4, [1, 2], blocks=1, features=8, activation="relu")
    >>> ConvEncoder((1, 8, 8), pyramid)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(self, shape: Shape, pyramid: Pyramid) -> None:
        super().__init__()
        coarsest = pyramid.coarsest(shape)
        first = nn.Conv2d(shape[0], pyramid.width * pyramid.multipliers[0], 3, padding=1)
        self.layers = nn.Sequential(first, *pyramid.layers(nn.Conv2d))
        self.out = nn.Linear(math.prod(coarsest), pyramid.features)
        self.act = activation_layer(pyramid.activation)
        self.features = pyramid.features

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, features)."""
        return self.act(self.out(self.layers(x).flatten(1)))


class ConvDecoder(nn.Module):
    """The encoder in reverse.

    >>> pyramid = Pyramid(4, [1, 2], blocks=1, features=8, activation="relu")
    >>> ConvDecoder(3, (1, 8, 8), pyramid)(torch.zeros(2, 3)).shape
    torch.Size([2, 1, 8, 8])
    """

    def __init__(self, latent_dim: int, shape: Shape, pyramid: Pyramid) -> None:
        super().__init__()
        self.coarse = pyramid.coarsest(shape)
        self.inner = nn.Sequential(
            nn.Linear(latent_dim, pyramid.features),
            activation_layer(pyramid.activation),
            nn.Linear(pyramid.features, math.prod(self.coarse)),
        )
        self.layers = nn.Sequential(*pyramid.layers(nn.ConvTranspose2d))
        self.out = nn.Conv2d(pyramid.width * pyramid.multipliers[0], shape[0], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(N, d) to (N, C', H, W)."""
        return self.out(self.layers(self.inner(z).unflatten(1, self.coarse)))


def make_networks(
    name: str,
    shape: Shape,
    output_channels: int,
    latent_dim: int,
    *,
    hidden: list[int],
    activation: str,
    width: int,
    multipliers: list[int],
    blocks: int,
) -> tuple[MLPEncoder | ConvEncoder, MLPDecoder | ConvDecoder]:
    """Encoder and decoder, with hidden[-1] features between the encoder and what reads it."""
    out = (output_channels, *shape[1:])
    if name == "mlp":
        encoder = MLPEncoder(shape, hidden, activation)
        return encoder, MLPDecoder(latent_dim, out, hidden, activation)
    if name == "conv":
        pyramid = Pyramid(width, multipliers, blocks, hidden[-1], activation)
        return ConvEncoder(shape, pyramid), ConvDecoder(latent_dim, out, pyramid)
    raise ValueError(f"network={name!r}: choose mlp or conv")


def glorot(module: nn.Module) -> None:
    """Uniform weights within sqrt(6 / (in + out)) and zero biases, as Burda et al. begin."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def draw_the_mean(decoder: nn.Module, mean_image: Tensor) -> None:
    """Sets the output's bias to the logit of a mean image (arXiv 1509.00519's code).

    The image (C, H, W) in [0, 1] is clipped to [0.001, 0.999].
    """
    out = decoder.out
    one_a_channel = isinstance(decoder, ConvDecoder)
    mean = mean_image.mean((1, 2)) if one_a_channel else mean_image
    logits = mean.clamp(0.001, 0.999).logit()
    assert isinstance(out, nn.Linear | nn.Conv2d)
    assert out.bias is not None
    out.bias.copy_(logits.flatten())
