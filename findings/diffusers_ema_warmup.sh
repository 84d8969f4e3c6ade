#!/usr/bin/env bash
# diffusers' EMAModel takes decay=0.9999 and use_ema_warmup=False, which are its defaults.
# One would guess: without the warm-up each step averages with 0.9999 of the old weights.
# True: it is warmed up either way. Without the flag step n averages with (1 + n) / (10 + n), but
# at most 0.9999, which is reached only after about 90,000 steps; the flag chooses another curve.
# Shorter runs, compared by the decay that they state, are averaged over fewer steps than it says.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check "diffusers==0.42.1" "torch==2.14.1" "numpy==2.2.6"
cat >program.py <<'PY'
import diffusers
import torch
from diffusers.training_utils import EMAModel

print("diffusers", diffusers.__version__, "torch", torch.__version__)
weight = torch.nn.Parameter(torch.zeros(1))
average = EMAModel([weight], decay=0.9999, use_ema_warmup=False)
found = {}
for step in range(1, 1001):
    average.step([weight])
    found[step] = average.cur_decay_value
for step in (2, 11, 101, 1000):
    print(f"step {step}: decay {found[step]:.6f}")
reached = next(n for n in range(10**6) if average.get_decay(n) >= 0.9999)
print("0.9999 is reached at step", reached)
assert abs(found[11] - 11 / 20) < 1e-12, found[11]
assert found[1000] < 0.992
assert 89_000 < reached < 91_000
PY
venv/bin/python program.py
