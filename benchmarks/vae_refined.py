"""What refined proposals bring to the density of a trained VAE: error against time.

Images that the model makes, so that annealed importance sampling brackets each log p(x) from both
sides; the error of an estimate is against the middle of the bracket, over all repetitions and
images. It has the bracket's own error in it, which the spread over repetitions has not. Contenders
take turns, repetition by repetition:

* encoder: samples of the encoder's posterior, the published protocol;
* refined: as many after the refinement, its time included;
* equal time: the encoder's with as many samples as take the refined one's time;
* pythae: the loop of pythae 0.1.2's get_nll, datum by datum and batch by batch, on this model.

    python benchmarks/vae_refined.py CHECKPOINT [--images 12] [--samples 500] [--repeats 30]
        [--temperatures 1000] [--threads 1] [--json FILE]
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from vae_density import machine, seconds

import zoo
from zoo.layers.seeds import mix
from zoo.training.module import evaluating
from zoo.vae.density.ais import Annealer, Euclidean, Spheres
from zoo.vae.density.importance import estimate_log_density
from zoo.vae.density.pareto import UNRELIABLE
from zoo.vae.density.refinement import STEPS
from zoo.vae.density.sandwich import simulate


def pythae_loop(model: Any, x: torch.Tensor, samples: int, batch: int = 500) -> torch.Tensor:
    """get_nll's work: for each datum, batches of copies through encoder and decoder."""
    values = []
    with evaluating(model, precise=True):
        for datum in x:
            weights = []
            for _ in range(samples // batch):
                copies = torch.cat(batch * [datum[None]])
                q = model.posterior(copies)
                z, log_ratio = q.draw(torch.randn(1, batch, q.noise_dim))
                weights.append(model.log_likelihood(copies, z)[0] - log_ratio[0])
            values.append(torch.cat(weights).logsumexp(0) - math.log(samples))
    return torch.stack(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ckpt")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--pythae-samples", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--temperatures", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="2 images, 3 repeats, a rough bracket")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.images, options.repeats, options.temperatures = 2, 3, 50
    torch.set_num_threads(options.threads)
    model: Any = zoo.load(options.ckpt).eval()
    n, M = options.images, options.samples
    index = torch.arange(n)
    x, z = simulate(model, index, mix(0, 0))
    manifold = Spheres(model.head.blocks) if model.head.space == "sphere" else Euclidean()
    annealer = Annealer(model, manifold, x, index, temperatures=options.temperatures)
    low, high = annealer.lower().value, annealer.upper(z).value
    middle = (low + high) / 2
    print(f"{machine()}; {n} images of the model, {options.repeats} repetitions")
    print(f"bracket {low.mean():.3f} to {high.mean():.3f} nats")

    def estimate(seed: int, samples: int, refine: int) -> Any:
        return estimate_log_density(model, x, index, samples=samples, seed=seed, refine=refine)

    pilot = [[seconds(lambda r=r: estimate(0, M, r))[0] for r in (STEPS, 0)] for _ in range(5)]
    equal = round(M * statistics.median(a / b for a, b in pilot))
    names = {
        f"encoder, {M}": lambda seed: estimate(seed, M, 0),
        f"refined, {M}": lambda seed: estimate(seed, M, STEPS),
        f"equal time, {equal}": lambda seed: estimate(seed, equal, 0),
        f"pythae, {options.pythae_samples}": lambda _: pythae_loop(
            model, x, options.pythae_samples
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in names}
    errors: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    unreliable: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(options.repeats):
        for name in list(names) if seed % 2 else list(names)[::-1]:
            elapsed, result = seconds(lambda f=names[name], s=seed: f(s))
            times[name].append(elapsed)
            own = isinstance(result, torch.Tensor)
            errors[name].append((result if own else result.log_density) - middle)
            if not own:
                unreliable[name].append((result.pareto_k > UNRELIABLE).double().mean().item())
    first = times[f"refined, {M}"]
    report: dict[str, Any] = {"machine": machine(), "bracket": [low.tolist(), high.tolist()]}
    print(
        "\n| | RMSE, nats | spread | bias | time / refined (range) | Pareto-k > 0.7 |\n"
        "|---|---|---|---|---|---|"
    )
    for name in names:
        error = torch.stack(errors[name])
        ratios = [a / b for a, b in zip(times[name], first, strict=True)]
        row = {
            "rmse": error.square().mean().sqrt().item(),
            "spread": error.var(0).mean().sqrt().item(),
            "bias": error.mean().item(),
            "ratio": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "unreliable": statistics.mean(unreliable[name]) if unreliable[name] else None,
        }
        report[name] = row
        share = "" if row["unreliable"] is None else f"{row['unreliable']:.1%}"
        print(
            f"| {name} | {row['rmse']:.3f} | {row['spread']:.3f} | {row['bias']:+.3f} | "
            f"{row['ratio']:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {share} |"
        )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
