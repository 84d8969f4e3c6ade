"""Images of a folder, a .zip or an .npy as one array, as a model takes them."""

from pathlib import Path
from typing import IO

import numpy as np

from zoo.data.described import tell_lines
from zoo.data.images.decoding import decode, open_picture
from zoo.data.images.files import ImageFiles
from zoo.data.images.suffixes import is_picture


def read_images(
    path: Path, shape: tuple[int, int, int], *, exact: bool = False
) -> tuple[list[str] | None, np.ndarray]:
    """Images of a folder or .zip in the order of their names, or of an .npy.

    Args:
        path: The folder, .zip or .npy.
        shape: (C, H, W) of an image.
        exact: Refuse what would have to be resized or converted.

    Returns:
        The names, if they are files, and uint8 (N, C, H, W).

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: It cannot be read, or is of another shape.
    """
    if path.suffix.lower() == ".npy":
        return None, _read_array(path, shape)
    files = ImageFiles(path)
    try:
        names = sorted(files.names())
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("--data.root must", "it must")) from error
    if exact and (missed := [kind for kind in files.left_out if is_picture(kind)]):
        raise ValueError(
            f"{path} holds {files.left_out[missed[0]]} {missed[0]}: the archive would lack them; "
            "convert them, or take them away"
        )
    images = np.empty((len(names), *shape), np.uint8)
    for i, name in enumerate(names):
        try:
            if exact:
                with files.open(name) as file:
                    _check_file(name, file, shape)
            with files.open(name) as file:
                images[i] = decode(file, shape[0], shape[1:])
        except UnfitError:
            raise
        except Exception as error:  # a broken image can raise nearly anything
            raise ValueError(f"{path}: {name} cannot be read ({error}): remove it") from error
    tell_lines([f"{len(names):,} pictures in {path}", *files.left_out_lines()])
    return names, images


class UnfitError(ValueError):
    """A picture that a model cannot code without a loss."""


def _check_file(name: str, file: IO[bytes], shape: tuple[int, int, int]) -> None:
    """Refuses what `decode` would change: size, mode, transparency, further frames, rotation."""
    with open_picture(file) as image:
        size, mode = (image.height, image.width), image.mode
        frames = getattr(image, "n_frames", 1)
        clear = "transparency" in image.info
        turned = image.getexif().get(0x0112, 1) != 1
    modes = ("1", "L") if shape[0] == 1 else ("RGB",)
    if size != shape[1:] or mode not in modes:
        raise UnfitError(
            f"{name} is {size[0]}x{size[1]} of mode {mode}, and this model compresses "
            f"{shape[1]}x{shape[2]} of mode {modes[-1]} only: nothing is resized or converted"
        )
    for has, what in (
        (frames > 1, f"{frames} frames"),
        (clear, "a transparent colour"),
        (turned, "an EXIF orientation"),
    ):
        if has:
            raise UnfitError(f"{name} has {what}, which would be lost: save its pixels alone")


def open_array(path: Path) -> np.ndarray:
    """The array of an .npy, mapped and not read: a header may claim any shape.

    Raises:
        ValueError: It is no such file.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(f"{path} is not an .npy of numbers, or damaged") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an .npz, no .npy")
    return array


def _read_array(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    array = open_array(path)
    if array.dtype != np.uint8:
        raise ValueError(f"{path} holds {array.dtype}: give uint8 from 0 to 255")
    if array.ndim == 3 and shape[0] == 1:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1:] == (*shape[1:], shape[0]) != shape:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1:] != shape or not len(array):
        size = "x".join(map(str, shape))
        raise ValueError(f"{path} is of shape {array.shape}: the model takes N x {size}")
    return np.array(array, order="C")
