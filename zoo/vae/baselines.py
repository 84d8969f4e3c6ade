"""The code length that a model has to beat: pixels without one another."""

import torch
from torch import Tensor


class PixelFrequencies:
    """Each pixel by the training images' frequencies of its levels, with counts from 1.

    >>> images = torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    >>> frequencies = PixelFrequencies.of(images, levels=2)
    >>> frequencies.log_prob(torch.full((1, 1, 1, 1), -1.0)).exp()  # (2 + 1) / (3 + 2)
    tensor([0.6000], dtype=torch.float64)

    `log_p` are the logarithms of the levels' frequencies, (levels, D).
    """

    def __init__(self, log_p: Tensor) -> None:
        self.log_p = log_p

    @classmethod
    def of(cls, images: Tensor, levels: int, binarization: str = "none") -> "PixelFrequencies":
        """Counts training images.

        Args:
            images: Their grey levels on 0..255, uint8 (N, C, H, W).
            levels: Levels k of the data.
            binarization: dynamic counts a grey level as a part of white; threshold as white or not.
        """
        grey = images.flatten(1).double() / 255
        if binarization != "none":
            white = (grey if binarization == "dynamic" else (grey >= 0.5).double()).sum(0)
            counts = torch.stack([len(grey) - white, white])
        else:
            level = (grey * (levels - 1)).round().long()
            counts = grey.new_zeros(levels, grey.shape[1])
            counts.scatter_add_(0, level, torch.ones_like(grey))
        return cls(((counts + 1) / (len(grey) + levels)).log())

    def log_prob(self, x: Tensor) -> Tensor:
        """The log probability, float64 (B,), of images (B, C, H, W) in [-1, 1]."""
        levels = len(self.log_p)
        level = ((x.flatten(1).double() + 1) / 2 * (levels - 1)).round().long()
        return self.log_p.gather(0, level.clamp(0, levels - 1)).sum(1)
