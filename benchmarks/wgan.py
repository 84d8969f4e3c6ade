"""WGAN against public code's form of it and torch-mimicry: critic, generator and whole iteration.

All take turns in one process, round by round; what is printed are medians of a round's ratios to
the first one's, with their range. zoo and "public" have the same networks and weights; "public"
is what public code does: the critic fed real, fake and interpolates in three forwards, PyTorch's
own double backward, mean and upsampling beside a convolution as operations of their own, a critic
that is not frozen in the generator's step, Adam without fusing, and GN by double backward in both
steps. The rows "zoo, ..." take one of our measures back each.
torch-mimicry (pip install --no-deps torch-mimicry==0.1.16) runs its own networks and train_step.

    python benchmarks/wgan.py [--quick] [--network resnet|dcgan] [--batch 8] [--device auto]
        [--constraints gp,gn,spectral_norm] [--clock wall|cpu] [--json FILE]

"whole" is five critic steps and a generator step, from the two medians. On a machine that others
use, `--clock cpu --threads 1` counts this process's time only.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ddpm import machine
from wgan_contenders import N_CRITIC, Contender, contenders

STEPS = ("critic", "generator")


def seconds(f: Callable[[], Any], device: str, clock: Callable[[], float]) -> float:
    """Time of one call, until the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    f()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(
    made: dict[str, Contender], options: argparse.Namespace
) -> dict[str, dict[str, list[float]]]:
    """Times of both steps of every contender, one of each a round, the order turning."""
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    names = list(made)
    times: dict[str, dict[str, list[float]]] = {n: {s: [] for s in STEPS} for n in names}
    for i in range(options.warm + options.rounds):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            for step in STEPS:
                call = getattr(made[name], f"{step}_step")
                elapsed = seconds(call, options.device, clock)
                if i >= options.warm:
                    times[name][step].append(elapsed)
    for steps in times.values():
        pairs = zip(steps["critic"], steps["generator"], strict=True)
        steps["whole"] = [N_CRITIC * c + g for c, g in pairs]
    return times


def ratios(own: list[float], reference: list[float]) -> dict[str, float]:
    """Median time, and how many times as long as the reference in the same round."""
    found = [a / b for a, b in zip(own, reference, strict=True)]
    return {
        "median_s": statistics.median(own),
        "ratio": statistics.median(found),
        "ratio_min": min(found),
        "ratio_max": max(found),
    }


def table(rows: dict[str, dict[str, dict[str, float]]], title: str) -> str:
    """The results as Markdown."""
    steps = (*STEPS, "whole")
    heads = " | ".join(f"{s}, ms | times {next(iter(rows))} (range)" for s in steps)
    lines = [
        f"| {title} | {heads} |",
        "|---|" + "---|---|" * len(steps),
    ]
    for name, row in rows.items():
        cells = [
            f"{1e3 * r['median_s']:.1f} | {r['ratio']:.2f} "
            f"({r['ratio_min']:.2f}-{r['ratio_max']:.2f})"
            for r in (row[s] for s in steps)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["resnet", "dcgan"], default="resnet")
    parser.add_argument("--batch", type=int, help="of the critic; 4 on a CPU, 64 on a GPU")
    parser.add_argument("--constraints", default="gp,gn,spectral_norm")
    parser.add_argument("--contenders", help="names as in the tables, separated by ;")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warm", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.batch = options.batch or (64 if options.device == "cuda" else 4)
    if options.quick:
        options.rounds, options.warm = 3, 1
    print(f"{machine(options.device)}; {options.network}, batch {options.batch}, fp32")
    report: dict[str, Any] = {"machine": machine(options.device), "batch": options.batch}
    for constraint in options.constraints.split(","):
        made = dict(contenders(constraint, options))
        if constraint == "gn":
            made["no constraint"] = next(contenders("none", plainly(options)))[1]
        times = measure(made, options)
        reference = times[next(iter(made))]
        rows = {
            name: {step: ratios(own[step], reference[step]) for step in own}
            for name, own in times.items()
        }
        report[constraint] = rows
        print(f"\n{table(rows, constraint)}")
        if constraint == "gn":
            plain = times["no constraint"]["generator"]
            ratio = ratios(reference["generator"], plain)["ratio"]
            print(f"\ngenerator step of gn to the one without constraint: {ratio:.3f}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def plainly(options: argparse.Namespace) -> argparse.Namespace:
    """Options for zoo alone."""
    return argparse.Namespace(**{**vars(options), "contenders": "zoo"})


if __name__ == "__main__":
    main()
