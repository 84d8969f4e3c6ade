"""What does a trained critic estimate: the distance of the distributions, or of the batches?

The static test of arXiv 2103.01678 as kexue.fm/archives/8244 tells it: two distributions stand
still, a critic is trained between them, and its value on minibatches is compared with their exact
W1 and with that of the distributions. Here the distributions are N(0, I_d) and itself moved by 1,
whose W1 is 1, and two fixed samples of images, whose W1 is a linear assignment.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean as mean
from typing import Any

import torch
from torch import Tensor

from zoo.layers.seeds import mix
from zoo.studies.wasserstein.data import Population
from zoo.studies.wasserstein.report import Part, by, markdown_table, with_spread
from zoo.wgan.constraints.normalization import GradientNormalization
from zoo.wgan.constraints.penalties import GradientPenalty, LipschitzPenalty
from zoo.wgan.constraints.weights import SpectralNormalization, Unconstrained, WeightClipping
from zoo.wgan.networks.mlp import MLPCritic
from zoo.wgan.objectives import Wasserstein
from zoo.wgan.transport import dual_loss, dual_value, exact_w1, pairwise_cost

BATCH = 64
EPS = 0.1
_WIDTHS = [128, 128]
_EVALUATED = 20  # batches

# The critics: a constraint, or the ε of an unconstrained potential whose dual is a transform.
CRITICS: dict[str, Unconstrained | float] = {
    "clip 0.05": WeightClipping(c=0.05),
    "SN": SpectralNormalization(),
    "GP": GradientPenalty(weight=10.0),
    "LP": LipschitzPenalty(weight=10.0),
    "GN": GradientNormalization(),
    "c-transform": 0.0,
    f"(c,ε), ε={EPS}": EPS,
}


@dataclass(frozen=True)
class Problem:
    """Two distributions that stand still.

    Args:
        name: Title of its column.
        truth: W1 of the distributions.
        dim: Dimension of an item.
        draw: The two batches (BATCH, dim) of a step, a function of (seed, step).
    """

    name: str
    truth: float
    dim: int
    draw: Callable[[int, int], tuple[Tensor, Tensor]]


def translation(d: int) -> Problem:
    """N(0, I_d) and N(e_1, I_d), new draws at every step: W1 = 1."""

    def draw(seed: int, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(mix(seed, 1, step))
        x, y = torch.randn(2, BATCH, d, generator=generator)
        y[:, 0] += 1
        return x, y

    return Problem(f"N(0, I) moved by 1, d = {d}", 1.0, d, draw)


def fixed_samples(population: Population, n: int, seed: int) -> Problem:
    """Two fixed samples of n training items; a step draws batches of them, W1 is that of all n."""
    items = population.batch("train", 2 * n, seed).flatten(1)
    parts = items[:n], items[n:]

    def draw(seed: int, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(mix(seed, 2, step))
        x, y = (p[torch.randperm(n, generator=generator)[:BATCH]] for p in parts)
        return x, y

    truth = float(exact_w1(*parts))
    return Problem(f"{population.name}, 2 x {n} images", truth, items.shape[1], draw)


def fit_critic(name: str, problem: Problem, *, steps: int, seed: int) -> dict[str, float]:
    """Trains a critic, and looks at it on batches of steps below 0, which no training has.

    Returns:
        `critic`, its value; `exact`, W1 of the same batches; `nearest`, the mean distance of an
        item of y to the nearest of x, which the c-transform of φ = 0 would give; `slope`, the mean
        |∇f̂|. Means over 20 batches.
    """
    kind = CRITICS[name]
    # Weights and the penalties' points come from the global stream, which is put back after it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(seed, 3))
        critic = MLPCritic(problem.dim, _WIDTHS)
        constraint = Unconstrained() if isinstance(kind, float) else kind
        constraint.check(critic)
        constraint.prepare(critic)
        optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.9), fused=True)
        for step in range(steps):
            x, y = problem.draw(seed, step)
            constraint.project(critic)
            if isinstance(kind, float):
                z = torch.cat([x, y])
                loss = dual_loss(critic(z), pairwise_cost(z, z), BATCH, eps=kind)
            else:
                seen = constraint.evaluate(critic, x, y, None, constraint.noise(x))
                loss = Wasserstein().critic_loss(seen.real, seen.fake)
                loss = loss if seen.penalty is None else loss + seen.penalty
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        constraint.project(critic)
    critic.eval()
    looks = [_look(critic, kind, *problem.draw(seed, -1 - i)) for i in range(_EVALUATED)]
    return {key: mean([look[key] for look in looks]) for key in looks[0]}


def _look(critic: MLPCritic, kind: Unconstrained | float, x: Tensor, y: Tensor) -> dict[str, float]:
    z = torch.cat([x, y])
    cost = pairwise_cost(z, z)
    constraint = Unconstrained() if isinstance(kind, float) else kind
    f_hat, _, slope = constraint.look(critic, z)
    if isinstance(kind, float):
        value = dual_value(f_hat[:BATCH], cost[:BATCH, BATCH:], kind)
    else:
        value = f_hat[:BATCH].mean() - f_hat[BATCH:].mean()
    return {
        "critic": float(value),
        "exact": float(exact_w1(x, y)),
        "nearest": float(cost[:BATCH, BATCH:].amin(0).mean()),
        "slope": float(slope.mean()),
    }


def study_static(
    populations: Sequence[Population], *, sizes: Sequence[int], steps: int, seeds: Sequence[int]
) -> Part:
    """All critics on the moved Gaussian in 2 and 20 dimensions, and on fixed samples of images.

    Args:
        populations: Images to take samples from.
        sizes: Sizes of the two samples.
        steps: Training steps of a critic.
        seeds: Seeds of weights, batches and samples.
    """
    rows: list[dict[str, Any]] = []
    fitting = [(p, n) for p in populations for n in sizes if 2 * n <= len(p.train)]
    if populations and not fitting:
        raise ValueError(
            f"--samples {list(sizes)}: no data set has twice as many training items "
            f"({'; '.join(p.size for p in populations)})"
        )

    def add(made: list[Problem]) -> None:  # the same problem for each seed
        for name in CRITICS:
            fits = [
                fit_critic(name, problem, steps=steps, seed=seed)
                for problem, seed in zip(made, seeds, strict=True)
            ]
            row = {"problem": made[0].name, "critic_name": name, "truth": [p.truth for p in made]}
            rows.append(row | {key: [fit[key] for fit in fits] for key in fits[0]})

    for d in (2, 20):
        add([translation(d)] * len(seeds))
    for population, n in fitting:
        add([fixed_samples(population, n, seed) for seed in seeds])
    protocol = (
        f"Critic: MLP {'-'.join(map(str, _WIDTHS))} with ReLU, {steps} steps of Adam (1e-3, betas "
        f"0.5 and 0.9), batches of {BATCH} and {BATCH}; penalties of weight 10; transforms without "
        f"penalties. Value and exact W1 are means over {_EVALUATED} other batches; ± is the "
        f"standard deviation over the seeds {', '.join(map(str, seeds))}. "
        "Sizes that a set has too few items for are left out. "
        + "; ".join(population.size for population in populations)
        + "."
    )
    title = "Static test: what a critic's value is"
    return Part(title, protocol, rows, table(rows), findings(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A column for each problem; the exact distances below the critics.

    The distance to the nearest is what the c-transform of φ = 0 gives, before any training.
    """
    problems = list(by("problem", rows))
    cell = {(row["critic_name"], row["problem"]): row for row in rows}
    first = next(iter(CRITICS))
    body = [
        [f"value of {name}", *(with_spread(cell[name, p]["critic"]) for p in problems)]
        for name in CRITICS
    ]
    body += [
        ["distance to the nearest", *(with_spread(cell[first, p]["nearest"]) for p in problems)],
        ["exact W1 of the batches", *(with_spread(cell[first, p]["exact"]) for p in problems)],
        ["**W1 of the distributions**", *(with_spread(cell[first, p]["truth"]) for p in problems)],
    ]
    return markdown_table(["", *problems], body)


def findings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Which of the two distances each critic's value is within 15 % of, by problem."""
    said = []
    for problem, own in by("problem", rows).items():
        truth, exact = mean(own[0]["truth"]), mean(own[0]["exact"])
        near: dict[str, list[str]] = {"both": [], "the first": [], "the second": [], "neither": []}
        for row in own:
            value = mean(row["critic"])
            first, second = (abs(value - target) <= 0.15 * target for target in (truth, exact))
            key = {(1, 1): "both", (1, 0): "the first", (0, 1): "the second", (0, 0): "neither"}
            near[key[first, second]].append(f"{row['critic_name']} ({value:.2f})")
        parts = [f"near {key}: {', '.join(names)}" for key, names in near.items() if names]
        said.append(
            f"{problem}: W1 is {truth:.2f} of the distributions and {exact:.2f} of the batches of "
            f"{BATCH}. Within 15 %, {'; '.join(parts)}. Without any training, the c-transform of "
            f"φ = 0 gives {mean(own[0]['nearest']):.2f}."
        )
    return said
