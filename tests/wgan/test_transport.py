import itertools
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance
from sklearn.datasets import load_digits

from zoo.wgan.transport import (
    c_eps_transform,
    c_transform,
    dual_loss,
    dual_value,
    exact_w1,
    optimal_matching,
    pairwise_cost,
)


def points(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def potentials(cost, match):
    """Dual potentials of an optimal matching, as shortest paths (Bellman and Ford).

    v is c - u on the matched pairs, so u must obey u_i <= u_k + c_{i, match k} - c_{k, match k}: a
    graph without negative cycles, because the matching is optimal.
    """
    matched = cost.gather(1, match[:, None])[:, 0]
    step = cost[:, match] - matched[None, :]
    u = torch.zeros_like(matched)
    for _ in range(len(u)):
        u = (step + u[None, :]).amin(1)  # step[i, i] = 0: never longer
    v = torch.empty_like(u)
    v[match] = matched - u
    return u, v


# The exact distance


def test_cost_is_the_norm_over_all_dimensions():
    x, y = points(3, 24).reshape(3, 2, 3, 4), points(5, 24, 1).reshape(5, 2, 3, 4)
    naive = torch.tensor([[((a - b) ** 2).sum() ** 0.5 for b in y] for a in x])
    torch.testing.assert_close(pairwise_cost(x, y), naive)


def test_cost_of_an_item_with_itself_is_exactly_zero_in_float32():
    x = 30 * points(64, 100, dtype=torch.float32)
    assert pairwise_cost(x, x).diagonal().abs().max() == 0
    assert torch.cdist(x, x).diagonal().abs().max() > 1e-3  # what torch does by itself


def test_cost_has_a_finite_gradient_at_zero():
    x = points(4, 3).requires_grad_()
    pairwise_cost(x, x.detach()).sum().backward()
    assert x.grad.isfinite().all()


def test_cost_of_half_precision_is_in_float32():
    assert pairwise_cost(points(2, 3).bfloat16(), points(2, 3).bfloat16()).dtype == torch.float32


def test_w1_is_the_best_of_all_matchings():
    x, y = points(6, 3), points(6, 3, 1)
    cost = pairwise_cost(x, y)
    naive = min(
        sum(cost[i, j] for i, j in enumerate(p)) / 6 for p in itertools.permutations(range(6))
    )
    torch.testing.assert_close(exact_w1(x, y), naive)


def test_w1_on_the_line_is_that_of_sorted_values():
    a, b = points(100, 1), points(100, 1, 1) * 2 + 0.3
    sort = (a.flatten().sort().values - b.flatten().sort().values).abs().mean()
    scipy = wasserstein_distance(a.flatten().numpy(), b.flatten().numpy())
    torch.testing.assert_close(exact_w1(a, b), sort)
    assert exact_w1(a, b).item() == pytest.approx(scipy, abs=1e-12)


def test_numbers_are_points_of_the_line():
    x, y = torch.tensor([3, 1, 2]), torch.tensor([5, 3, 4])
    assert exact_w1(x, y) == exact_w1(x[:, None], y[:, None]) == 2
    assert torch.equal(pairwise_cost(x, y[:2]), torch.tensor([[2.0, 0], [4, 2], [3, 1]]))


@pytest.mark.parametrize("d", [1, 2, 20])
def test_w1_of_a_translation_is_its_length(d):
    x, t = points(50, d), points(1, d, 5)
    torch.testing.assert_close(exact_w1(x, (x + t).flip(0)), t.norm())


def test_matching_by_squares_is_the_distance_of_bures():
    """W2² of Gaussians: |m - n|² + tr(S + T - 2 (S^½ T S^½)^½), by a linear map that is optimal."""
    a, b = points(2, 2), points(2, 2, 1)
    S, T = a @ a.T + torch.eye(2), b @ b.T + torch.eye(2)
    shift = torch.tensor([1.0, -0.5], dtype=torch.float64)

    def power(M, p):
        values, vectors = torch.linalg.eigh(M)
        return vectors @ (values**p).diag() @ vectors.T

    middle = power(power(S, 0.5) @ T @ power(S, 0.5), 0.5)
    z = points(200, 2, 2)
    z = z - z.mean(0)
    x = z @ power(z.T @ z / 200, -0.5) @ power(S, 0.5)  # of covariance S exactly
    y = x @ power(S, -0.5) @ middle @ power(S, -0.5) + shift
    cost = pairwise_cost(x, y).square()
    match = optimal_matching(cost)
    assert match.tolist() == list(range(200))
    found = cost.gather(1, match[:, None]).mean()
    torch.testing.assert_close(found, shift.square().sum() + torch.trace(S + T - 2 * middle))


def test_w1_of_images_is_that_of_their_vectors():
    x, y = points(8, 12, dtype=torch.float32), points(8, 12, 1, dtype=torch.float32)
    value = exact_w1(x.reshape(8, 3, 2, 2), y.reshape(8, 3, 2, 2))
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, exact_w1(x, y))


