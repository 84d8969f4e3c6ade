"""The importance estimate between the bounds of annealed importance sampling."""

from typing import Any

import torch
from torch import Tensor

from zoo.layers.counter_rng import normal, uniform
from zoo.layers.seeds import mix
from zoo.training.module import evaluating
from zoo.vae.density.ais import Annealer, Bound, Euclidean, Spheres
from zoo.vae.density.importance import estimate_log_density
from zoo.vae.likelihoods import Bernoulli, DiscretizedLogistic

CHAINS = 16  # of the annealing, for each image


def simulate(model: Any, index: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Images that the model makes, and the codes that they were made of.

    Raises:
        ValueError: The model's images are cut to [-1, 1], so that they are not of its own law.
    """
    likelihood = getattr(model, "likelihood", None)
    if not isinstance(likelihood, Bernoulli | DiscretizedLogistic):
        raise ValueError(
            "--ais simulates images, for which the model needs likelihood bernoulli or "
            f"discretized_logistic, not {type(likelihood).__name__}"
        )
    with evaluating(model, precise=True):
        z = model.prior_sample(normal(seed, index, 0, (model.latent_dim,)))
        x = likelihood.draw(model.decode(z), uniform(seed, index, 1, model.shape))
    return x, z


def check(
    model: Any,
    n: int,
    *,
    samples: int,
    widen: float,
    refine: int,
    chunk: int | None,
    seed: int,
    temperatures: int,
    chains: int = CHAINS,
) -> str:
    """Says how the importance estimate of n simulated images lies between two bounds.

    Args:
        model: A VAE of images.
        n: Images.
        samples: Importance samples an image.
        widen: Factor on the proposal's standard deviation.
        refine: Newton steps to the proposal.
        chunk: Samples at a time.
        seed: Seed of all noise.
        temperatures: Temperatures of the annealing: the more, the closer the bounds.
        chains: Chains of the annealing for each image.
    """
    device = next(model.parameters()).device
    index = torch.arange(n, device=device)
    x, z = simulate(model, index, mix(seed, 0))
    estimate = estimate_log_density(
        model, x, index, samples=samples, seed=seed, widen=widen, refine=refine, chunk=chunk
    )
    manifold = Spheres(model.head.blocks) if model.head.space == "sphere" else Euclidean()
    annealer = Annealer(
        model, manifold, x, index, chains=chains, temperatures=temperatures, seed=seed
    )
    lower, upper = annealer.lower(), annealer.upper(z)
    return _text(n, lower, estimate.log_density, estimate.standard_error, upper, annealer)


def _text(
    n: int, lower: Bound, value: Tensor, error: Tensor, upper: Bound, annealer: Annealer
) -> str:
    low = 3 * torch.hypot(lower.standard_error, error)
    high = 3 * torch.hypot(upper.standard_error, error)
    inside = (value >= lower.value - low) & (value <= upper.value + high)

    def line(name: str, value: Tensor, error: Tensor) -> str:
        spread = error.square().sum().sqrt() / n
        return f"  {name:<20}{value.mean():>12.4f} +- {spread:.2g}"

    return "\n".join(
        [
            f"annealed importance sampling of {n} images that the model made ({annealer.chains} "
            f"chains, {len(annealer.betas)} temperatures, {100 * lower.acceptance.mean():.0f} % "
            "of the moves taken), in nats:",
            line("lower bound", lower.value, lower.standard_error),
            line("importance sampling", value, error),
            line("upper bound", upper.value, upper.standard_error),
            f"  {int(inside.sum())} of {n} estimates are between their bounds, to 3 standard "
            "errors",
        ]
    )
