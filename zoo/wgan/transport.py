"""Optimal transport between two batches: the exact distance, and the objectives made of its dual.

W1(p, q) = min over couplings of E c(x, y), with c(x, y) = |x - y|. Its dual is the largest
E φ(x) + E ψ(y) with φ(x) + ψ(y) <= c(x, y); for a given φ the best ψ is the c-transform φ^c.
arXiv 1910.03875 estimates the distance so, arXiv 1902.03642 trains a GAN so, and
kexue.fm/archives/8244 asks what the better estimate is good for.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from zoo.layers.precision import at_least_float32

Space = Literal["real", "union"]


def pairwise_cost(x: Tensor, y: Tensor, p: float = 1.0) -> Tensor:
    """c(x_i, y_j) = |x_i - y_j|^p / p of all pairs, the norm being over all dimensions of an item.

    Differentiable; the gradient of a distance that is 0 is 0. Not by way of a matrix product,
    which in float32 makes |x - x| about 3e-4 |x|.

    Args:
        x: Items (N, ...).
        y: Items (M, ...).
        p: Power, at least 1.

    Returns:
        (N, M), in the precision of the arguments, but float32 at least.
    """
    x, y = (at_least_float32(t).flatten(1) for t in (x, y))
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return distance if p == 1 else distance**p / p


# The exact distance


class Transport(NamedTuple):
    """An optimal matching of two batches of equal size, and the dual solution that proves it."""

    value: Tensor
    """The distance: mean cost of the matched pairs, and also mean(u) + mean(v)."""
    match: Tensor
    """(N,) int64: item i of x goes to item match[i] of y."""
    u: Tensor
    """(N,), the potential of x: u_i + v_j <= c_ij, with equality on the matched pairs."""
    v: Tensor
    """(N,), the potential of y."""


@torch.no_grad()
def exact_w1(x: Tensor, y: Tensor) -> Tensor:
    """Exact W1 of two batches as measures of equal weights, by linear assignment in float64.

    On the host, in O(N³) at worst: 1 ms for 64 items, 0.2 s for 512. Of logging steps only.

    Args:
        x: Items (N, ...).
        y: Items (M, ...); batches of unequal sizes need the package POT.

    Returns:
        A float64 scalar on the CPU.

    Raises:
        ValueError: A batch is empty, the items differ in shape, or a value is not finite.
        ModuleNotFoundError: The sizes differ and POT is not installed.
    """
    cost = _host_cost(x, y)
    if len(x) == len(y):
        return cost.gather(1, _assign(cost)[:, None]).mean()
    try:
        import ot
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"batches of {len(x)} and {len(y)} items: the exact distance of unequal sizes needs "
            "the package POT (pip install POT); give equally many"
        ) from error
    return torch.as_tensor(float(ot.emd2([], [], cost.numpy())), dtype=torch.float64)


@torch.no_grad()
def exact_transport(x: Tensor, y: Tensor) -> Transport:
    """The matching and the dual potentials that belong to `exact_w1`, float64 on the CPU.

    Args:
        x: Items (N, ...).
        y: Items (N, ...).

    Raises:
        ValueError: As for `exact_w1`, or the sizes differ.
    """
    if len(x) != len(y):
        raise ValueError(f"a matching needs equally many items, got {len(x)} and {len(y)}")
    cost = _host_cost(x, y)
    match = _assign(cost)
    u, v = _potentials(cost, match)
    return Transport(cost.gather(1, match[:, None]).mean(), match, u, v)


def _host_cost(x: Tensor, y: Tensor) -> Tensor:
    if len(x) == 0 or len(y) == 0 or x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"batches of shapes {tuple(x.shape)} and {tuple(y.shape)}: need items of one shape"
        )
    cost = pairwise_cost(x.cpu().double(), y.cpu().double())
    if not bool(cost.isfinite().all()):
        raise ValueError("the batches hold values that are not finite: there is no distance")
    return cost


def _assign(cost: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def _potentials(cost: Tensor, match: Tensor) -> tuple[Tensor, Tensor]:
    """Dual potentials of an optimal matching, as shortest paths (Bellman and Ford).

    v is c - u on the matched pairs, so u must obey u_i <= u_k + c_{i, match k} - c_{k, match k}: a
    graph without negative cycles, because the matching is optimal.
    """
    matched = cost.gather(1, match[:, None])[:, 0]
    step = cost[:, match] - matched[None, :]
    u = torch.zeros_like(matched)
    rounding = 1e-14 * float(cost.max())
    for _ in range(len(u)):
        shorter = (step + u[None, :]).amin(1)  # step[i, i] = 0: never longer
        done = bool((u - shorter).max() <= rounding)
        u = shorter
        if done:
            break
    v = torch.empty_like(u)
    v[match] = matched - u
    return u, v


# The dual as an objective


def c_transform(cost: Tensor, phi: Tensor) -> Tensor:
    """φ^c(y_j) = min_i [c(x_i, y_j) - φ(x_i)] (arXiv 1910.03875).

    Any φ then gives mean φ + mean φ^c <= W1 of the batches, without a constraint on φ.

    Args:
        cost: c(x_i, y_j), shape (N, M).
        phi: φ(x_i), shape (N,).

    Returns:
        (M,).
    """
    return (cost - phi[:, None]).amin(0)


def c_eps_transform(cost: Tensor, phi: Tensor, eps: float) -> Tensor:
    """φ^{c,ε}(y_j) = -ε log (1/N) Σ_i exp[(φ(x_i) - c(x_i, y_j)) / ε] (arXiv 1910.03875).

    A soft minimum; it tends to the c-transform as ε tends to 0. (With (c - φ) / ε in the exponent,
    as public code has it, it would be a soft maximum.)

    Args:
        cost: c(x_i, y_j), shape (N, M).
        phi: φ(x_i), shape (N,).
        eps: Softness ε > 0, in units of the cost.

    Returns:
        (M,).

    Raises:
        ValueError: ε is not positive.
    """
    if eps <= 0:
        raise ValueError(f"eps={eps}: the (c,ε)-transform needs ε > 0; use c_transform for ε = 0")
    return -eps * (torch.logsumexp((phi[:, None] - cost) / eps, 0) - math.log(len(phi)))


def dual_value(
    phi: Tensor, cost: Tensor, n_real: int, *, eps: float = 0.0, space: Space = "real"
) -> Tensor:
    """The critic's estimate of W1(real, fake): mean φ(x) + mean φ^c(y), or with φ^{c,ε}.

    A generator that descends on it moves a fake y_j towards the real x_i that attains the minimum.

    Args:
        phi: φ on real and fake items, real ones first, shape (N,).
        cost: c of all pairs of them, shape (N, N).
        n_real: How many of them are real.
        eps: ε of the (c,ε)-transform; 0 is the c-transform.
        space: Over which x the minimum is: real only, or the union of real and fake.

    Returns:
        A scalar.
    """
    return phi[:n_real].mean() + _transform(phi, cost[:, n_real:], n_real, eps, space).mean()


def c_transform_losses(
    phi: Tensor,
    cost: Tensor,
    n_real: int,
    *,
    eps: float = 0.0,
    space: Space = "real",
    slack_weight: float = 0.1,
    admissible_weight: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Losses of the critic and of the generator of a (q,p)-WGAN (arXiv 1902.03642).

    With ξ_ij = c_ij - φ(x_i) - φ^c(y_j), the critic's is
    -(mean φ + mean φ^c) + slack_weight mean ξ² + admissible_weight mean min(ξ, 0)², the first mean
    over pairs of a real and a fake item, the second over all pairs. The generator's is the dual
    value. Detach the data for the one, freeze the critic for the other.

    Args:
        phi: φ on real and fake items, real ones first, shape (N,).
        cost: c of all pairs of them, shape (N, N), by `pairwise_cost`.
        n_real: How many of them are real.
        eps: ε of the (c,ε)-transform; 0 is the c-transform.
        space: Over which x the minimum is: real only, or the union of real and fake.
        slack_weight: Weight of mean ξ²; 0 leaves the plain dual.
        admissible_weight: Weight of mean min(ξ, 0)²; without effect on the c-transform over the
            union, where ξ >= 0.

    Returns:
        Critic loss, generator loss: scalars.

    Raises:
        ValueError: n_real leaves no real or no fake item, or a weight is negative.
    """
    if not 0 < n_real < len(phi):
        raise ValueError(f"n_real={n_real} of {len(phi)} items: need real ones and fake ones")
    if slack_weight < 0 or admissible_weight < 0:
        raise ValueError(
            f"slack_weight={slack_weight}, admissible_weight={admissible_weight}: need >= 0"
        )
    psi = _transform(phi, cost, n_real, eps, space)
    value = phi[:n_real].mean() + psi[n_real:].mean()
    slack = cost - phi[:, None] - psi[None, :]  # ξ
    penalty = slack_weight * slack[:n_real, n_real:].square().mean()
    penalty = penalty + admissible_weight * slack.clamp(max=0).square().mean()
    return penalty - value, value


def _transform(phi: Tensor, cost: Tensor, n_real: int, eps: float, space: Space) -> Tensor:
    """φ^c, or φ^{c,ε}, at the items of the columns of `cost`."""
    if space == "real":
        phi, cost = phi[:n_real], cost[:n_real]
    elif space != "union":
        raise ValueError(f"space={space!r}: choose real or union")
    return c_eps_transform(cost, phi, eps) if eps else c_transform(cost, phi)
