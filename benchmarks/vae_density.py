"""Density estimation of a VAE against pythae 0.1.2's get_nll, in one run.

Both estimate log p(x) of the same images, with the same network (784-512-d-512-784) and weights and
as many samples. pythae gets its fastest correct argument, batch_size=n_samples: below that it draws
more samples than it was asked for, above it leaves out the remainder. Both take turns, round by
round, so that whatever else the machine does hits both; what is printed are medians, and the median
and range of the rounds' ratios, and the two estimates.

    python benchmarks/vae_density.py [--root FOLDER_OF_MNIST] [--images 100] [--samples 500]
        [--rounds 3] [--threads 1] [--json FILE]
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

from zoo.data import MNIST
from zoo.vae.density.pareto import UNRELIABLE
from zoo.vae.module import VAE


def machine() -> str:
    """What it ran on."""
    name = "CPU"
    if Path("/proc/cpuinfo").exists():
        info = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((x.split(":")[1].strip() for x in info if x.startswith("model name")), name)
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def trained(latent_dim: int, images: torch.Tensor, steps: int) -> VAE:
    """A VAE of binary images after some steps: weights that importance sampling works with."""
    torch.manual_seed(0)
    model = VAE(
        latent_dim=latent_dim, hidden=[512], likelihood="bernoulli", binarization="threshold"
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(steps):
        x = model.prepare(images[torch.randint(len(images), (128,))])
        terms = model.terms(x, torch.randn(1, len(x), model.noise_dim))
        loss = model.loss(terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def pythae_copy(model: VAE) -> Any:
    """A VAE of pythae's with its default networks and our weights."""
    from pythae import models

    config = models.VAEConfig(
        input_dim=(1, 28, 28), latent_dim=model.latent_dim, reconstruction_loss="bce"
    )
    theirs = models.VAE(config).eval()
    pairs = [
        (theirs.encoder.layers[0][0], model.encoder.layers[0], 1),
        (theirs.encoder.embedding, model.head.mean, 1),
        (theirs.encoder.log_var, model.head.scale, 2),  # log variance is twice our log std
        (theirs.decoder.layers[0][0], model.decoder.layers[0], 1),
        (theirs.decoder.layers[1][0], model.decoder.out, 1),
    ]
    with torch.no_grad():
        for to, own, factor in pairs:
            to.weight.copy_(factor * own.weight)
            to.bias.copy_(factor * own.bias)
    return theirs


def seconds(f: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = f()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--latent-dim", type=int, default=50)
    parser.add_argument("--steps", type=int, default=300, help="of training before")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="10 images, 2 rounds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds = 10, 2
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)

    data = MNIST(root=options.root)
    train, test = (data.reference_images(s).float() / 127.5 - 1 for s in ("train", "test"))
    model = trained(options.latent_dim, train, options.steps)
    theirs = pythae_copy(model)
    x = model.prepare(test[: options.images])
    binary = 0.5 * x + 0.5
    with torch.no_grad():
        q, other = model.posterior(x), theirs.encoder(binary)
        z = torch.randn(len(x), options.latent_dim)
        logits, p = model.decode(z), theirs.decoder(z)["reconstruction"]
        gaps = [
            q.mean - other.embedding,
            2 * q.log_std - other.log_covariance,
            logits.sigmoid() - p,
        ]
    gap = max(g.abs().max().item() for g in gaps)
    print(
        f"{machine()}; {options.images} images, {options.samples} samples, d={options.latent_dim}"
    )
    print(f"largest difference of the networks' outputs, same weights: {gap:.1e}")

    def zoo_density() -> float:
        estimate = model.log_density(x, samples=options.samples, prepared=True)
        return estimate.log_density.mean().item()

    def pythae_density() -> float:
        with torch.no_grad():
            return float(theirs.get_nll(binary, options.samples, batch_size=options.samples))

    calls = {"zoo": zoo_density, "pythae": pythae_density}
    times: dict[str, list[float]] = {name: [] for name in calls}
    values: dict[str, list[float]] = {name: [] for name in calls}
    zoo_density()  # warm up; pythae's loop over images warms itself up
    for i in range(options.rounds):
        for name in list(calls) if i % 2 else list(calls)[::-1]:
            elapsed, value = seconds(calls[name])
            times[name].append(elapsed)
            values[name].append(value)
    ratios = [b / a for a, b in zip(times["zoo"], times["pythae"], strict=True)]
    estimate = model.log_density(x, samples=options.samples, prepared=True)
    error = (estimate.standard_error.square().sum().sqrt() / len(x)).item()
    unreliable = (estimate.pareto_k > UNRELIABLE).double().mean().item()
    print("\n| | s | ms an image | mean log p(x), nats |\n|---|---|---|---|")
    for name in calls:
        median = statistics.median(times[name])
        print(
            f"| {name} | {median:.2f} | {1e3 * median / len(x):.1f} | "
            f"{statistics.mean(values[name]):.3f} +- {error:.3f} |"
        )
    if unreliable > 0.1:
        print(f"\n{unreliable:.0%} of the images have a Pareto-k above 0.7: the error is larger")
    ratio = statistics.median(ratios)
    print(f"\npythae takes {ratio:.1f} times as long ({min(ratios):.1f} to {max(ratios):.1f})")
    if options.json:
        report = {"machine": machine(), "seconds": times, "values": values, "ratio": ratio}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
