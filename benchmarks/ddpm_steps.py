"""Fréchet distance of a DDPM's samples by sampler, spacing and number of evaluations.

Each line is the mean and range over seeds of the distance between samples and the test images, by
the features of the zoo's own network, and the images a second, all of one process: only ratios of
these mean anything. The samplers take turns, seed by seed.

    python benchmarks/ddpm_steps.py RUN [--data Digits|MNIST] [--root data] [--extractor digits-net]
        [--ways ddim:trailing:100,dpmpp:logsnr:10,...] [--samples 360] [--seeds 0,1,2] [--threads 1]
        [--precision 32] [--json FILE]
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoo
import zoo.data
from zoo.data.images.pixels import to_uint8
from zoo.metrics.features import Extractor, load_extractor
from zoo.metrics.frechet import FeatureMoments, frechet_distance

WAYS = (
    "ancestral:trailing:0,ddim:trailing:100,ddim:trailing:50,ddim:trailing:20,ddim:trailing:10,"
    "ddim:logsnr:20,ddim:logsnr:10,dpmpp:trailing:10,"
    "dpmpp:logsnr:5,dpmpp:logsnr:7,dpmpp:logsnr:10,dpmpp:logsnr:15,dpmpp:logsnr:20"
)


def moments(extractor: Extractor, images: Tensor) -> FeatureMoments:
    """Mean and covariance of the features of uint8 images."""
    features = extractor(images)
    found = FeatureMoments(features.shape[1])
    found.update(features)
    return found


def asked(way: str, model: Any) -> dict[str, Any]:
    """sampler:spacing:steps[:eta]; 0 steps are all of them."""
    sampler, spacing, steps, *eta = way.split(":")
    options = {
        "sampler": sampler,
        "spacing": spacing,
        "steps": int(steps) or len(model.diffusion.chain),
    }
    return options | ({"eta": float(eta[0])} if eta else {})


def draw(model: Any, options: argparse.Namespace, seed: int, **way: Any) -> Tensor:
    """Samples 0, 1, ... as uint8."""
    parts = []
    with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
        for first in range(0, options.samples, options.batch):
            n = min(options.batch, options.samples - first)
            parts.append(to_uint8(model.sample(n, seed=seed, first=first, **way)))
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, a .ckpt or an exported folder")
    parser.add_argument("--data", default="Digits", help="of zoo.data")
    parser.add_argument("--root", default="data")
    parser.add_argument("--extractor", default="digits-net")
    parser.add_argument("--ways", default=WAYS, help="sampler:spacing:steps[:eta]; 0: all steps")
    parser.add_argument("--samples", type=int, default=360)
    parser.add_argument("--batch", type=int, default=180)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model: Any = zoo.load(options.model)
    extractor = load_extractor(options.extractor)
    source = getattr(zoo.data, options.data)
    data = source() if options.data == "Digits" else source(root=options.root)
    real = moments(extractor, data.reference_images("test"))
    ways = options.ways.split(",")
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for seed in map(int, options.seeds.split(",")):
        for way in ways:
            start = time.perf_counter()
            images = draw(model, options, seed, **asked(way, model))
            rate = options.samples / (time.perf_counter() - start)
            distance = frechet_distance(real, moments(extractor, images)).item()
            found[way].append((distance, rate))
            print(f"{seed} {way} {distance:.4f} {rate:.1f}", flush=True)
    print("| sampler | spacing | evaluations | distance (range) | images a second |")
    print("|---|---|---|---|---|")
    for way, rows in found.items():
        sampler, spacing, steps = (asked(way, model)[k] for k in ("sampler", "spacing", "steps"))
        eta = f", eta {way.split(':')[3]}" if way.count(":") == 3 else ""
        distances, rates = zip(*rows, strict=True)
        print(
            f"| {sampler}{eta} | {spacing} | {steps} | {statistics.mean(distances):.3f} "
            f"({min(distances):.3f}-{max(distances):.3f}) | {statistics.median(rates):.1f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
