#!/usr/bin/env bash
# The time of torch's float32 log1p, expm1, softplus and logsigmoid on a processor with AVX-512.
# One would guess: it hangs on the processor and on the number of elements, as that of exp does.
# True: it hangs on what the process has done before. Each of their loops reads a constant under a
# mask that is empty unless an element is -0.0. Until something really reads it, the page that the
# constant lies in is not in the process's page table, and the processor suppresses a fault at every
# one of those reads, which costs it an assist by microcode. One log1p(-0.0) fetches the page, and
# from then on 100,000 elements take a sixth to a tenth of the time; dropping the library's pages
# from the table brings the slow loops back. AVX2 has no such masks: its slower registers win by far
# in a fresh process. Seen on an AMD EPYC with torch 2.14.1; without AVX-512, or
# with ATEN_CPU_CAPABILITY=avx2, there is nothing to see.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check "torch==2.14.1" "numpy==2.2.6"
cat >program.py <<'PY'
import time

import torch

torch.set_num_threads(1)
capability = torch.backends.cpu.get_cpu_capability()
print("torch", torch.__version__, capability)
x = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) - 0.5
functions = {
    "exp": torch.exp,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "softplus": torch.nn.functional.softplus,
    "logsigmoid": torch.nn.functional.logsigmoid,
}


def least(function):
    times = []
    for _ in range(30):
        began = time.perf_counter()
        function(x)
        times.append(time.perf_counter() - began)
    return min(times)


fresh = {name: least(function) for name, function in functions.items()}
torch.log1p(torch.tensor([-0.0]))
after = {name: least(function) for name, function in functions.items()}
for name in functions:
    print(f"{name:<11} fresh process / after one log1p(-0.0): {fresh[name] / after[name]:5.1f}")
waits = {name for name in functions if fresh[name] / after[name] > 3}
assert waits == (functions.keys() - {"exp"} if capability == "AVX512" else set()), waits
PY
venv/bin/python program.py
ATEN_CPU_CAPABILITY=avx2 venv/bin/python program.py
