"""The exact W1 of two batches: ours, linear assignment, and POT, by turns.

`exact_w1` looks at the batches and takes the way that is faster for them: this is what that is
worth. Each kind of batch is one that a study or a logging step meets; "assignment" is SciPy's on
the matrix of costs, "POT" its network simplex, both on the same float64 costs, and the three
values agree to 1e-12.

    python benchmarks/wgan_w1.py [--items 1000] [--rounds 5] [--json FILE]
"""

import argparse
import json
import math
import time
from pathlib import Path

import ot
import torch
from ddpm import interleave, machine, summary
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from zoo.wgan.transport import exact_w1, pairwise_cost


def batches(n: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Two batches of n items of each kind."""
    seed = torch.Generator().manual_seed(0)
    flat, other, images, generated = (
        torch.randn(n, d, generator=seed, dtype=torch.float64) for d in (2, 2, 784, 784)
    )
    pick = torch.randint(0, 20, (2, n), generator=seed)
    return {
        "flat points": (flat, other + 1),
        "collapsed points": (flat, other[:1] + 1e-9 * other),
        "images": (images, generated + 0.5),
        "images, 20 that differ": (images, generated[:20][pick[0]]),
        "20 that differ in either": (flat[:20][pick[0]], other[:20][pick[1]]),
    }


def assignment(x: Tensor, y: Tensor) -> float:
    """By SciPy's linear assignment."""
    cost = pairwise_cost(x, y).numpy()
    return float(cost[linear_sum_assignment(cost)].mean())


def simplex(x: Tensor, y: Tensor) -> float:
    """By POT's network simplex."""
    return float(ot.emd2([], [], pairwise_cost(x, y).numpy(), numItermax=10_000_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ways = {"zoo": exact_w1, "assignment": assignment, "POT": simplex}
    rows = {}
    print(f"{machine('cpu')}; {options.items} items\n\n| | assignment | POT |\n|---|---|---|")
    for kind, (x, y) in batches(options.items).items():
        values = [float(way(x, y)) for way in ways.values()]
        assert all(math.isclose(v, values[0], rel_tol=1e-12) for v in values), values
        calls = {name: (lambda w=way: w(x, y)) for name, way in ways.items()}  # noqa: B023  # called in this round
        times = interleave(calls, options.rounds, 1, torch.device("cpu"), time.process_time)
        rows[kind] = summary(times, "zoo")
        cells = (rows[kind][name] for name in ("assignment", "POT"))
        found = (f"{c['ratio']:.2f} ({c['ratio_min']:.2f} to {c['ratio_max']:.2f})" for c in cells)
        print(f"| {kind} | {' | '.join(found)} |", flush=True)
    if options.json:
        report = {"machine": machine("cpu"), "items": options.items, "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
