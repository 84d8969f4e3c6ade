#!/usr/bin/env bash
# Pillow 12.0.0, PNG with a transparent colour (tRNS) in other depths than 8 bits.
# One would guess: info["transparency"] is on the scale of the pixels that Pillow decodes to, so that
# convert("RGBA") makes exactly the pixels of that colour transparent.
# True: 1-, 2- and 4-bit grey pixels are scaled to 0..255 and 16-bit colours cut to 8 bits, but the
# transparent value stays on the file's scale, so that no pixel becomes transparent. (Pillow 13 scales
# that of 1 bit, and no other.)
# A reader has to bring the value to 8 bits itself before it converts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "pillow==12.0.0"
"$work/venv/bin/python" - <<'PY'
import io
import struct
import zlib

import PIL
from PIL import Image

print("Pillow", PIL.__version__)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(bits: int, color: int, row: bytes, clear: bytes) -> bytes:
    """Two pixels in a row, the first of the transparent colour."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, color, 0, 0, 0))
        + chunk(b"tRNS", clear)
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


files = {
    "1-bit grey": png(1, 0, b"\x80", struct.pack(">H", 1)),
    "2-bit grey": png(2, 0, b"\x60", struct.pack(">H", 1)),
    "4-bit grey": png(4, 0, b"\x1a", struct.pack(">H", 1)),
    "8-bit grey": png(8, 0, b"\x01\xa0", struct.pack(">H", 1)),
    "16-bit RGB": png(
        16, 2, struct.pack(">6H", 300, 400, 500, 40000, 1, 2), struct.pack(">3H", 300, 400, 500)
    ),
}
found = {}
for name, content in files.items():
    image = Image.open(io.BytesIO(content))
    key = image.info["transparency"]
    first = image.convert("RGBA").getpixel((0, 0))
    found[name] = first[3] == 0
    print(f"{name}: transparency {key}, the pixel of that colour is {first}, clear: {found[name]}")
expected = {name: name == "8-bit grey" for name in files}
raise SystemExit(0 if found == expected else f"another behaviour: {found}")
PY
