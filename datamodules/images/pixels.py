"""Grey levels to floats and back, exactly, and the coins that decide about flips."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.layers.seeds import mix


def to_float(levels_BCHW: Tensor, levels: int = 256) -> Tensor:
    """Grey levels v in 0..levels-1 as float32 x = 2 v / (levels - 1) - 1 in [-1, 1]."""
    if levels < 2:
        raise ValueError(f"levels={levels}: images have at least 2 grey levels")
    return levels_BCHW.to(torch.float32, copy=True).div_((levels - 1) / 2).sub_(1)


def to_uint8(images_BCHW: Tensor) -> Tensor:
    """Images in [-1, 1] as the nearest of 256 levels; the exact inverse of `to_float`.

    Values outside are clamped. Truncating (x + 1) / 2 * 255, as FID code often does, would move 63
    of the 256 levels down by one.

    Raises:
        ValueError: They are whole numbers, and so grey levels already.
    """
    if not images_BCHW.is_floating_point():
        raise ValueError(f"images of {images_BCHW.dtype}: give floats in [-1, 1]")
    return images_BCHW.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def _signed(constant: int) -> int:
    return constant - 2**64 if constant >= 2**63 else constant


def coin_flips(seed: int, epoch: int, size: int, device: torch.device | str) -> Tensor:
    """A fair coin per item: a pure function of (seed, epoch, index), the same after a resume.

    Item i gets the last bit of `mix(mix(seed, epoch) + i)`, computed in int64 on the device.

    Returns:
        int64 (size,), 0 or 1.
    """
    h = torch.arange(size, device=device) + _signed((mix(seed, epoch) + 0x9E3779B97F4A7C15) % 2**64)
    # int64 products wrap as uint64 ones do; the masks make the arithmetic shifts logical.
    h = (h ^ (h >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB)
    h = h ^ (h >> 31 & (1 << 33) - 1)
    return h >> 1 & 1


def pixels_of(images: Tensor) -> NDArray[np.uint8]:
    """Images (..., C, H, W) in [-1, 1] as an array of uint8, for a figure."""
    pixels: NDArray[np.uint8] = to_uint8(images.flatten(0, -4)).view(images.shape).cpu().numpy()
    return pixels
