"""A draw of the von Mises-Fisher posterior and its KL, forward and backward, against pythae.

What a training step of a spherical VAE does beside its networks: z from (mu, kappa), KL to the
uniform law, and the gradients in both parameters. Contenders take turns, round by round, so that
whatever else the machine does hits all of them; printed are medians, and the median and range of
the rounds' ratios. E[w] of the draws is compared with the truth (in standard errors too), and the
KL with its exact value, so that the speed of wrong numbers shows. kappa is uniform on (1, 9), where
pythae's sampler is right, unless --kappa says otherwise.

    python benchmarks/vae_sphere.py [--quick] [--batch 128,1024,8192] [--dim 2,10,50,128,768]
        [--kappa 1,9] [--device auto] [--threads 1] [--json FILE]
"""

import argparse
import itertools
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ddpm import interleave, machine, summary
from torch import Tensor


class Zoo:
    """Distributions as a model uses them: values checked by tests, not in every step."""

    def draw(self, mu: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """The draws (batch, d), and the KL (batch,)."""
        from torch.distributions import kl_divergence

        from zoo.vae import HypersphericalUniform, VonMisesFisher

        q = VonMisesFisher(mu, kappa, validate_args=False)
        uniform = HypersphericalUniform(mu.shape[-1], validate_args=False)
        return q.rsample(), kl_divergence(q, uniform)


class Pythae:
    """The sampler and the KL of pythae's SVAE."""

    def __init__(self) -> None:
        from pythae.models.svae.svae_model import SVAE

        names = ("_acc_rej_steps", "_householder_rotation", "_sample_von_mises", "_compute_kl")
        self.model = SimpleNamespace()
        for name in names:
            setattr(self.model, name, getattr(SVAE, name).__get__(self.model))

    def draw(self, mu: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """The draws (batch, d), and the KL (batch,)."""
        kappa = kappa.unsqueeze(-1)
        kl = self.model._compute_kl(m=mu.shape[-1], concentration=kappa)
        return self.model._sample_von_mises(mu, kappa), kl


def step(contender: Any, mu: Tensor, kappa: Tensor, weight: Tensor) -> None:
    """Forward and backward of a scalar of both results."""
    mu.grad = kappa.grad = None
    z, kl = contender.draw(mu, kappa)
    torch.autograd.backward([z, kl], [weight, torch.ones_like(kl)])


def errors(contender: Any, mu: Tensor, kappa: Tensor) -> dict[str, float]:
    """Mean of w minus its expectation, that in standard errors, and the KL's relative error."""
    from zoo.vae.sphere.bessel import cosine_variance, kl_to_uniform, mean_resultant_length

    dim, exact = mu.shape[-1], kappa.detach().double()
    repeats = max(1, 200_000 // len(kappa))
    total = 0.0
    with torch.no_grad():
        for _ in range(repeats):
            z, kl = contender.draw(mu, kappa)
            total += ((z * mu).sum(-1).double() - mean_resultant_length(dim, exact)).mean().item()
        spread = (cosine_variance(dim, exact).mean() / (repeats * len(kappa))).sqrt().item()
        kl_error = (kl.double() / kl_to_uniform(dim, exact) - 1).abs().max().item()
    mean = total / repeats
    return {"mean_error": mean, "in_errors": mean / spread, "kl_error": kl_error}


def measure(contenders: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All sizes."""
    device = torch.device(options.device)
    low, high = options.kappa
    rows = []
    for batch, dim in itertools.product(options.batch, options.dim):
        torch.manual_seed(0)
        mu = torch.nn.functional.normalize(torch.randn(batch, dim, device=device), dim=-1)
        kappa = low + (high - low) * torch.rand(batch, device=device)
        weight = torch.randn(batch, dim, device=device)
        mu.requires_grad_()
        kappa.requires_grad_()
        calls = {
            name: (lambda c=c: step(c, mu, kappa, weight))  # noqa: B023  # called in this round
            for name, c in contenders.items()
        }
        times = interleave(calls, options.rounds, options.warm, device)
        rows.append(
            {
                "batch": batch,
                "dim": dim,
                "contenders": {
                    name: row | errors(contenders[name], mu, kappa)
                    for name, row in summary(times, next(iter(contenders))).items()
                },
            }
        )
        print(line(rows[-1]), flush=True)
    return rows


HEADER = (
    "| batch, d | | ms | times zoo (range) | E[w] error (in standard errors) | KL, largest "
    "relative error |\n|---|---|---|---|---|---|"
)


def line(row: dict[str, Any]) -> str:
    """One size as Markdown."""
    lines = []
    for name, r in row["contenders"].items():
        lines.append(
            f"| {row['batch']}, {row['dim']} | {name} | {1e3 * r['median_s']:.2f} | "
            f"{r['ratio']:.2f} ({r['ratio_min']:.2f}-{r['ratio_max']:.2f}) | "
            f"{r['mean_error']:+.1e} ({r['in_errors']:+.1f}) | {r['kl_error']:.0e} |"
        )
    return "\n".join(lines)


def numbers(kind: type) -> Any:
    """Parser of a list with commas."""
    return lambda text: [kind(x) for x in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=numbers(int), default=[128, 1024, 8192])
    parser.add_argument("--dim", type=numbers(int), default=[2, 10, 50, 128, 768])
    parser.add_argument("--kappa", type=numbers(float), default=[1.0, 9.0], help="lowest, highest")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--warm", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.quick:
        options.rounds, options.warm = 9, 2
    print(f"{machine(options.device)}; kappa on {options.kappa}\n\n{HEADER}")
    rows = measure({"zoo": Zoo(), "pythae": Pythae()}, options)
    if options.json:
        report = {"machine": machine(options.device), "kappa": options.kappa, "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
