"""The von Mises-Fisher law's KL, normaliser and moments against mpmath and closed forms."""

import math

import mpmath
import pytest
import torch

from zoo.vae.sphere import bessel
from zoo.vae.sphere.bessel import (
    cosine_variance,
    entropy,
    kl_to_uniform,
    log_area,
    log_normalizer,
    log_partition,
    log_peak,
    mean_resultant_length,
    mean_shortfall,
    solve_concentration,
)

# d, kappa, A, KL, kappa^2 A', log C_d(kappa), with 50 digits of mpmath.
GOLDEN = [
    (2, 1, 0.44638996589653451, 0.21047560738935586, 0.35434603245035625, -2.0737914249165241),
    (3, 10, 0.90000000412230725, 1.9957323168382172, 0.99999917553854763, -9.5352919713541462),
    (4, 20, 0.92598774858288473, 3.258385442132396, 1.4594108747870206, -18.243976481784044),
    (5, 1e-3, 1.9999999428571454e-4, 9.9999995714285926e-8, 1.9999998285714413e-7, -3.2702891247105252),  # noqa: E501
    (10, 10, 0.6336683916233054, 2.4844695867839593, 2.8162816996558401, -7.0909571089080953),
    (11, 50, 0.90407385035894313, 8.8076696042188558, 4.5892575634166872, -39.427370498841231),
    (32, 13, 0.35693068323034064, 2.1725913240791993, 3.6264170234867776, 6.4229384717753144),
    (50, 80, 0.73828660719190345, 19.515207932948203, 17.486967910574041, -14.074385571086704),
    (128, 1.7261, 0.013482742560285447, 0.011635239521609346, 0.023264232330854107, 127.04181920194827),  # noqa: E501
    (512, 1000, 0.77653093290253887, 236.27201708209233, 192.40353231531606, 327.70918733994772),
    (768, 20, 0.026024075630790436, 0.26015284064167318, 0.51977881869986486, 1458.460822445734),
    (100_000, 1e4, 0.099019532447944249, 492.66255441786286, 970.96675928226228, 433249.70306185967),  # noqa: E501
    (10, 1e8, 0.99999995500000079, 73.361359485902592, 4.4999998424999976, -99999925.377383372),
    (100_000, 1e-6, 1.0e-11, 5.0e-18, 1.0e-17, 433747.23583192125),
]  # fmt: skip
DIMS = [2, 3, 5, 10, 41, 128, 768, 100_000]
KAPPAS = [1e-6, 1e-3, 0.1, 1.0, 2.7, 10.0, 33.0, 150.0, 1e3, 3e4, 1e6, 1e8]


def _exact(dim, kappa):
    """KL, A, A' and log C_d at 60 digits."""
    with mpmath.workdps(60):
        nu, k = mpmath.mpf(dim) / 2 - 1, mpmath.mpf(kappa)
        log_c0 = mpmath.loggamma(nu + 1) - mpmath.log(2) - (nu + 1) * mpmath.log(mpmath.pi)
        if dim > 1000:  # where mpmath's series of the Bessel function is too long
            phi, mean = _trapezoid(dim, k)
        else:
            i, j = (mpmath.besseli(order, k) for order in (nu, nu + 1))
            mean = j / i
            phi = mpmath.log(mpmath.gamma(nu + 1) * (2 / k) ** nu * i)
        return k * mean - phi, mean, 1 - mean**2 - (dim - 1) * mean / k, log_c0 - phi


def _trapezoid(dim, k):
    """Phi and A for a large dimension: sums over a = artanh w, exact to 40 digits."""
    n = mpmath.mpf(dim - 1)

    def total(k, mode):
        width = mpmath.cosh(mode) / mpmath.sqrt(n + 2 * k * mpmath.tanh(mode))
        places = [mode + width * j / 10 for j in range(-150, 151)]
        terms = [mpmath.exp(k * mpmath.tanh(a)) / mpmath.cosh(a) ** n for a in places]
        moment = mpmath.fsum(t * mpmath.tanh(a) for t, a in zip(terms, places, strict=True))
        return width * mpmath.fsum(terms), moment / mpmath.fsum(terms)

    area, mean = total(k, mpmath.asinh(2 * k / n) / 2)
    return mpmath.log(area / total(mpmath.mpf(0), mpmath.mpf(0))[0]), mean


@pytest.fixture(scope="module", params=DIMS)
def grid(request):
    """A dimension, the concentrations, and the exact values at them."""
    return request.param, KAPPAS, [_exact(request.param, k) for k in KAPPAS]


