"""Precision and recall, density and coverage: metrics of k-nearest-neighbour balls."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.metrics.checks import checked_features
from zoo.waiting import waiting

_CHUNK = 2**24  # distances held at a time: 128 MiB of float64


class Manifold(NamedTuple):
    """How the balls around real and generated features cover each other."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def _rows(x_MD: Tensor, y_ND: Tensor) -> Iterator[tuple[int, Tensor]]:
    step = max(_CHUNK // len(y_ND), 1)
    for start in waiting(range(0, len(x_MD), step), "neighbours", unit="blocks"):
        yield start, x_MD[start : start + step]


def _distances(x_MD: Tensor, y_ND: Tensor) -> Tensor:
    """Squared Euclidean distances (M, N)."""
    squares = x_MD.square().sum(1)[:, None] + y_ND.square().sum(1) - 2 * x_MD @ y_ND.T
    return squares.clamp_(min=0)


def _rounding(*sets: Tensor) -> Tensor:
    """How far two of `_distances` that are equal may come out apart.

    A sum of d products is off by d ε max |x|² at most, in whatever order it is taken (Higham,
    Accuracy and Stability, eq. 3.5). A distance is made of four of these and two sums, and off by
    (4 d + 8) ε max |x|²; two distances are, together, by twice that.
    """
    largest = torch.stack([x.square().sum(1).max() for x in sets]).max()
    return (8 * sets[0].shape[1] + 16) * torch.finfo(largest.dtype).eps * largest


def neighbour_radii(x_ND: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point, (N,)."""
    radii = []
    for start, rows in _rows(x_ND, x_ND):
        distances = _distances(rows, x_ND)
        distances.diagonal(start).fill_(float("inf"))  # a point is not its own neighbour
        radii.append(distances.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def manifold_metrics(
    real: Tensor, fake: Tensor, *, k_precision: int = 3, k_density: int = 5
) -> Manifold:
    """Improved precision and recall (1904.06991), density and coverage (2002.09797).

    precision: share of fakes within the ball of a real, its radius the distance to the k-th nearest
    other real; recall: the same with the roles exchanged. density: mean number of real balls that a
    fake is in, over k (may exceed 1). coverage: share of real balls with a fake in them.

    A point at a ball's surface is in it for precision and recall, and is not for density and
    coverage, as in the authors' code. Duplicates lie there, so whatever differs by less than what
    rounding may do to a distance counts as equal: no processor's rounding decides.

    Args:
        real: Features (N, d).
        fake: Features (M, d).
        k_precision: k of precision and recall; the paper's is 3.
        k_density: k of density and coverage; the paper's is 5.

    Returns:
        Float64 scalars.

    Raises:
        ValueError: A set has no k-th neighbour, or features of another number or not finite.
    """
    real, fake = checked_features(real, fake)
    k = max(k_precision, k_density)
    if min(len(real), len(fake)) <= k or min(k_precision, k_density) < 1:
        raise ValueError(
            f"neighbours number {k_precision} and {k_density} need more than {k} images a set, got "
            f"{len(real)} real and {len(fake)} generated: draw more samples"
        )
    # About a common centre, so that |x|² + |y|² - 2 x·y cancels less.
    centre = real.double().mean(0)
    real, fake = real.double() - centre, fake.double() - centre
    tie = _rounding(real, fake)
    real_precision, fake_recall = (neighbour_radii(x, k_precision) for x in (real, fake))
    real_density = neighbour_radii(real, k_density)

    covered, hits = [], fake.new_zeros(())
    in_real = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    in_fake = []
    for start, rows in _rows(real, fake):
        part = slice(start, start + len(rows))
        distances = _distances(rows, fake)
        in_real |= (distances <= real_precision[part, None] + tie).any(0)
        in_fake.append((distances <= fake_recall + tie).any(1))
        inside = distances < real_density[part, None] - tie
        hits += inside.sum()
        covered.append(inside.any(1))
    return Manifold(
        precision=in_real.double().mean(),
        recall=torch.cat(in_fake).double().mean(),
        density=hits / (k_density * len(fake)),
        coverage=torch.cat(covered).double().mean(),
    )
