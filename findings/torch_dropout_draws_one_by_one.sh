#!/usr/bin/env bash
# The time of torch's dropout on a CPU that is not Intel's.
# One would guess: it is a multiplication by a mask, bound by the memory, shared by the threads, and
# drawing the mask costs no more than drawing as many uniform numbers to compare with.
# True: nearly all of it is bernoulli_, which draws one element after another in one thread, at twice
# the time of uniform_ and ten times and more that of the multiplication; a second thread makes
# nothing of it faster. Four masks of 16 bits cut out of each integer of random_() take a quarter
# of its time. torch's source takes MKL's parallel generator instead where the processor's vendor is
# Intel, so there this is not to be seen, and the same seed is not bound to give the same mask.
# Seen on an AMD EPYC with torch 2.14.1.
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

x = torch.rand(64, 64, 28, 28, generator=torch.Generator().manual_seed(0))
mask = torch.ones_like(x)
words = torch.empty(x.numel() // 4, dtype=torch.int64)
calls = {
    "dropout": lambda: torch.nn.functional.dropout(x, 0.1),
    "bernoulli_": lambda: torch.empty_like(x).bernoulli_(0.9),
    "uniform_": lambda: torch.empty_like(x).uniform_(),
    "x * mask": lambda: x * mask,
    "16 bits": lambda: words.random_(-(2**63), None).view(torch.int16) >= 6554 - 2**15,
}
found = {}
for threads in (1, 2):
    torch.set_num_threads(threads)
    times = {name: [] for name in calls}
    for _ in range(9):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    found[threads] = {name: min(own) for name, own in times.items()}
name = torch.cpu.get_capabilities().get("cpu_name", "")
print("torch", torch.__version__, name)
for threads, row in found.items():
    print(f"{threads} threads:", ", ".join(f"{k} {1e3 * v:.1f} ms" for k, v in row.items()))
assert (torch.nn.functional.dropout(torch.ones(10**6), 0.1) == 0).float().mean().sub(0.1).abs() < 0.002
if "Intel" not in name:
    one, two = found[1], found[2]
    assert one["bernoulli_"] > 0.6 * one["dropout"], one
    assert one["bernoulli_"] > 1.5 * one["uniform_"], one
    assert one["bernoulli_"] > 3 * one["16 bits"], one
    if len(os.sched_getaffinity(0)) > 1:
        assert two["bernoulli_"] > 0.8 * one["bernoulli_"], found
PY
venv/bin/python program.py
