"""Convolution and mean, or upsampling and convolution, in one operation each.

A 3x3 convolution followed by a 2x2 mean is a 4x4 convolution of stride 2, and nearest-neighbour
upsampling followed by a 3x3 convolution is a transposed one: 16 multiplications for each pixel of
the small map instead of 36. The weights stay those of the 3x3 convolution, and so do all
derivatives up to rounding. Progressive GAN's code has the same (arXiv 1710.10196).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.wgan.networks.double_backward import conv2d


def spreading() -> Tensor:
    """The matrix that correlates a 3x3 kernel fully with 2x2 ones, (9, 16), for flat kernels.

    Entry (i j, a b) is 1 where a - i and b - j are 0 or 1.
    """
    shifted = torch.eye(3, 4) + torch.eye(3, 4).roll(1, 1)
    return torch.einsum("ia,jb->ijab", shifted, shifted).reshape(9, 16)


class _Resampling(nn.Conv2d):
    """A 3x3 convolution that keeps the size, and a 4x4 kernel: its weight by a matrix (9, 16)."""

    matrix: Tensor

    def __init__(self, inside: int, outside: int, matrix: Tensor) -> None:
        super().__init__(inside, outside, 3, padding=1)
        # One product is a fifth of the time of padding and adding.
        self.register_buffer("matrix", matrix, persistent=False)

    def kernel(self) -> Tensor:
        """(O, C, 4, 4)."""
        weight = self.weight  # once: under spectral normalisation each access is a power iteration
        return (weight.flatten(2) @ self.matrix).view(*weight.shape[:2], 4, 4)


class ConvMean(_Resampling):
    """A 3x3 convolution that keeps the size, and the mean of each 2x2 square.

    Its double backward uses fast kernels, as `double_backward.Conv2d`.
    """

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(inside, outside, spreading() / 4)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, H // 2, W // 2)."""
        return conv2d(input, self.kernel(), self.bias, (2, 2), (1, 1))


class UpConv(_Resampling):
    """Each pixel made 2x2, and a 3x3 convolution that keeps the size."""

    def __init__(self, inside: int, outside: int) -> None:
        # A transposed convolution puts the kernel down turned by half a circle.
        super().__init__(inside, outside, spreading().flip(0))

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, 2 H, 2 W)."""
        kernel = self.kernel().transpose(0, 1)
        return F.conv_transpose2d(input, kernel, self.bias, stride=2, padding=1)


class Double(nn.Module):
    """Each pixel made 2x2; a quarter of the time of `torch.nn.Upsample` on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2 H, 2 W)."""
        return input.repeat_interleave(2, 3).repeat_interleave(2, 2)
