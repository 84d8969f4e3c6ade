"""The picture formats that are read: every raster format that Pillow decodes by itself, and HEIC.

Not among them are formats for which Pillow starts another program (EPS) or has no decoder of its
own (WMF, BUFR, GRIB, HDF5, MPEG): a picture is untrusted input.
"""

import re
from functools import cache

_SUFFIXES = {
    "AVIF": ".avif .avifs",
    "BLP": ".blp",
    "BMP": ".bmp",
    "CUR": ".cur",
    "DCX": ".dcx",
    "DDS": ".dds",
    "DIB": ".dib",
    "FITS": ".fit .fits",
    "FLI": ".flc .fli",
    "FTEX": ".ftc .ftu",
    "GBR": ".gbr",
    "GIF": ".gif",
    "HEIF": ".heic .heics .heif .heifs .hif",
    "ICNS": ".icns",
    "ICO": ".ico",
    "IM": ".im",
    "JPEG": ".jfif .jpe .jpeg .jpg",
    "JPEG2000": ".j2c .j2k .jp2 .jpc .jpf .jpx",
    "MPO": ".mpo",
    "MSP": ".msp",
    "PCD": ".pcd",
    "PCX": ".pcx",
    "PIXAR": ".pxr",
    "PNG": ".apng .png",
    "PPM": ".pbm .pfm .pgm .pnm .ppm",
    "PSD": ".psd",
    "QOI": ".qoi",
    "SGI": ".bw .rgb .rgba .sgi",
    "SPIDER": ".spi .spider",
    "SUN": ".ras .sun",
    "TGA": ".icb .tga .vda .vst",
    "TIFF": ".tif .tiff",
    "WEBP": ".webp",
    "XBM": ".xbm",
    "XPM": ".xpm",
}
FORMAT_OF_SUFFIX = {
    suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes.split()
}
SIGNATURE = 64
"""Bytes of a file from which `begins_as_picture` tells."""
_SIGNATURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF....WEBP|qoif|8BPS\0|DDS \x7c"
    rb"|icns|....ftyp(?:avi[fs]|hei[cmsx]|hev[cx]|mif1|msf1)|\0\0\0\x0cjP  \r\n\x87\n"
    rb"|\xff\x4f\xff\x51\0|BM....\0\0\0\0....[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|P[1-6]\s+(?:#|\d+\s)|P[Ff]\n\d+ ",
    re.DOTALL,
)
OTHER_PICTURES = frozenset(
    ".ai .arw .cr2 .cr3 .dcm .djvu .dng .emf .eps .exr .hdr .jxl .jxr .nef .orf .pdf .ps .raf "  # noqa: SIM905
    ".rw2 .svg .svgz .wdp .wmf".split()
)
"""Suffixes of pictures, for those who look for theirs, that are not read."""
PACKED = frozenset(".7z .bz2 .gz .rar .tgz .xz .zst".split())  # noqa: SIM905
"""Suffixes of archives that are not read."""


def begins_as_picture(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a picture of a format that has a signature."""
    return _SIGNATURES.match(start) is not None


@cache
def readable() -> tuple[str, ...]:
    """Pillow's names of the formats that this installation decodes."""
    from PIL import Image, features

    try:
        from pi_heif import register_heif_opener

        register_heif_opener()
    except ImportError:
        pass
    Image.init()
    optional = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}
    return tuple(
        name
        for name in _SUFFIXES
        if name in Image.OPEN and (name not in optional or features.check(optional[name]))
    )


def why_not(suffix: str) -> str | None:
    """Why files of this suffix are not read; None if they are."""
    name = FORMAT_OF_SUFFIX.get(suffix)
    if name is None:
        if suffix in PACKED:
            return "packed: unpack it"
        if suffix == ".zip":
            return "an archive: give it as --data.root"
        return "not a format that is read" if suffix in OTHER_PICTURES else "no pictures"
    # Pillow's plugin of MPO, which has no opener of its own: such a file begins as a JPEG.
    if name == "MPO" or name in readable():
        return None
    if name == "HEIF":
        return "pip install pi-heif to read them"
    return f"this Pillow cannot decode {name}: update it"


def is_picture(kind: str) -> bool:
    """Whether a kind of files that is left out ("SUFFIX (why)") is one of pictures."""
    suffix = kind.split(" ")[0]
    return suffix in FORMAT_OF_SUFFIX or suffix in OTHER_PICTURES
