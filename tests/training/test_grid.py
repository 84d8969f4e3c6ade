"""The grid of images: exact levels, places, enlargement, and a file that is whole or absent."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.training.grid import make_grid_png, picture_of_points


def test_every_pixel_is_where_it_belongs(tmp_path: Path) -> None:
    levels = torch.randint(0, 256, (5, 3, 4, 6), dtype=torch.uint8)
    path = make_grid_png(levels / 127.5 - 1, tmp_path / "new/grid.png", columns=2, scale=3)
    assert path == tmp_path / "new/grid.png"
    with Image.open(path) as image:
        grid = np.asarray(image)
    assert grid.shape == (3 * (12 + 2) + 2, 2 * (18 + 2) + 2, 3)
    covered = np.zeros(grid.shape[:2], bool)
    for i in range(5):
        for y in range(12):
            for x in range(18):
                row, column = 2 + i // 2 * 14 + y, 2 + i % 2 * 20 + x
                assert grid[row, column].tolist() == levels[i, :, y // 3, x // 3].tolist()
                covered[row, column] = True
    assert (grid[~covered] == 128).all()


@pytest.mark.parametrize(
    ("side", "scale"), [((8, 8), 8), ((28, 28), 3), ((32, 32), 2), ((64, 48), 1), ((128, 128), 1)]
)
def test_small_images_are_enlarged_until_they_can_be_read(
    tmp_path: Path, side: tuple[int, int], scale: int
) -> None:
    images = torch.zeros(7, 1, *side)
    with Image.open(make_grid_png(images, tmp_path / "grid.png")) as grid:
        mode, size = grid.mode, grid.size
    assert mode == "L"
    assert size == (3 * (side[1] * scale + 2) + 2, 3 * (side[0] * scale + 2) + 2)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_grid_png(torch.zeros(1, 1, 8, 8), tmp_path / "grid.png")
    before = path.read_bytes()

    def fail(self: Any, file: Any, kind: str) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        make_grid_png(torch.ones(1, 1, 8, 8), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_other_channels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, got 4 images with 2"):
        make_grid_png(torch.zeros(4, 2, 8, 8), tmp_path / "grid.png")


def test_points_are_where_they_belong():
    points = torch.tensor([[1.0, 0.5], [1.0, 0.5], [-1.0, -1.0]])  # a border of 0.1 around them
    picture = picture_of_points(points, side=20)[0, 0]
    assert (picture > -1).nonzero().tolist() == [[5, 19], [19, 0]]
    assert picture[5, 19] == 1
    assert picture[19, 0] < 1