def _relative(got, exact):
    return max(float(abs(mpmath.mpf(g) / e - 1)) for g, e in zip(got.tolist(), exact, strict=True))


def _gradient(f, dim, k):
    k = k.clone().requires_grad_()
    return torch.autograd.grad(f(dim, k).sum(), k)[0]


def test_float64_against_mpmath(grid):
    dim, kappas, exact = grid
    kl, mean, variance, log_c = zip(*exact, strict=True)
    k = torch.tensor(kappas, dtype=torch.float64)
    area = log_area(dim)
    assert _relative(kl_to_uniform(dim, k), kl) < 1e-14
    assert _relative(mean_resultant_length(dim, k), mean) < 2e-14
    assert _relative(cosine_variance(dim, k), variance) < 1e-13
    assert _relative(log_normalizer(dim, k), log_c) < 1e-13
    assert _relative(_gradient(kl_to_uniform, dim, k), [a * b for a, b in zip(kappas, variance)]) < 1e-13  # fmt: skip  # noqa: B905, E501
    short = [1 - m for m in mean]
    assert _relative(mean_shortfall(dim, k), short) < 3e-14
    # kappa - Phi, where both are 1e8 and it is not: a sum of KL and kappa (1 - A).
    peak = [a + b * c for a, b, c in zip(kl, kappas, short, strict=True)]
    assert _relative(log_peak(dim, k), peak) < 3e-14
    for f, slope in [
        (log_peak, short),
        (mean_shortfall, [-v for v in variance]),
        (log_partition, mean),
        (log_normalizer, [-m for m in mean]),
        (mean_resultant_length, variance),
        (entropy, [-a * b for a, b in zip(kappas, variance, strict=True)]),
    ]:
        assert _relative(_gradient(f, dim, k), slope) < 1e-13
    phi = [a * b - c for a, b, c in zip(kappas, mean, kl, strict=True)]
    assert _relative(log_partition(dim, k), phi) < 1e-13
    # The entropy passes through zero, so its error counts against what it is the difference of.
    for h, e in zip(entropy(dim, k).tolist(), kl, strict=True):
        assert abs(h - (area - e)) < 1e-14 * (abs(area) + e)


def test_float32_against_mpmath(grid):
    dim, kappas, _ = grid
    k = torch.tensor(kappas)
    kl, mean, variance, log_c = zip(*(_exact(dim, v) for v in k.tolist()), strict=True)
    slope = [a * b for a, b in zip(k.tolist(), variance, strict=True)]
    for f, exact in [
        (kl_to_uniform, kl),
        (mean_resultant_length, mean),
        (cosine_variance, variance),
        (log_normalizer, log_c),
        (mean_shortfall, [1 - m for m in mean]),
    ]:
        got = f(dim, k)
        assert got.dtype == torch.float32
        assert _relative(got, exact) < 1.2e-7
    assert _relative(_gradient(kl_to_uniform, dim, k), slope) < 2.4e-7


@pytest.mark.parametrize(("dim", "kappa", "mean", "kl", "g", "log_c"), GOLDEN)
def test_golden_values(dim, kappa, mean, kl, g, log_c):
    k = torch.tensor(float(kappa), dtype=torch.float64)
    for got, expected in [
        (mean_resultant_length(dim, k), mean),
        (kl_to_uniform(dim, k), kl),
        (k**2 * cosine_variance(dim, k), g),
        (log_normalizer(dim, k), log_c),
    ]:
        assert got.item() == pytest.approx(expected, rel=1e-13)


