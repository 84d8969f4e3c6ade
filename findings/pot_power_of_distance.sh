#!/usr/bin/env bash
# POT 0.9.7.post1, the p-Wasserstein distance on a line, p = 2.
# One would guess: on one axis the sliced distance is the distance of the line, so that wasserstein_1d and
# sliced_wasserstein_distance with the same p agree; both say "Wasserstein distance".
# True: wasserstein_1d returns the p-th power of it, the sliced ones, max-sliced and Bures-Wasserstein
# ones the root. With p = 1 they agree, so that a test with it does not show which one has: points 3
# apart are 9 or 3, points 0.1 apart 0.01 or 0.1, and curves of the two cross at 1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "POT==0.9.7.post1" "numpy==2.2.6" "scipy==1.16.3"
"$work/venv/bin/python" - <<'PY'
import numpy as np
import ot

print("POT", ot.__version__, "numpy", np.__version__)
found = {}
for shift in (0.1, 3.0):
    x = np.random.default_rng(0).standard_normal(200)
    y = x + shift
    for p in (1, 2):
        line = float(ot.wasserstein_1d(x, y, p=p))
        sliced = float(ot.sliced_wasserstein_distance(x[:, None], y[:, None], p=p, n_projections=5, seed=0))
        widest = float(ot.max_sliced_wasserstein_distance(x[:, None], y[:, None], p=p, n_projections=5, seed=0))
        found[shift, p] = (line, sliced, widest)
        print(f"shift {shift}, p = {p}: wasserstein_1d {line:.4f}, sliced {sliced:.4f}, max-sliced {widest:.4f}")
bures = float(ot.gaussian.bures_wasserstein_distance(np.zeros(1), np.full(1, 3.0), np.eye(1), np.eye(1)))
print(f"two Gaussians 3 apart: bures_wasserstein_distance {bures:.4f}")
kept = abs(bures - 3) < 1e-6 and all(
    np.allclose(values, (shift**p, shift, shift)) for (shift, p), values in found.items()
)
raise SystemExit(0 if kept else "another behaviour")
PY