def test_w1_of_unequal_sizes():
    pytest.importorskip("ot")
    x, y = points(12, 2), points(8, 2, 1)
    twice = exact_w1(x.repeat_interleave(2, 0), y.repeat_interleave(3, 0))
    torch.testing.assert_close(exact_w1(x, y), twice)


def test_unequal_sizes_without_pot_are_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ModuleNotFoundError, match=r"12 and 8 items.*pip install POT"):
        exact_w1(points(12, 2), points(8, 2))


def batches(kind, n=300):
    """Two batches that go different ways."""
    pick = torch.randint(0, 20, (n,), generator=torch.Generator().manual_seed(9))
    return {
        "flat": (points(n, 2), points(n, 2, 1) + 1),
        "images": (points(n, 30), points(n, 30, 1) + 0.5),
        "collapsed": (points(n, 2), points(1, 2, 1) + 1e-9 * points(n, 2, 2)),
        "one point": (points(n, 2), points(1, 2, 1).expand(n, 2)),
        "duplicates": (points(n, 30), points(20, 30, 1)[pick]),
        "both": (points(20, 3)[pick.flip(0)], points(20, 3, 1)[pick]),
        "the same": (points(n, 3), points(n, 3).flip(0)),
    }[kind]


KINDS = ["flat", "images", "collapsed", "one point", "duplicates", "both", "the same"]


@pytest.mark.parametrize("pot", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_w1_is_that_of_plain_assignment_by_every_way(kind, pot, monkeypatch):
    if pot:
        pytest.importorskip("ot")
    else:
        monkeypatch.setitem(sys.modules, "ot", None)
    x, y = batches(kind)
    cost = pairwise_cost(x, y)
    plain = cost.numpy()[linear_sum_assignment(cost.numpy())].mean()
    # Either is an optimum in exact arithmetic of costs that are rounded: n sums of them.
    assert exact_w1(x, y).item() == pytest.approx(plain, rel=1e-13, abs=300 * 2.3e-16)


@pytest.mark.parametrize(
    ("kind", "simplex"),
    [("flat", True), ("collapsed", True), ("duplicates", True), ("both", True), ("images", False)],
)
def test_w1_of_many_takes_the_way_that_is_faster_for_them(kind, simplex, monkeypatch):
    # benchmarks/wgan_w1.py measures both ways; here only that each goes where it should.
    ot = pytest.importorskip("ot")
    taken, emd2 = [], ot.emd2
    monkeypatch.setattr(ot, "emd2", lambda *a, **k: taken.append(a) or emd2(*a, **k))
    exact_w1(*batches(kind))
    assert bool(taken) is simplex


def test_one_point_needs_no_package_for_other_sizes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    x, y = points(200, 3), points(1, 3, 1).expand(7, 3)
    torch.testing.assert_close(exact_w1(x, y), (x - y[0]).norm(dim=1).mean())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(3, 2), "shapes"),
        (torch.zeros(3, 3), torch.zeros(3, 2), "shapes"),
        (torch.full((3, 2), float("nan")), torch.zeros(3, 2), "finite"),
    ],
)
def test_what_has_no_distance_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        exact_w1(x, y)


@pytest.mark.parametrize(("n", "d"), [(1, 2), (40, 2), (64, 20), (150, 5)])
def test_potentials_prove_that_the_matching_is_optimal(n, d):
    x, y = points(n, d), points(n, d, 1) * 1.5 + 0.4
    cost = pairwise_cost(x, y)
    match = optimal_matching(cost)
    value, (u, v) = cost.gather(1, match[:, None]).mean(), potentials(cost, match)
    assert sorted(match.tolist()) == list(range(n))
    assert (cost - u[:, None] - v[None, :]).min() > -1e-12  # admissible
    torch.testing.assert_close(u.mean() + v.mean(), value)  # strong duality
    torch.testing.assert_close(value, exact_w1(x, y))
    torch.testing.assert_close(v, c_transform(cost, u), rtol=0, atol=1e-12)


# The dual as an objective


def test_c_transform_is_the_minimum():
    cost, phi = pairwise_cost(points(5, 3), points(7, 3, 1)), points(5, 1, 2)[:, 0]
    naive = torch.tensor([min(cost[i, j] - phi[i] for i in range(5)) for j in range(7)])
    torch.testing.assert_close(c_transform(cost, phi), naive)


def test_any_potential_gives_a_lower_bound():
    x, y = points(40, 3), points(40, 3, 1) + 1
    cost, exact = pairwise_cost(x, y), exact_w1(x, y)
    for seed in range(20):
        phi = points(40, 1, seed)[:, 0] * seed / 4
        assert phi.mean() + c_transform(cost, phi).mean() <= exact + 1e-12