def test_closed_forms_of_two_and_three_dimensions():
    k = torch.logspace(-2, 2, 50, dtype=torch.float64)
    i0, i1 = torch.special.i0(k), torch.special.i1(k)
    torch.testing.assert_close(mean_resultant_length(2, k), i1 / i0, rtol=1e-13, atol=0)
    torch.testing.assert_close(kl_to_uniform(2, k), k * i1 / i0 - i0.log(), rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(
        kl_to_uniform(3, k), k / k.tanh() - 1 - (k.sinh() / k).log(), rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("dim", DIMS)
def test_monotone_and_continuous_across_the_cells(dim):
    # Both sides of each border between cells of the table, one rounding apart. Each is within 3e-14
    # of the truth (see above), which changes by at most 2 * 2e-15 between them.
    t = torch.arange(1, 128, dtype=torch.float64) / 128
    border = bessel._scale(dim) * t / (1 - t)
    left, right = border * (1 - 1e-15), border * (1 + 1e-15)
    functions = (kl_to_uniform, mean_resultant_length, cosine_variance, log_partition)
    for f in (*functions, log_peak, mean_shortfall):
        torch.testing.assert_close(f(dim, left), f(dim, right), rtol=6.4e-14, atol=0)
    k = torch.cat([torch.zeros(1), torch.logspace(-6, 8, 20_001)]).double()
    for f in (kl_to_uniform, log_partition):
        assert (f(dim, k).diff() > 0).all()
    mean = mean_resultant_length(dim, k)
    assert (mean[k < 1e4 * dim].diff() > 0).all()
    assert (mean.diff() > -1e-15).all()
    assert (mean < 1).all()
    assert (_gradient(kl_to_uniform, dim, k)[1:] > 0).all()


@pytest.mark.parametrize("dim", [2, 3, 10, 768])
def test_zero_concentration_is_the_uniform_law(dim):
    k = torch.zeros(1, dtype=torch.float64)
    assert kl_to_uniform(dim, k).item() == 0
    assert mean_resultant_length(dim, k).item() == 0
    assert log_peak(dim, k).item() == 0
    assert mean_shortfall(dim, k).item() == pytest.approx(1, rel=1e-14)
    assert cosine_variance(dim, k).item() == pytest.approx(1 / dim, rel=1e-14)
    assert entropy(dim, k).item() == log_area(dim)
    assert _gradient(kl_to_uniform, dim, k).item() == 0
    assert _gradient(mean_resultant_length, dim, k).item() == pytest.approx(1 / dim, rel=1e-14)


def test_gradients_are_those_of_the_values():
    k = torch.tensor([0.3, 2.0, 17.0, 400.0], dtype=torch.float64, requires_grad=True)
    for f in (
        kl_to_uniform,
        log_partition,
        log_normalizer,
        entropy,
        mean_resultant_length,
        cosine_variance,
        log_peak,
        mean_shortfall,
    ):
        for dim in (2, 7, 50):
            assert torch.autograd.gradcheck(lambda x, f=f, d=dim: f(d, x), k, eps=1e-5, atol=1e-7)


def test_whole_numbers_are_no_other_concentrations():
    k = torch.tensor([0, 1, 20, 300])
    for f in (kl_to_uniform, log_partition, log_peak, log_normalizer, entropy, cosine_variance):
        for whole in (k, k.to(torch.int16)):
            torch.testing.assert_close(f(5, whole), f(5, k.float()), rtol=0, atol=0)
    torch.testing.assert_close(entropy(5, k > 0), entropy(5, (k > 0).float()), rtol=0, atol=0)


def test_cosine_variance_gradient_against_mpmath():
    k = torch.tensor([0.5, 10.0, 300.0], dtype=torch.float64)
    for dim in (2, 10, 128):
        got = _gradient(cosine_variance, dim, k)
        for g, kappa in zip(got.tolist(), k.tolist(), strict=True):
            _, a, v, _ = _exact(dim, kappa)
            # A' = 1 - A^2 - (d - 1) A / kappa, differentiated
            slope = -2 * a * v - (dim - 1) * (v / kappa - a / mpmath.mpf(kappa) ** 2)
            assert g == pytest.approx(float(slope), rel=1e-9)


# The table of vae.md: kappa at which KL is so many nats, four digits.
TARGETS = [
    (3, 1, 3.675), (3, 5, 201.7), (3, 10, 2.99e4), (10, 5, 21.33), (10, 20, 704.6),
    (32, 10, 40.43), (64, 1, 11.57), (128, 20, 90.46), (768, 1, 39.27), (768, 50, 305.6),
]  # fmt: skip


@pytest.mark.parametrize(("dim", "kl", "kappa"), TARGETS)
def test_solve_concentration(dim, kl, kappa):
    found = solve_concentration(dim, kl)
    assert found == pytest.approx(kappa, rel=2e-3)
    assert float(_exact(dim, found)[0]) == pytest.approx(kl, rel=1e-12)


@pytest.mark.parametrize("kl", [0.0, -1.0, 1e9, math.nan])
def test_solve_concentration_refuses_what_has_no_solution(kl):
    with pytest.raises(ValueError, match="no concentration"):
        solve_concentration(10, kl)


def test_a_table_made_in_inference_mode_serves_training():
    with torch.inference_mode():
        kl_to_uniform(77, torch.ones(2))
    k = torch.ones(2, requires_grad=True)
    cosine_variance(77, k).sum().backward()
    assert k.grad is not None
