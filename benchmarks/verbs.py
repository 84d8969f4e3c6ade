"""What a verb takes from the shell, beside the imports that it cannot do without.

Whole processes, by turns: seconds of the clock without the waits for a processor.

- sample: `zoo sample` of one digit of the trained `ddpm/digits`, beside `import lightning.pytorch`;
- similar: `zoo similar` of a query on a saved index of so many made-up vectors, beside the imports
  of the model's family.

    python benchmarks/verbs.py [--vectors 200000] [--rounds 5] [--json FILE]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ddpm import machine
from scale_made import make_index, versus, watch
from scale_vectors import HERE, make_model

WIDTH = 64


def pairs(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Each verb's command, and that of its imports."""
    python = [sys.executable, "-c"]
    verb = [sys.executable, "-m", "zoo.cli"]
    similar = ["similar", str(folder / "model"), "--index", str(folder / "index")]
    return {
        "sample": (
            [*verb, "sample", "ddpm/digits", "--n", "1", "--out", str(folder / "one.png")],
            [*python, "import lightning.pytorch"],
        ),
        "similar": (
            [*verb, *similar, "--query", "a query"],
            [*python, "import zoo.cli; from zoo import RoFormerSim"],
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.rounds < 1 or options.vectors < 1:
        parser.error("--rounds and --vectors: give 1 or more")
    report: dict[str, Any] = {"machine": machine("cpu"), "rows": {}}
    print(report["machine"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "ZOO_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE)}
        torch.manual_seed(0)
        make_model(folder / "model", WIDTH)
        make_index(folder / "index", options.vectors, WIDTH, 0.1)
        time.sleep(3)  # a file that has just changed is looked at again
        for verb, commands in pairs(folder).items():
            times: list[list[float]] = [[], []]
            for turn in range(1 + options.rounds):
                for place in (0, 1) if turn % 2 else (1, 0):
                    clock = watch(commands[place], folder, environment).clock
                    if turn:  # the first reads the files
                        times[place].append(clock)
            row = report["rows"][verb] = versus(*times)
            print(
                f"zoo {verb}: {row['ours_s']:.2f} s, its imports {row['peer_s']:.2f} s, imports / "
                f"verb {row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
