"""A grid of images as a PNG file."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.images.pixels import to_uint8
from zoo.files import replacing

_GAP = 2  # pixels of grey between images
_GREY = 128
_READABLE = 64  # a side that a person can make out a digit on


def make_grid_png(images_NCHW: Tensor, path: str | Path, **layout: Any) -> Path:
    """Writes images into one PNG, complete or not at all; the layout is that of `make_grid`."""
    from PIL import Image

    grid = make_grid(images_NCHW, **layout)
    with replacing(path) as file:
        Image.fromarray(grid).save(file, "PNG")
    return Path(path)


def make_grid(
    images_NCHW: Tensor, *, columns: int | None = None, scale: int | None = None
) -> NDArray[np.uint8]:
    """Images side by side, row by row, as one array (H, W) or (H, W, 3).

    Each value becomes the nearest of 256 levels. Tiny images are enlarged by repeating pixels, so
    that an 8x8 digit can be read.

    Args:
        images_NCHW: Images in [-1, 1], one channel (grey) or three (RGB).
        columns: Images a row, at most all of them; by default about as many as rows.
        scale: Pixels of the file a pixel of an image; by default as many as make the longer side at
            least 64.
    """
    count, channels, height, width = images_NCHW.shape
    if count == 0 or channels not in (1, 3):
        raise ValueError(
            f"a grid needs images with 1 or 3 channels, got {count} images with {channels}"
        )
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    scale = scale or math.ceil(_READABLE / max(height, width))
    rows = math.ceil(count / columns)
    height, width = height * scale, width * scale

    tiles = to_uint8(images_NCHW.detach()).cpu()
    tiles = tiles.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    size = (channels, rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP)
    grid = torch.full(size, _GREY, dtype=torch.uint8)
    for i, tile in enumerate(tiles):
        top = _GAP + i // columns * (height + _GAP)
        left = _GAP + i % columns * (width + _GAP)
        grid[:, top : top + height, left : left + width] = tile
    array: NDArray[np.uint8] = grid.permute(1, 2, 0).numpy()
    return array[..., 0] if channels == 1 else array


def picture_of_points(points_N2: Tensor, side: int = 256) -> Tensor:
    """Points of the plane as one grey image: black where there is none, brighter where many are.

    It is (1, 1, side, side) in [-1, 1], is centred at 0, and shows all points.
    """
    points = points_N2.double().cpu()
    reach = 1.1 * float(points.abs().max().clamp_min(1e-6))
    place = ((points / reach + 1) * (side / 2)).long().clamp(0, side - 1)
    counts = torch.zeros(side * side, dtype=torch.float64)
    rows = side - 1 - place[:, 1]  # the second coordinate upwards
    counts.index_add_(0, rows * side + place[:, 0], torch.ones(len(points), dtype=torch.float64))
    light = torch.where(counts > 0, 0.4 + 0.6 * counts.log1p() / counts.max().log1p(), 0.0)
    return (2 * light - 1).float().view(1, 1, side, side)
