"""The quantile table against closed forms, quadrature, the post's grid and Wood's sampler."""

import math

import pytest
import torch
from scipy import integrate, stats

from tests.vae.sphere.wood import wood_cosine
from zoo.vae.sphere.bessel import mean_resultant_length
from zoo.vae.sphere.quantile import PostTable, quantile

X = [-5.0, -2.0, -0.3, 0.0, 1.0, 4.0]


def _quantile(dim, kappa, x):
    x = torch.as_tensor(x, dtype=torch.float64)
    return quantile(dim, torch.tensor(kappa, dtype=torch.float64), x)


def _one_minus_w(a):
    return 2 / (1 + torch.exp(2 * a))


def test_three_dimensions_have_a_closed_form():
    x = torch.linspace(-6.4, 6.4, 241, dtype=torch.float64)
    below, above = torch.special.ndtr(x), torch.special.ndtr(-x)
    for kappa in (1e-2, 0.5, 3.0, 10.0, 13.0, 200.0, 1e5):
        # w = 1 + log(u + (1 - u) e^{-2 kappa}) / kappa
        high = torch.log1p(above * math.expm1(-2 * kappa))
        exact = -torch.where(x > 0, high, torch.log(below + above * math.exp(-2 * kappa))) / kappa
        a, _ = _quantile(3, kappa, x)
        torch.testing.assert_close(_one_minus_w(a), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dim", [2, 5, 10, 100, 768])
@pytest.mark.parametrize("kappa", [0.0, 0.5, 20.0, 1e3, 1e6])
def test_levels_and_gradients_against_quadrature(dim, kappa):
    n = dim - 1
    a, slope = _quantile(dim, kappa, X)
    mode = math.asinh(2 * kappa / n) / 2
    width = math.cosh(mode) / math.sqrt(n + 2 * kappa * math.tanh(mode))
    mean = float(mean_resultant_length(dim, torch.tensor(kappa, dtype=torch.float64)))

    def density(y):
        # w - w* = sinh(a - a*) / (cosh a cosh a*)
        b = mode + width * y
        rise = math.sinh(width * y) / math.cosh(b) / math.cosh(mode)
        return math.exp(kappa * rise - n * (math.log(math.cosh(b)) - math.log(math.cosh(mode))))

    def shift(y):
        # kappa-derivative of the log-density; w - A from w - w*
        b = mode + width * y
        rise = math.sinh(width * y) / math.cosh(b) / math.cosh(mode)
        return (rise + math.tanh(mode) - mean) * density(y)

    right = 10 + 64 / n**0.5
    left = -right

    def quad(f, low, high):
        middle = [p for p in (-5, 0, 5) if low < p < high]
        return integrate.quad(f, low, high, points=middle, epsabs=1e-30, epsrel=1e-11, limit=400)[0]

    total = quad(density, left, right)
    tolerance = 3e-5 if dim == 2 else 1e-5
    for x, value, gradient in zip(X, a.tolist(), slope.tolist(), strict=True):
        y = (value - mode) / width
        lower = x < 0
        tail = quad(density, left, y) if lower else quad(density, y, right)
        error = (tail / total - stats.norm.sf(abs(x))) * total / density(y) * width
        # d(1 - w) / (1 - w) = -(1 + w) da
        assert abs(error * (1 + math.tanh(value))) < tolerance, (x, error)
        # Implicit differentiation: da/dkappa = -(d CDF/dkappa) / density.
        moved = quad(shift, left, y) if lower else -quad(shift, y, right)
        exact = -moved / density(y) * width
        assert gradient == pytest.approx(exact, rel=5e-4 if dim == 2 else 1e-4, abs=1e-14), x


@pytest.mark.parametrize("dim", [2, 3, 50, 100_000])
def test_increases_in_the_normal_number_and_in_kappa(dim):
    x = torch.linspace(-6.4, 6.4, 501, dtype=torch.float64)
    k = torch.cat([torch.zeros(1), torch.logspace(-3, 8, 400)]).double()
    a, slope = quantile(dim, k[:, None], x)
    assert (a.diff(dim=1) > 0).all()
    assert (a.diff(dim=0) > 0).all()
    assert (slope > 0).all()


def test_beyond_the_reach_counts_as_its_end():
    a, slope = _quantile(10, 3.0, [-60.0, -6.5, 6.5, 60.0])
    assert a[0] == a[1]
    assert a[2] == a[3]
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize(("dim", "kappa"), [(3, 5.0), (4, 20.0), (10, 0.0), (100, 11.0)])
def test_post_table(dim, kappa):
    # The post's demo is (4, 20). Its grid has an error of about one step.
    table = PostTable(dim, kappa, step=1e-5)
    x = torch.linspace(-3, 3, 61, dtype=torch.float64)
    a, _ = _quantile(dim, kappa, x)
    torch.testing.assert_close(table.quantile(torch.special.ndtr(x)), a.tanh(), atol=3e-5, rtol=0)


def test_post_table_refuses_a_bad_step():
    with pytest.raises(ValueError, match="step of the grid is 0"):
        PostTable(4, 20.0, step=0.0)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 1.0), (5, 10.0), (100, 11.0), (10, 1e6)])
def test_same_law_as_rejection(dim, kappa):
    generator = torch.Generator().manual_seed(1)
    count = 100_000
    wood = wood_cosine(dim, kappa, count, generator)
    a, _ = _quantile(dim, kappa, torch.randn(count, dtype=torch.float64, generator=generator))
    assert stats.ks_2samp(1 - wood, _one_minus_w(a), method="asymp").pvalue > 1e-3
