#!/usr/bin/env bash
# The time of torch's scaled_dot_product_attention in bf16 on a CPU, forward and backward.
# One would guess: the fused kernel beats two products and a softmax written out, more so in bf16,
# which has half the bytes, and at worst draws with them for a few keys.
# True: with instructions for bf16 (AVX-512's) it takes 6 times as long as the plain form for 32
# keys, 3 times for 128 and 1.8 times for 256, because of its backward pass; and 3 and 1.9 times as
# long as the same call in float32, where both forms are about as fast. Without such instructions,
# as with the instruction set capped at AVX2, it is the other way round: the products are emulated,
# and the plain form takes twice as long. So neither is the right choice for all.
# Seen on an AMD EPYC with AVX-512 and torch 2.14.1; where the processor has no such
# instructions only the second half can be seen.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check "torch==2.14.1" "numpy==2.2.6"
cat >program.py <<'PY'
import os
import time

import torch
from torch.nn.functional import scaled_dot_product_attention as fused

torch.set_num_threads(1)
capped = "ATEN_CPU_CAPABILITY" in os.environ
units = torch.cpu.get_capabilities().get("avx512_bf16", False) and not capped
print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability(), "bf16:", units)


def plain(q, k, v):
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


def least(function, *inputs):
    times = []
    for _ in range(8):
        began = time.perf_counter()
        out = function(*inputs)
        out.backward(torch.ones_like(out))
        times.append(time.perf_counter() - began)
    return min(times[1:])


for rows, heads, keys, size in [(96, 12, 32, 32), (8, 6, 128, 64), (16, 1, 256, 256)]:
    x = torch.randn(3, rows, keys, heads, size, generator=torch.Generator().manual_seed(0))
    took = {}
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [part.to(dtype).transpose(1, 2).requires_grad_() for part in x]
        for function in (fused, plain):
            took[dtype, function] = least(function, *inputs)
    ratio = {d: took[d, fused] / took[d, plain] for d in (torch.float32, torch.bfloat16)}
    slower = took[torch.bfloat16, fused] / took[torch.float32, fused]
    print(
        f"{keys} keys: fused / plain {ratio[torch.bfloat16]:.2f} in bf16, "
        f"{ratio[torch.float32]:.2f} in float32; fused, bf16 / float32 {slower:.2f}"
    )
    assert 0.5 < ratio[torch.float32] < 2, ratio
    if units:
        assert ratio[torch.bfloat16] > 1.4, ratio
        assert keys > 32 or slower > 1.5, slower
    elif capped:
        assert ratio[torch.bfloat16] < 0.8, ratio
PY
venv/bin/python program.py
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 venv/bin/python program.py
