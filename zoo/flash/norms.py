"""Normalisations of one token's features."""

from typing import Literal

import torch
from torch import Tensor, nn

from zoo.layers.rms_norm import RMSNorm

NormName = Literal["rms", "rms_plain", "scale", "layer"]


class ScaleNorm(nn.Module):
    """x sqrt(d) / max(|x|, eps sqrt(d)) times one learned number (arXiv 1910.05895, eq. 5)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.scale, self.eps = dim**-0.5, eps
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis of x (..., dim)."""
        wide = x.float() if x.dtype.itemsize < 4 else x
        size = wide.norm(dim=-1, keepdim=True) * self.scale
        out: Tensor = wide / size.clamp(min=self.eps) * self.g
        return out.to(x.dtype)


def make_norm(name: NormName, dim: int, eps: float) -> nn.Module:
    """Rms has weights, rms_plain has none (GAU-alpha), scale has one (the paper), layer has all."""
    if name == "scale":
        return ScaleNorm(dim, eps)
    if name == "layer":
        return nn.LayerNorm(dim, eps)
    return RMSNorm(dim, eps, affine=name == "rms")
