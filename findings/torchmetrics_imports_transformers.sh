#!/usr/bin/env bash
# Every Lightning program starts a quarter slower once transformers is installed, whatever it trains
#
# One would guess: a package that a program does not use costs it nothing, all the more as transformers
# itself loads its models lazily; and that what a trainer needs of a metrics library is its base class.
#
# True, of lightning 2.6.6, torchmetrics 1.9.0, transformers 5.24.0: `import lightning.pytorch` imports
# torchmetrics, whose text metrics ask for AutoModel and AutoTokenizer at import wherever transformers is
# there. So the list of all its models is made, and torchvision, which torch brings no faster, comes with
# the image metrics. Without transformers, what is imported takes 0.7 to 0.8 of the processor's time.
# Keep it out of the environment of what does not need it, and time a start in that environment.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lightning==2.6.6 torchmetrics==1.9.0 torch==2.14.1 torchvision==0.29.1 \
    transformers==5.24.0
"$folder/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from statistics import median

import lightning
import torchmetrics
import transformers

versions = {each.__name__: each.__version__ for each in (lightning, torchmetrics, transformers)}
print(*(f"{name} {version}" for name, version in versions.items()))

# importlib.metadata is what torchmetrics asks; a package that it does not name counts as missing.
WITHOUT = """
import importlib.metadata as metadata
found = metadata.distribution
def distribution(name):
    if name == "transformers":
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.distribution = distribution
metadata.version = lambda name: distribution(name).version
"""
TIMED = """
import sys, time
import lightning.pytorch
print(time.process_time(), *(name in sys.modules for name in ("transformers", "torchvision")))
"""


def started(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *there = done.stdout.split()
    return float(seconds), there


rounds = [(started(TIMED), started(WITHOUT + TIMED)) for _ in range(6)][1:]  # the first reads the disk
print("imported with lightning.pytorch, transformers and torchvision:", *rounds[0][0][1])
print("the same, where transformers counts as missing:", *rounds[0][1][1])
assert all(with_it[1] == ["True", "True"] for with_it, _ in rounds)
assert all(without[1] == ["False", "True"] for _, without in rounds)
ratios = sorted(without[0] / with_it[0] for with_it, without in rounds)
print(f"time without over time with: {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
assert median(ratios) < 0.95
PYTHON