def test_c_eps_transform_tends_to_the_c_transform():
    x, y = points(64, 2), points(64, 2, 1) + 1
    cost = pairwise_cost(x, y)
    best, _ = potentials(cost, optimal_matching(cost))
    hard = c_transform(cost, best)
    gaps = []
    for eps in (1.0, 0.1, 0.01, 1e-4):
        soft = c_eps_transform(cost, best, eps)
        # The mean of N terms is at most the largest, and at least a share 1 / N of it.
        assert (soft >= hard - 1e-9).all()
        assert (soft <= hard + eps * np.log(64) + 1e-9).all()
        gaps.append((soft - hard).abs().max().item())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3


def test_a_soft_maximum_would_not_be_the_distance():
    x, y = points(64, 2), points(64, 2, 1) + 1
    cost = pairwise_cost(x, y)
    u, _ = potentials(cost, optimal_matching(cost))
    eps = 0.01
    wrong = -eps * torch.logsumexp((cost - u[:, None]) / eps, 0).mean() + u.mean()
    right = u.mean() + c_eps_transform(cost, u, eps).mean()
    assert wrong < 0 < right
    assert abs(right - exact_w1(x, y)) < 0.05


def test_the_best_c_eps_value_is_the_entropic_distance():
    # max over φ of mean φ + mean φ^{c,ε} = min over π of <c, π> + ε KL(π | product).
    n, eps = 20, 0.3
    cost = pairwise_cost(points(n, 2), points(n, 2, 1) + 1)
    phi = torch.zeros(n, dtype=torch.float64)
    for _ in range(2000):  # Sinkhorn: both sides in turn
        psi = c_eps_transform(cost, phi, eps)
        phi = c_eps_transform(cost.T, psi, eps)
    dual = phi.mean() + c_eps_transform(cost, phi, eps).mean()
    plan = torch.exp((phi[:, None] + psi[None, :] - cost) / eps) / n**2
    primal = (plan * cost).sum() + eps * (plan * torch.log(plan * n**2)).sum()
    torch.testing.assert_close(plan.sum(0), torch.full((n,), 1 / n, dtype=torch.float64))
    torch.testing.assert_close(dual, primal)


def test_eps_must_be_positive():
    with pytest.raises(ValueError, match="eps=0"):
        c_eps_transform(torch.ones(2, 2), torch.ones(2), 0)


def naive_loss(phi, cost, n, eps, penalty):
    N = len(phi)

    def psi(j):
        if eps == 0:
            return min(cost[i, j] - phi[i] for i in range(n))
        terms = sum(torch.exp((phi[i] - cost[i, j]) / eps) for i in range(n))
        return -eps * torch.log(terms / n)

    value = sum(phi[i] for i in range(n)) / n + sum(psi(j) for j in range(n, N)) / (N - n)
    xi = [[cost[i, j] - phi[i] - psi(j) for j in range(N)] for i in range(N)]
    tight = sum(xi[i][j] ** 2 for i in range(n) for j in range(n, N)) / (n * (N - n))
    negative = sum(min(xi[i][j], 0 * phi[0]) ** 2 for i in range(N) for j in range(N)) / N**2
    return penalty * (tight + negative) - value, value


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_the_loss_is_that_of_a_naive_loop(penalty, eps):
    z, phi = points(9, 3), 2 * points(9, 1, 1)[:, 0]
    cost = pairwise_cost(z, z)
    loss, value = naive_loss(phi, cost, 5, eps, penalty)
    torch.testing.assert_close(dual_loss(phi, cost, 5, eps=eps, penalty=penalty), loss)
    torch.testing.assert_close(dual_value(phi[:5], cost[:5, 5:], eps), value)
    assert (loss + value) > 0.01 or penalty == 0


def test_the_generator_moves_a_fake_towards_its_nearest_real():
    x, y = points(6, 3), (points(4, 3, 1) + 2).requires_grad_()
    phi = points(6, 1, 2)[:, 0]
    dual_value(phi, pairwise_cost(x, y)).backward()
    nearest = (pairwise_cost(x, y.detach()) - phi[:, None]).argmin(0)
    away = y.detach() - x[nearest]
    torch.testing.assert_close(y.grad, away / away.norm(dim=1, keepdim=True) / 4)


def test_descent_on_the_plain_dual_finds_the_distance():
    x, y = points(16, 2), points(16, 2, 1) + 1
    z = torch.cat([x, y])
    cost, phi = pairwise_cost(z, z), torch.zeros(32, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([phi], lr=0.02)
    values = []
    for _ in range(600):
        loss = dual_loss(phi, cost, 16)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(-loss.item())
    exact = exact_w1(x, y).item()
    assert max(values) <= exact + 1e-12
    assert max(values) > 0.99 * exact


def test_digits_batches_have_the_known_distance():
    images = torch.from_numpy(load_digits().data) / 8 - 1
    # Two real batches of 64 are 3.3 to 3.9 apart, whichever they are.
    g = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=g)
    assert 3.3 < exact_w1(images[order[:64]], images[order[64:128]]) < 3.9
