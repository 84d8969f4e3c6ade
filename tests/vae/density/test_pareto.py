import math

import numpy as np
import pytest
import torch

from zoo.vae.density.pareto import fit_generalized_pareto, pareto_k, tail_length


def zhang_stephens(x, grid=None):
    """The estimate with a loop over the grid, as the paper of PSIS has it."""
    x = np.sort(x)
    n = len(x)
    m = grid or 30 + int(math.sqrt(n))
    b, log_l = np.empty(m), np.empty(m)
    for j in range(m):
        b[j] = 1 / x[-1] + (1 - math.sqrt(m / (j + 0.5))) / (3 * x[int(n / 4 + 0.5) - 1])
        k = np.mean(np.log1p(-b[j] * x))
        log_l[j] = n * (math.log(-b[j] / k) - k - 1)
    w = [1 / np.sum(np.exp(log_l - log_l[j])) for j in range(m)]
    k = np.mean(np.log1p(-np.dot(w, b) * x))
    return n * k / (n + 10) + 10 * 0.5 / (n + 10)


def pareto(k, n, seed=0):
    """Generalised Pareto draws of shape k by inversion."""
    u = np.random.default_rng(seed).random(n)
    return ((1 - u) ** -k - 1) / k if k else -np.log1p(-u)


def test_fit_is_the_loop_on_every_datum():
    shapes = [-0.4, 0.0, 0.3, 0.7, 1.5]
    x = np.stack([np.sort(pareto(k, 95, seed=i)) for i, k in enumerate(shapes)], 1)
    x[:, 2] *= 1e-9  # the scale is of no matter
    expected = [zhang_stephens(column) for column in x.T]
    torch.testing.assert_close(
        fit_generalized_pareto(torch.from_numpy(x)).tolist(), expected, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.5, 1.0])
def test_fit_finds_the_shape(k):
    n, data = 2000, 20
    x = np.sort(np.stack([pareto(k, n, seed=i) for i in range(data)], 1), 0)
    fit = fit_generalized_pareto(torch.from_numpy(x))
    error = (1 + abs(k)) / math.sqrt(n * data)  # asymptotic, of the maximum likelihood estimate
    assert abs(fit.mean().item() - (n * k + 5) / (n + 10)) < 4 * error


@pytest.mark.parametrize(("samples", "tail"), [(20, 4), (21, 5), (100, 20), (5000, 213)])
def test_tail_is_the_papers(samples, tail):
    assert tail_length(samples) == tail


@pytest.mark.parametrize("k", [0.2, 0.9])
def test_weights_with_a_power_tail(k):
    # w = u^-k is Pareto of shape k; its log is k times an exponential variable.
    M, data = 5000, 30
    log_w = torch.from_numpy(k * np.random.default_rng(0).exponential(size=(M, data)))
    largest = log_w.sort(0, descending=True).values[:300]
    fit = pareto_k(largest, M)
    n = tail_length(M)
    expected = (n * k + 5) / (n + 10)
    assert abs(fit.mean().item() - expected) < 4 * (1 + k) / math.sqrt(n * data)
    torch.testing.assert_close(pareto_k(largest - 1234.5, M), fit)  # only ratios matter
    torch.testing.assert_close(pareto_k(largest[: n + 1], M), fit)  # nor what is below the tail


def test_flat_weights_and_few_samples():
    largest = torch.zeros(300, 2).double()
    largest[:, 1] = torch.linspace(5e-4, 0, 300)
    assert pareto_k(largest, 1000).tolist() == [-math.inf, -math.inf]
    assert pareto_k(largest[:20], 20).isnan().all()


def test_ties_with_the_threshold_do_not_count():
    # float32 weights come in steps, and many of the tail may equal the threshold.
    M = 1000
    x = np.sort(pareto(0.3, 40))
    weights = np.zeros((300, 2))
    weights[:40, 0] = x[::-1]
    weights[:4, 1] = x[::-1][:4]
    largest = torch.from_numpy(np.log1p(weights))
    k = pareto_k(largest, M)
    assert k[0].item() == pytest.approx(loop_of_ties(x), abs=1e-10)
    assert k[1].item() == math.inf
    alone = torch.full((300, 1), -math.inf).double()
    alone[0] = 3.0  # one weight is the whole estimate
    assert pareto_k(alone, M).item() == math.inf


def loop_of_ties(x):
    return zhang_stephens(x, grid=30 + int(math.sqrt(tail_length(1000))))
