#!/usr/bin/env bash
# torchvision's to_pil_image and write paths turn floats in [0, 1] into bytes.
# One would guess: by rounding, as torchvision.utils.save_image does.
# True: to_pil_image truncates and save_image rounds: half of the pixels of one picture differ by a
# level, and what to_pil_image writes is half a level darker on the average. Metrics over folders of
# pictures (Fréchet distances, say) see the way in which they were written.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check "torchvision==0.29.1" "torch==2.14.1" "numpy==2.2.6"
cat >program.py <<'PY'
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import save_image

print("torch", torch.__version__, "torchvision", torchvision.__version__)
pixels = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
by_pil = np.asarray(to_pil_image(pixels)).astype(int)
save_image(pixels, "saved.png")
by_save = np.asarray(Image.open("saved.png")).astype(int)
exact = pixels.permute(1, 2, 0).double().numpy() * 255
print(f"to_pil_image: mean error {np.mean(by_pil - exact):+.3f} levels")
print(f"save_image:   mean error {np.mean(by_save - exact):+.3f} levels")
print(f"pixels that differ: {np.mean(by_pil != by_save):.2f}")
assert np.mean(by_pil - exact) < -0.45
assert abs(np.mean(by_save - exact)) < 0.05
PY
venv/bin/python program.py
