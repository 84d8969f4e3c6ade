"""The small classifier whose penultimate features compare images of one data set."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


def _convolution(channels: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]


class FeatureNet(nn.Module):
    """A 3x3 convolution, then pairs of them, each pair at half the resolution.

    Args:
        channels: Channels of the images.
        widths: Channels of the first convolution and of each pair; the last is the features'.
        num_classes: Classes it is trained to tell apart.
    """

    def __init__(self, *, channels: int, widths: Sequence[int], num_classes: int = 10) -> None:
        super().__init__()
        layers = _convolution(channels, widths[0])
        for before, width in pairwise(widths):
            layers += [nn.AvgPool2d(2), *_convolution(before, width), *_convolution(width, width)]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], num_classes)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1] to their features (B, widths[-1])."""
        return self.trunk(x_BCHW).mean((2, 3))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images in [-1, 1] to logits (B, num_classes)."""
        return self.head(self.features(x_BCHW))
