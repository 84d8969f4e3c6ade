"""Grey levels and transparency of every depth and format, and the bounds on a picture's size."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, __version__

from zoo.data.images import decoding
from zoo.data.images.decoding import decode
from zoo.data.images.suffixes import FORMAT_OF_SUFFIX, readable, why_not


def grey(data: bytes, size: tuple[int, int]) -> list[int]:
    return decode(io.BytesIO(data), 1, size).ravel().tolist()


def eight_bits(value: int, most: int) -> int:
    """The nearest of 256 levels."""
    return (value * 510 + most) // (2 * most)


@pytest.mark.parametrize("most", [65535, 4095, 1023, 255, 15])
@pytest.mark.parametrize("plain", [False, True])
def test_pgm_of_any_maximum(most: int, plain: bool) -> None:
    values = np.array([0, most // 5, most * 40000 // 65535, most])
    head = f"P{2 if plain else 5}\n2 2\n{most}\n".encode()
    body = (
        " ".join(map(str, values)).encode()
        if plain
        else values.astype(">u2" if most > 255 else "u1").tobytes()
    )
    expected = [eight_bits(int(v), most) for v in values]
    # Pillow scales 12 bits to 16 and fewer than 8 to 8 by truncating in places: one level.
    tolerance = 0 if most in (255, 65535) else 1
    assert np.abs(np.array(grey(head + body, (2, 2))) - expected).max() <= tolerance


def png(bits: int, color: int, rows: list[bytes], width: int, clear: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, color, 0, 0, 0))
        + chunk(b"tRNS", clear)
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("bits", "row", "clear", "expected"),
    [
        (16, struct.pack(">HH", 40000, 12345), 12345, [156, 255]),
        (16, struct.pack(">HH", 40000, 12345), 12346, [156, 48]),
        (8, b"\x12\x01", 1, [0x12, 255]),
        (4, b"\x12", 1, [255, 34]),
        (2, b"\x60", 1, [255, 170]),
        (1, b"\x40", 1, [0, 255]),
    ],
)
def test_the_transparent_grey_level_of_a_png_is_laid_over_white(
    bits: int, row: bytes, clear: int, expected: list[int]
) -> None:
    assert grey(png(bits, 0, [row], 2, struct.pack(">H", clear)), (1, 2)) == expected


def test_the_transparent_colour_of_a_sixteen_bit_png() -> None:
    row = struct.pack(">6H", 40000, 1, 2, 300, 400, 500)
    data = png(16, 2, [row], 2, struct.pack(">3H", 300, 400, 500))
    assert decode(io.BytesIO(data), 3, (1, 2)).tolist() == [[[156, 255]], [[0, 255]], [[0, 255]]]


def tiff(photometric: int, bits: int, data: bytes, kind: int = 1) -> bytes:
    """One row of two grey pixels."""
    tags = [(256, 2), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags += [(278, 1), (279, len(data)), (339, kind)]
    body = data + b"\0" * (len(data) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory


def test_tiff_with_twelve_bits_and_with_white_as_zero() -> None:
    twelve = (0xFFF << 12 | 0x800).to_bytes(3, "big")
    assert grey(tiff(1, 12, twelve), (1, 2)) == [255, 128]
    sixteen = struct.pack("<2H", 40000, 0)
    assert grey(tiff(1, 16, sixteen), (1, 2)) == [156, 0]
    assert grey(tiff(0, 16, sixteen), (1, 2)) == [99, 255]


def test_floats_of_zero_to_one_are_taken() -> None:
    assert grey(tiff(1, 32, struct.pack("<2f", 0.25, 1), 3), (1, 2)) == [64, 255]
    assert grey(tiff(0, 32, struct.pack("<2f", 0.25, 1), 3), (1, 2)) == [191, 0]  # white is zero
    assert grey(b"Pf\n2 1\n-1.0\n" + struct.pack("<2f", 0.5, 0), (1, 2)) == [128, 0]


@pytest.mark.parametrize(
    ("kind", "bits", "data", "said"),
    [
        (3, 32, struct.pack("<2f", 0, 255), "mode F holds floats from 0 to 255: taken are"),
        (3, 32, struct.pack("<2f", 0, np.nan), "mode F holds floats from nan to nan"),
        (2, 8, struct.pack("<2b", -5, 9), "mode L of signed 8-bit integers has no known black"),
        (2, 16, struct.pack("<2h", -5, 9), "mode I of signed 16-bit integers has no known black"),
        (2, 32, struct.pack("<2i", -5, 9), "mode I of signed 32-bit integers has no known black"),
        (1, 32, struct.pack("<2I", 5, 9), "mode I .32-bit integers. has no known black and white"),
        (3, 64, struct.pack("<2d", 0, 1), "a TIFF of 1 float 64-bit samples a pixel"),
        (3, 16, bytes(4), "a TIFF of 1 float 16-bit samples a pixel"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_without_a_range_are_refused_by_name(
    kind: int, bits: int, data: bytes, said: str, channels: int
) -> None:
    with pytest.raises(ValueError, match=said):
        decode(io.BytesIO(tiff(1, bits, data, kind)), channels, (1, 2))


def test_signed_levels_of_fits_are_refused() -> None:
    cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 2", "NAXIS2  = 1", "END"]
    data = "".join(card.ljust(80) for card in cards).ljust(2880).encode() + bytes(2880)
    with pytest.raises(ValueError, match="signed 16-bit integers has no known black"):
        grey(data, (1, 2))


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_becomes_srgb(channels: int) -> None:
    file = io.BytesIO()
    Image.frombytes("LAB", (3, 1), bytes([0, 0, 0, 128, 0, 0, 255, 0, 0])).save(file, "TIFF")
    luminance = ((100 * 128 / 255 + 16) / 116) ** 3
    middle = round(255 * (1.055 * luminance ** (1 / 2.4) - 0.055))
    got = decode(file, channels, (1, 3)).astype(int)
    # A neutral colour is grey; littlecms rounds the coefficients of its matrices.
    assert np.abs(got - np.array([0, middle, 255])).max() <= 1


# Pillow before 13 does not read the uncompressed YCbCr that it writes.
PIL = tuple(map(int, __version__.split(".")[:2]))
OLD = pytest.mark.skipif(PIL < (13, 0), reason="Pillow before 13")


@pytest.mark.parametrize("mode", ["CMYK", pytest.param("YCbCr", marks=OLD)])
def test_tiff_of_other_colour_spaces(mode: str) -> None:
    array = np.array([[[200, 100, 50], [255, 255, 255]]], np.uint8)
    image, file = Image.fromarray(array).convert(mode), io.BytesIO()
    image.save(file, "TIFF")
    assert Image.open(file).mode == mode
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert decode(file, 3, (1, 2)).tolist() == expected.tolist()
    assert np.abs(expected.astype(int) - array.transpose(2, 0, 1)).max() <= 2  # YCbCr's rounding


def test_palettes_with_transparency_and_one_bit() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    for kind, clear in (("PNG", 0), ("GIF", 0), ("PNG", b"\x00\xff")):
        file = io.BytesIO()
        image.save(file, kind, transparency=clear)
        assert decode(file, 3, (1, 2)).tolist() == [[[255, 0]], [[255, 0]], [[255, 255]]]
    assert grey(tiff(0, 1, b"\x80"), (1, 2)) == [0, 255]
    assert grey(tiff(1, 1, b"\x80"), (1, 2)) == [255, 0]


LOSSLESS = {
    "BMP": {}, "DIB": {}, "GIF": {}, "JPEG2000": {"irreversible": False}, "PCX": {},
    "PNG": {}, "PPM": {}, "QOI": {}, "SGI": {}, "TGA": {}, "TIFF": {}, "ICO": {},
    "WEBP": {"lossless": True},
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(LOSSLESS))
def test_every_lossless_format_gives_its_pixels(kind: str) -> None:
    array = np.random.default_rng(0).integers(0, 4, (16, 16, 3), np.uint8) * 85
    file = io.BytesIO()
    image = Image.fromarray(array)
    image = image.quantize(64) if kind == "GIF" else image
    image.save(file, kind, **LOSSLESS[kind])
    assert decode(file, 3, (16, 16)).transpose(1, 2, 0).tolist() == array.tolist()
    assert kind in readable()


@pytest.mark.skipif("AVIF" not in readable(), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("kind", ["AVIF", "JPEG"])
def test_lossy_formats_come_close(kind: str) -> None:
    array = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, quality=95)
    got = decode(file, 3, (16, 16)).transpose(1, 2, 0).astype(int)
    assert np.abs(got - array).max() <= 4


def test_no_format_that_starts_another_program_is_read() -> None:
    assert not {"EPS", "WMF", "BUFR", "GRIB", "HDF5"} & set(readable())
    assert why_not(".eps") == "not a format that is read"
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    with pytest.raises(Exception, match="no picture of a format"):
        decode(io.BytesIO(eps), 3, (8, 8))


def test_every_suffix_of_a_format_that_pillow_reads_is_known() -> None:
    Image.init()
    named = {suffix for suffix, kind in Image.registered_extensions().items() if kind in readable()}
    assert named <= set(FORMAT_OF_SUFFIX)


# A 64x64 picture of one colour, made with pillow-heif.
HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAA"
    "AAAAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABegABAAAAAAAAAB4AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34"
    "+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmu"
    "bgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAA"
    "QAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAACZtZGF0AAAAGigBrwT4QTJp2/0j///8"
    "pDHZfwE4pPRxg2/A"
)


def test_heic_by_its_extra() -> None:
    pytest.importorskip("pi_heif")
    got = decode(io.BytesIO(base64.b64decode(HEIC)), 3, (64, 64)).astype(int)
    assert np.abs(got - np.array([200, 100, 50])[:, None, None]).max() <= 6


def test_a_claim_of_too_many_pixels_is_refused_before_they_have_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    claim = b"P5\n60000 60000\n255\n" + bytes(100)
    with pytest.raises(ValueError, match="more than the 268,435,456 pixels"):
        decode(io.BytesIO(claim), 1, (8, 8))
    assert limit == Image.MAX_IMAGE_PIXELS  # other users of Pillow keep theirs
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow's own refuses a tenth of ours
    file = io.BytesIO()
    Image.new("L", (40, 40), 7).save(file, "PNG")
    assert grey(file.getvalue(), (2, 2)) == [7] * 4
    assert Image.MAX_IMAGE_PIXELS == 100


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_LARGE", 10)
    file = io.BytesIO()
    Image.new("L", (40, 40), 7).save(file, "PNG")
    assert grey(file.getvalue(), (2, 2)) == [7] * 4
    assert not decoding._one_at_a_time.locked()


@pytest.mark.slow
def test_a_picture_of_180_megapixels() -> None:
    file = io.BytesIO()
    Image.new("L", (15_000, 12_000), 99).save(file, "PNG", compress_level=1)
    assert grey(file.getvalue(), (4, 5)) == [99] * 20
