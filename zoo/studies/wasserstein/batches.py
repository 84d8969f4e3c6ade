"""Is a batch of blurry images nearer to a real batch than another real batch is?

kexue.fm/archives/8244 tells it from arXiv 2103.01678: W1 of two minibatches is far above W1 of the
distributions, and a batch of k-means centres, or of nothing but the mean, can be nearer to a real
batch than real images are. For N(0, I_d) in many dimensions two points are √(2d) apart, and a point
is √d from the mean.
"""

import math
import warnings
from collections.abc import Sequence
from statistics import fmean as mean
from typing import Any

import torch
from torch import Tensor

from zoo.layers.seeds import mix
from zoo.studies.wasserstein.data import Population, load_population
from zoo.studies.wasserstein.report import Part, by, how_many, markdown_table, with_spread
from zoo.wgan.transport import exact_w1, pairwise_cost

DIMENSIONS = (4, 16, 64, 256, 1024, 3072)
_GAUSSIAN_BATCH = 64
_ITERATIONS = 50  # of Lloyd's algorithm, at most


def centres(items: Tensor, count: int, seed: int) -> Tensor:
    """k-means centres (count, ...) by scikit-learn: k-means++ and Lloyd's algorithm."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    means = KMeans(count, n_init=1, max_iter=_ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        # Equal items make fewer clusters than asked for; the centres are still that many.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means.fit(items.flatten(1).numpy())
    return torch.from_numpy(means.cluster_centers_).to(items).reshape(count, *items.shape[1:])


def distance_to_point(batch: Tensor, point: Tensor) -> float:
    """W1 of a batch and copies of one point: the mean distance."""
    return float(pairwise_cost(batch.double(), point[None].double()).mean())


def compare(population: Population, batch: int, seeds: Sequence[int]) -> dict[str, Any]:
    """W1 of a held-out batch to a real one, to centres and to the mean, for each seed."""
    row: dict[str, Any] = {"data": population.name, "batch": batch}
    middle = population.train.mean(0)
    values: dict[str, list[float]] = {"real": [], "centres": [], "mean": []}
    for seed in seeds:
        own = mix(seed, batch)
        held_out = population.batch("held_out", batch, own)
        values["real"].append(float(exact_w1(held_out, population.batch("train", batch, own))))
        blurry = centres(population.train, batch, seed)
        values["centres"].append(float(exact_w1(held_out, blurry)))
        values["mean"].append(distance_to_point(held_out, middle))
    return row | values


def gaussian(d: int, seeds: Sequence[int], batch: int = _GAUSSIAN_BATCH) -> dict[str, Any]:
    """The same of N(0, I_d) without centres, beside √(2d) and √d."""
    population = load_population(f"gaussian-{d}", limit=batch * max(2, len(seeds)))
    values: dict[str, list[float]] = {"real": [], "mean": []}
    for seed in seeds:
        held_out = population.batch("held_out", batch, seed)
        values["real"].append(float(exact_w1(held_out, population.batch("train", batch, seed))))
        values["mean"].append(distance_to_point(held_out, torch.zeros(d)))
    limits = {"limit_real": math.sqrt(2 * d), "limit_mean": math.sqrt(d)}
    return {"data": f"gaussian-{d}", "batch": batch, "dimension": d} | values | limits


def study_batches(
    populations: Sequence[Population], batches: Sequence[int], seeds: Sequence[int]
) -> Part:
    """Compares on all populations, at the batch sizes that they have items for."""
    rows = [
        compare(population, batch, seeds)
        for population in populations
        for batch in batches
        if batch <= min(len(population.train), len(population.held_out))
    ]
    if not rows:
        raise ValueError(
            f"--batch_sizes {list(batches)}: no data set has so many training and held-out items "
            f"({'; '.join(population.size for population in populations)})"
        )
    curve = [gaussian(d, seeds) for d in DIMENSIONS]
    keys = ("real", "centres", "mean")
    table = markdown_table(
        ["data", "batch", "another real batch", "k-means centres", "mean item"],
        [[r["data"], str(r["batch"]), *(with_spread(r[key]) for key in keys)] for r in rows],
    )
    second = markdown_table(
        ["N(0, I_d)", "real batch of 64", "√(2d)", "the mean", "√d"],
        [
            [
                f"d = {row['dimension']}",
                with_spread(row["real"]),
                f"{row['limit_real']:.2f}",
                with_spread(row["mean"]),
                f"{row['limit_mean']:.2f}",
            ]
            for row in curve
        ],
    )
    protocol = (
        f"Exact W1 (Euclidean) of a batch of held-out items to: as many training items; as many "
        f"k-means centres of all training items (k-means++, at most {_ITERATIONS} iterations); the "
        f"mean training item. Seeds {', '.join(map(str, seeds))}: each with batches and centres of "
        f"its own; ± is the standard deviation over them. Sizes that a set has "
        "too few items for are left out. "
        + "; ".join(population.size for population in populations)
        + "."
    )
    title, tables = "Batches: a blurry one against a real one", f"{table}\n\n{second}"
    return Part(title, protocol, rows + curve, tables, findings(rows))


def findings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each population and claim."""
    said = []
    for name, own in by("data", rows).items():
        for key, what in (("centres", "k-means centres"), ("mean", "copies of the mean")):
            parts = []
            for row in own:
                nearer = [b < r for b, r in zip(row[key], row["real"], strict=True)]
                ratio = mean(row[key]) / mean(row["real"])
                parts.append(f"{how_many(nearer)} at {row['batch']} ({ratio:.2f} times)")
            said.append(f"{name}: {what} nearer than a real batch: {'; '.join(parts)}.")
    return said
