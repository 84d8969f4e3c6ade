"""One picture as an array of one size: its grey levels, transparency, orientation and crop."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.images.suffixes import readable

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 1 << 28
"""Most pixels of a picture, 268 million: a file of some kB can claim more than memory holds."""
_LARGE = 1 << 25  # pictures with more pixels are decoded one at a time
_one_at_a_time = threading.Lock()
# The nearest of 256 levels to each of 65536, as the PNG standard (12.5, sample depth) advises.
_EIGHT_BITS = ((np.arange(65536) * 255 + 32767) // 65535).astype(np.uint8)

_NO_RANGE = "has no known black and white: save it in 8 or 16 unsigned bits"


def decode(file: IO[bytes], channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The first image of a file as an array.

    Turned upright by its EXIF orientation, transparency laid over white, 9 to 16 bits rounded to 8,
    floats of 0 to 1 to 256 levels (others, signed and 32-bit integers have no known black and white
    and are refused), CMYK, YCbCr and LAB converted to RGB; the largest centred part with the aspect
    of `size` resized to it with antialiasing (nothing is resampled if it fits).

    Args:
        file: The file, open for reading; no more of it is read than the decoder asks for.
        channels: 1 for grey, 3 for RGB.
        size: Height and width.

    Returns:
        uint8 (channels, H, W).

    Raises:
        Exception: Of any kind, if the file is broken.
    """
    from PIL import Image, ImageOps

    height, width = size
    with open_picture(file) as opened:
        # A JPEG is decoded at the smallest scale of 1/1..1/8 that is at least twice the target.
        opened.draft(None, (2 * max(size), 2 * max(size)))
        with _patience(opened):
            _scale_transparency(opened)
            ImageOps.exif_transpose(opened, in_place=True)
            image = _flat(opened, "L" if channels == 1 else "RGB")
            image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
            array = np.asarray(image, dtype=np.uint8)
    return array.reshape(height, width, channels).transpose(2, 0, 1)


@contextmanager
def open_picture(file: IO[bytes]) -> "Iterator[Image]":
    """A picture of a format that is read, its pixels not yet decoded.

    Raises:
        ValueError: It has more than `MAX_PIXELS`.
        Exception: Of any kind, if the file is broken.
    """
    from PIL import Image, UnidentifiedImageError

    too_many = f"it has more than the {MAX_PIXELS:,} pixels that are read"
    with _pixels_allowed():
        try:
            opened = Image.open(file, formats=readable())
        except Image.DecompressionBombError as error:  # at twice the limit
            raise ValueError(too_many) from error
        except UnidentifiedImageError as error:
            raise ValueError(f"it is {_unread(file)}") from error
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(too_many)
            yield opened


def _flat(image: "Image", mode: str) -> "Image":
    """A picture in 8 bits and mode L or RGB, what is transparent laid over white."""
    from PIL import Image

    _refuse_signed(image)
    wide = _sixteen_bits(image)
    if image.mode == "F":
        image = Image.fromarray(_of_floats(image))
    elif wide is not None:
        grey, key = _EIGHT_BITS[wide], image.info.get("transparency")
        if isinstance(key, int):
            grey[wide == key] = 255
        image = Image.fromarray(grey)
    elif image.mode == "I":
        raise ValueError(f"its mode I (32-bit integers) {_NO_RANGE}")
    elif image.mode == "LAB":
        image = image.convert("RGB")
    elif _is_transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _refuse_signed(image: "Image") -> None:
    """Refuses grey levels that may lie below zero, which Pillow shows as others in 8 bits."""
    tags: Any = getattr(image, "tag_v2", None) or {}  # of TIFF, and of MPO
    signed = image.format == "TIFF" and 2 in tags.get(339, ())
    if signed or (image.format == "FITS" and image.mode.startswith("I;16")):
        bits = max(tags.get(258, (16,)))
        raise ValueError(f"its mode {image.mode} of signed {bits}-bit integers {_NO_RANGE}")


def _of_floats(image: "Image") -> NDArray[np.uint8]:
    """Grey levels of floats, of which 0 is black and 1 white."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"its mode F holds floats from {low:g} to {high:g}: taken are those of 0 (black) to 1 "
            "(white); scale them, or save it in 8 or 16 unsigned bits"
        )
    if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # type: ignore[attr-defined]
        values = 1 - values
    return np.rint(values * 255).astype(np.uint8)


def _unread(file: IO[bytes]) -> str:
    """What a file is that Pillow does not read: the samples of a TIFF, or no picture."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        file.seek(0)
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bits, kind = max(tags.get(258, (1,))), max(tags.get(339, (1,)))
        samples = {1: "unsigned", 2: "signed", 3: "float"}.get(kind, "other")
        return (
            f"a TIFF of {tags.get(277, 1)} {samples} {bits}-bit samples a pixel (photometric "
            f"{tags.get(262)}), which Pillow does not read: save it as PNG"
        )
    except Exception:  # it is no TIFF, or a damaged one
        return "damaged, or no picture of a format that is read"


def _sixteen_bits(opened: "Image") -> NDArray[np.uint16] | None:
    """Grey levels in 0..65535 of a picture with 9 to 16 bits; None if it has others."""
    if opened.mode == "I" and opened.format in ("PNG", "PPM"):  # Pillow scales them to 65535
        return np.asarray(opened).clip(0, 65535).astype(np.uint16)
    if not opened.mode.startswith("I;16"):
        return None
    levels = np.asarray(opened).astype(np.uint16)
    if opened.format == "TIFF":
        tags: Any = opened.tag_v2  # type: ignore[attr-defined]
        bits = int(tags.get(258, (16,))[0])
        if bits < 16:
            levels = (levels.astype(np.uint32) * 65535 // ((1 << bits) - 1)).astype(np.uint16)
        if tags.get(262) == 0:  # white is zero, which Pillow minds in 8 bits only
            levels = 65535 - levels
    return levels


def _scale_transparency(image: "Image") -> None:
    """Brings the transparent grey level or colour of a PNG to the 8 bits that Pillow decodes to."""
    key, tile = image.info.get("transparency"), getattr(image, "tile", None)
    if image.format != "PNG" or not tile:
        return
    scale = {"1": 255, "L;2": 85, "L;4": 17}.get(str(tile[0][3]), 0)
    if isinstance(key, int) and scale and key <= 255 // scale:  # of 1 bit Pillow 13 has done it
        image.info["transparency"] = key * scale
    if isinstance(key, tuple) and tile[0][3] == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _is_transparent(image: "Image") -> bool:
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return True
    palette = image.palette if image.mode == "P" else None
    return palette is not None and palette.mode.endswith("A")


@contextmanager
def _patience(image: "Image") -> Iterator[None]:
    """Lets one large picture at a time take its memory."""
    if image.size[0] * image.size[1] <= _LARGE:
        yield
        return
    with _one_at_a_time:
        yield


_users = 0
_limit_of_others: int | None = None
_counting = threading.Lock()


@contextmanager
def _pixels_allowed() -> Iterator[None]:
    """Pillow's own limit on pixels, a third of ours, set aside while any picture is open here."""
    from PIL import Image

    global _users, _limit_of_others
    with _counting:
        if _users == 0:
            _limit_of_others, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        _users += 1
    try:
        yield
    finally:
        with _counting:
            _users -= 1
            if _users == 0:
                Image.MAX_IMAGE_PIXELS = _limit_of_others
