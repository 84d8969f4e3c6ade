#!/usr/bin/env bash
# The time of torch's group_norm on a CPU by memory format, forward and backward.
# One would guess: channels_last, which convolutions like, costs a normalisation little or nothing,
# and bf16 halves its time, as it does in the contiguous format.
# True: with few channels a group (64 in 32 groups, as in small U-Nets) channels_last takes 7 times
# the time of the contiguous format in float32 and 19 times in bf16, which is nearly three times
# that of float32: converting to float32 and back is faster. With 16 channels a group it still
# takes three times as long. So the format that is best for the convolutions of a network need not
# be best for its step: in bf16 such norms can be a third of it.
# Seen on an AMD EPYC with torch 2.14.1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check "torch==2.14.1" "numpy==2.2.6"
cat >program.py <<'PY'
import time

import torch
from torch.nn.functional import group_norm

torch.set_num_threads(1)
print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def least(x, wide=False):
    x = x.requires_grad_()
    weight, bias = (torch.ones(x.shape[1], requires_grad=True) for _ in range(2))
    times = []
    for _ in range(8):
        began = time.perf_counter()
        out = group_norm(x.float() if wide else x, 32, weight, bias).to(x.dtype)
        out.backward(torch.ones_like(out))
        times.append(time.perf_counter() - began)
    return min(times[1:])


ratios = {}
for channels, side in ((64, 28), (512, 8)):
    image = torch.randn(32, channels, side, side, generator=torch.Generator().manual_seed(0))
    took = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, layout in formats.items():
            took[dtype, name] = least(image.to(dtype).contiguous(memory_format=layout))
    last = image.bfloat16().contiguous(memory_format=torch.channels_last)
    took["by float32"] = least(last, wide=True)
    for key, seconds in took.items():
        print(channels, side, key, f"{1e3 * seconds:.2f} ms")
    for dtype in (torch.float32, torch.bfloat16):
        ratios[channels, dtype] = took[dtype, "channels_last"] / took[dtype, "contiguous"]
        print(f"{channels} channels, {dtype}: channels_last / contiguous {ratios[channels, dtype]:.1f}")
    if channels == 64:
        half = took[torch.bfloat16, "channels_last"]
        assert half > 1.5 * took[torch.float32, "channels_last"], took
        assert half > 1.3 * took["by float32"], took
assert ratios[64, torch.float32] > 2, ratios
assert ratios[64, torch.bfloat16] > 8, ratios
assert ratios[512, torch.bfloat16] < 6, ratios
PY
venv/bin/python program.py
