#!/usr/bin/env bash
# Pillow 12.0.0, JPEG at quality 100.
# One would guess: quality=100 keeps pixels to about one level, good enough to keep samples for a
# Frechet distance or real images at the size of training; other encoders keep full colour at high quality.
# True: only brightness is kept so. Colour is still stored for each 2x2 pixels together, at any quality:
# neighbours of other colours are wrong by up to half the range, as small coloured images (CIFAR, sprites,
# maps of classes) have them. subsampling=0 keeps them to a level; grey images never show it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "pillow==12.0.0" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
import io

import numpy as np
import PIL
from PIL import Image

print("Pillow", PIL.__version__)
rows, columns = np.indices((32, 32))
checks = (rows + columns) % 2 == 0
images = {
    "grey checks": np.where(checks[..., None], (200, 200, 200), (40, 40, 40)).astype(np.uint8),
    "red and blue checks": np.where(checks[..., None], (200, 0, 0), (0, 0, 200)).astype(np.uint8),
    "red and blue halves": np.where((columns < 16)[..., None], (200, 0, 0), (0, 0, 200)).astype(np.uint8),
}
errors = {}
for options in ({"quality": 75}, {"quality": 100}, {"quality": 100, "subsampling": 0}):
    for name, image in images.items():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", **options)
        read = np.asarray(Image.open(file).convert("RGB")).astype(int)
        errors[*options.items(), name] = error = np.abs(read - image).mean()
        print(f"{options}, {name}: mean error {error:.2f} levels; {image[8, 8]} became {read[8, 8]}")
full, whole = ("quality", 100), ("subsampling", 0)
kept = (
    errors[full, "grey checks"] < 1
    and errors[full, "red and blue halves"] < 3
    and errors[full, "red and blue checks"] > 40
    and errors[full, whole, "red and blue checks"] < 1
)
raise SystemExit(0 if kept else "another behaviour")
PY
