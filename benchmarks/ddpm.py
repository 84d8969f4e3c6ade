"""DDPM against diffusers and lucidrains: a training step and sampling, in one run.

All take turns in one process, round by round, so that whatever else the machine does hits all of
them; what is printed are medians, and the median and range of the rounds' ratios. zoo and diffusers
compute the same network with the same weights (the largest difference of their outputs is printed);
lucidrains' network is its own, so its FLOPs are given too. A training step is noise, forward,
backward, clipping, optimiser and EMA, as each library's own training script does them. Peak memory
is of a process of each one's own, above what its imports take.

    python benchmarks/ddpm.py [--quick] [--network cifar|digits] [--batch 8] [--device auto]
        [--precision fp32,bf16] [--contenders zoo,diffusers,...] [--sampler ddim|dpmpp]
        [--json FILE]
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"

import torch
from ddpm_contenders import CONTENDERS, NETWORKS, Contender, Lucidrains
from torch.utils.flop_counter import FlopCounterMode


def build(names: list[str], options: argparse.Namespace) -> dict[str, Contender]:
    """The contenders; those with zoo's network get zoo's weights."""
    made = {name: CONTENDERS[name](options) for name in names}
    same = [c for c in made.values() if not isinstance(c, Lucidrains)]
    for other in same[1:]:
        other.net.load_state_dict(same[0].net.state_dict())
    return made


def seconds(f: Callable[[], Any], device: torch.device, clock: Callable[[], float]) -> float:
    """Time of one call, until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    f()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def interleave(
    calls: dict[str, Callable[[], Any]],
    rounds: int,
    warm: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times of every call, one of each a round, the order turning from round to round."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(warm + rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            elapsed = seconds(calls[name], device, clock)
            if i >= warm:
                times[name].append(elapsed)
    return times


def summary(times: dict[str, list[float]], reference: str) -> dict[str, dict[str, float]]:
    """Median time, and how many times as long as the reference in the same round."""
    out = {}
    for name, own in times.items():
        ratios = [a / b for a, b in zip(own, times[reference], strict=True)]
        out[name] = {
            "median_s": statistics.median(own),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return out


def flops(contender: Contender) -> dict[str, float]:
    """GFLOP an image (two for a multiplication with its addition), forward and whole step."""
    t = torch.zeros(contender.batch, dtype=torch.long, device=contender.device)
    with FlopCounterMode(display=False) as forward, torch.no_grad(), contender.autocast():
        contender.predict(contender.images, t)
    with FlopCounterMode(display=False) as step:
        contender.step()
    counts = {"forward": forward.get_total_flops(), "step": step.get_total_flops()}
    return {k: v / contender.batch / 1e9 for k, v in counts.items()}


def peak_memory(name: str, options: argparse.Namespace) -> float:
    """MiB that three training steps of one contender take at most, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name]
    for key in ("network", "batch", "device", "precision", "threads", "steps", "sampler"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def resident_peak() -> int:
    """KiB that this process has had in memory at most; Linux only, 0 elsewhere."""
    status = Path("/proc/self/status")
    # Not getrusage, whose number a new process takes over from the one that started it.
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def print_peak_memory(options: argparse.Namespace) -> None:
    import denoising_diffusion_pytorch  # noqa: F401  # so that all have the same imports
    import diffusers  # noqa: F401
    from diffusers import DDIMPipeline, UNet2DModel  # noqa: F401

    import zoo.ddpm.module  # noqa: F401

    before = resident_peak()
    contender = CONTENDERS[options.memory_of](options)
    for _ in range(3):
        contender.step()
    if contender.device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print((resident_peak() - before) / 2**10)


def table(results: dict[str, Any], steps: int) -> str:
    """The results as Markdown."""
    reference = results["reference"]
    lines = [
        f"| {results['precision']} | parameters | GFLOP/image forward, step | step, ms "
        f"| times {reference} (range) | peak MiB | {results['sampler']}-{steps}, images/s "
        f"| times {reference} (range) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in results["contenders"].items():
        train, sample = row["train"], row["sample"]
        memory = f"{row['peak_mib']:.0f}" if row["peak_mib"] else "-"
        drawn = ["-", "-"]
        if sample:
            drawn = [
                f"{results['sample_batch'] / sample['median_s']:.2f}",
                f"{sample['ratio']:.2f} ({sample['ratio_min']:.2f}-{sample['ratio_max']:.2f})",
            ]
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} M | {row['gflop']['forward']:.2f}, "
            f"{row['gflop']['step']:.2f} | {1e3 * train['median_s']:.1f} | {train['ratio']:.2f} "
            f"({train['ratio_min']:.2f}-{train['ratio_max']:.2f}) | {memory} | {drawn[0]} "
            f"| {drawn[1]} |"
        )
    return "\n".join(lines)


def measure(names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """Everything, at one precision."""
    made = build(names, options)
    device = torch.device(options.device)
    first = made[names[0]]
    t = torch.arange(options.batch, device=device) * 1000 // options.batch
    difference = 0.0
    with torch.no_grad(), first.autocast():
        for contender in made.values():
            if not isinstance(contender, Lucidrains):
                output = contender.predict(first.images, t)
                gap = (output.float() - first.predict(first.images, t).float()).abs().max()
                difference = max(difference, gap.item())
    counts = {name: flops(c) for name, c in made.items()}
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    steps = {n: c.step for n, c in made.items()}
    train = interleave(steps, options.rounds, options.warm, device, clock)
    n = options.sample_batch
    drawing = {
        name: (lambda c=c: c.sample(n, options.steps))
        for name, c in made.items()
        if options.sample_rounds
    }
    sample = interleave(drawing, options.sample_rounds, min(options.warm, 1), device, clock)
    trained = summary(train, names[0])
    drawn = summary(sample, names[0]) if drawing else {}
    return {
        "precision": options.precision,
        "reference": names[0],
        "sample_batch": n,
        "sampler": options.sampler,
        "largest_difference": difference,
        "contenders": {
            name: {
                "parameters": sum(p.numel() for p in c.net.parameters()),
                "gflop": counts[name],
                "train": trained[name],
                "sample": drawn.get(name),
                "peak_mib": None if options.no_memory else peak_memory(name, copy.copy(options)),
            }
            for name, c in made.items()
        },
    }


def machine(device: str) -> str:
    """What it ran on."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    if not name and Path("/proc/cpuinfo").exists():
        info = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in info if x.startswith("model name")), "CPU")
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="cifar")
    parser.add_argument("--batch", type=int, help="of training; 8 on a CPU, 128 on a GPU")
    parser.add_argument("--sample-batch", type=int, help="as --batch if not given")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--contenders", help=f"of {', '.join(CONTENDERS)}; the first is 1")
    parser.add_argument("--sampler", choices=["ddim", "dpmpp"], default="ddim")
    parser.add_argument("--steps", type=int, default=50, help="of the sampler")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--sample-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--quick", action="store_true", help="few rounds, ten steps of DDIM")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.batch = options.batch or (128 if options.device == "cuda" else 8)
    options.sample_batch = options.sample_batch or options.batch
    if options.memory_of:
        print_peak_memory(options)
        return
    if options.quick:
        options.rounds, options.warm, options.sample_rounds, options.steps = 3, 1, 1, 10
    default = ["zoo", "diffusers", "diffusers-fused"]
    if options.sampler == "ddim":
        default.append("lucidrains")
    if options.device == "cuda":
        default.insert(1, "zoo-compiled")
    names = options.contenders.split(",") if options.contenders else default
    unknown = [name for name in names if name not in CONTENDERS]
    if unknown:
        parser.error(f"unknown contender {unknown[0]}: choose of {', '.join(CONTENDERS)}")
    report: dict[str, Any] = {
        "machine": machine(options.device),
        "network": options.network,
        "batch": options.batch,
        "rounds": options.rounds,
        "results": [],
    }
    print(f"{report['machine']}; {options.network} network, batch {options.batch}")
    for precision in options.precision.split(","):
        options.precision = precision
        results = measure(names, options)
        report["results"].append(results)
        print(f"\n{table(results, options.steps)}")
        print(f"largest difference of outputs, same weights: {results['largest_difference']:.1e}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
