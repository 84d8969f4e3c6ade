"""The distributions: the law of their draws, densities, divergences, and what they refuse."""

import copy
import math
import pickle

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch.distributions import kl_divergence

from tests.processes import in_new_process
from zoo.vae import HypersphericalUniform, VonMisesFisher
from zoo.vae.sphere.bessel import cosine_variance, log_area, mean_resultant_length

# Where public samplers are wrong, and some where they are right.
HARD = [(100, 11.0), (50, 10.0), (2, 1.0), (768, 20.0), (10, 1e6), (3, 10.0), (20_000, 1e4)]


def _law(dim, kappa, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mu = F.normalize(torch.randn(dim, dtype=torch.float64, generator=generator), dim=0)
    return VonMisesFisher(mu.to(dtype), torch.tensor(kappa, dtype=dtype)), generator


def _noise(count, q, generator, dtype=torch.float64):
    return torch.randn(count, *q.batch_shape, q.dim + 1, dtype=dtype, generator=generator)


def _cosine_cdf(dim, kappa, w):
    """Distribution function of w by the trapezoidal rule in artanh(w)."""
    n = dim - 1
    mode = math.asinh(2 * kappa / n) / 2
    width = math.cosh(mode) / math.sqrt(n + 2 * kappa * math.tanh(mode))
    b = np.linspace(-40 if dim == 2 else -15, 60 if dim == 2 else 15, 60_001) * width
    rise = np.sinh(b) / np.cosh(mode + b) / math.cosh(mode)
    density = np.exp(kappa * rise - n * (np.log(np.cosh(mode + b)) - math.log(math.cosh(mode))))
    levels = np.cumsum(density)
    return np.interp(np.arctanh(w), mode + b, (levels - density / 2) / levels[-1])


@pytest.mark.parametrize(("dim", "kappa"), HARD)
def test_law_of_the_draws(dim, kappa):
    q, generator = _law(dim, kappa)
    count = min(100_000, 4_000_000 // dim)
    z = q.rsample_from(_noise(count, q, generator))
    w = 1 - (z - q.mean_direction).square().sum(-1) / 2
    mean = mean_resultant_length(dim, q.concentration)
    variance = cosine_variance(dim, q.concentration)
    # Tolerances are 4.5 standard errors; that of the variance from the sample's fourth moment.
    assert abs(w.mean() - mean) < 4.5 * (variance / count).sqrt()
    square = (w - mean).square()
    assert abs(square.mean() - variance) < 4.5 * square.std() / count**0.5
    assert stats.kstest(_cosine_cdf(dim, kappa, w.numpy()), "uniform").pvalue > 1e-3

    # Uniform around the mean direction, and independently of w.
    v = F.normalize(z - (z @ q.mean_direction)[:, None] * q.mean_direction, dim=-1)
    u = torch.randn(dim, dtype=torch.float64, generator=generator)
    u = F.normalize(u - (u @ q.mean_direction) * q.mean_direction, dim=0)
    share = v @ u
    assert abs(np.corrcoef(share, w)[0, 1]) < 4.5 / count**0.5
    if dim == 2:
        assert abs(share.sign().mean()) < 4.5 / count**0.5
    else:
        beta = stats.beta((dim - 2) / 2, (dim - 2) / 2)
        assert stats.kstest((1 + share.numpy()) / 2, beta.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("dim", "kappa"), HARD)
def test_gradient_of_the_mean_cosine(dim, kappa):
    q, generator = _law(dim, kappa)
    count = min(50_000, 2_000_000 // dim)
    k = q.concentration.expand(count).clone().requires_grad_()
    mu = q.mean_direction
    z = VonMisesFisher(mu, k).rsample_from(
        torch.randn(count, dim + 1, dtype=torch.float64, generator=generator)
    )
    (slope,) = torch.autograd.grad((z @ mu).sum(), k)
    exact = cosine_variance(dim, q.concentration)
    # Also no bias: the sample's own spread is small, so this is a percent or less.
    assert abs(slope.mean() - exact) < 4.5 * slope.std() / count**0.5
    assert slope.std() / count**0.5 < 0.02 * exact


def test_gradients_against_differences():
    generator = torch.Generator().manual_seed(3)
    for dim in (2, 3, 20):
        raw = torch.randn(3, dim, dtype=torch.float64, generator=generator, requires_grad=True)
        k = torch.tensor([0.5, 5.0, 80.0], dtype=torch.float64, requires_grad=True)
        noise = torch.randn(2, 3, dim + 1, dtype=torch.float64, generator=generator)

        def draw(raw: Tensor, k: Tensor, noise: Tensor = noise) -> tuple[Tensor, Tensor, Tensor]:
            q = VonMisesFisher(F.normalize(raw, dim=-1), k)
            z, log_ratio = q.draw_from(noise)
            return z, log_ratio, q.log_ratio(z)

        assert torch.autograd.gradcheck(draw, (raw, k))


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_kl_gradients_in_all_four_parameters(dim):
    generator = torch.Generator().manual_seed(3)
    raw = torch.randn(2, 3, dim, dtype=torch.float64, generator=generator).unbind()
    a, b = (r.clone().requires_grad_() for r in raw)
    k = torch.tensor([0.5, 5.0, 80.0], dtype=torch.float64, requires_grad=True)
    m = torch.tensor([3.0, 0.1, 60.0], dtype=torch.float64, requires_grad=True)

    def kl(a: Tensor, k: Tensor, b: Tensor, m: Tensor) -> Tensor:
        p, q = (VonMisesFisher(F.normalize(r, dim=-1), c) for r, c in ((a, k), (b, m)))
        return kl_divergence(p, q)

    assert torch.autograd.gradcheck(kl, (a, k, b, m))


@pytest.mark.parametrize(("dim", "kappa"), [(2, 3.0), (5, 40.0), (50, 30.0)])
def test_kl_is_the_mean_log_ratio(dim, kappa):
    p, generator = _law(dim, kappa)
    tilted = F.normalize(p.mean_direction + 0.3 / dim**0.5, dim=0)
    q = VonMisesFisher(tilted, p.concentration * 0.6)
    uniform = HypersphericalUniform(dim, dtype=torch.float64)
    for a, b in [(p, q), (q, p), (p, uniform), (uniform, p), (uniform, uniform)]:
        noise = torch.randn(20_000, a.noise_dim, dtype=torch.float64, generator=generator)
        z = a.rsample_from(noise)
        difference = a.log_prob(z) - b.log_prob(z)
        error = 4.5 * difference.std() / len(z) ** 0.5 + 1e-12
        assert abs(difference.mean() - kl_divergence(a, b)) < error
    assert kl_divergence(p, p).abs() < 1e-13
    assert kl_divergence(p, uniform).item() == pytest.approx(uniform.entropy() - p.entropy())


@pytest.mark.parametrize(("dim", "kappa"), [(2, 1.0), (3, 10.0), (10, 50.0), (64, 300.0)])
def test_density_and_entropy_of_scipy(dim, kappa):
    q, generator = _law(dim, kappa)
    other = stats.vonmises_fisher(q.mean_direction.numpy(), kappa)
    z = q.rsample_from(_noise(50, q, generator))
    np.testing.assert_allclose(q.log_prob(z), other.logpdf(z.numpy()), rtol=1e-9, atol=1e-9)
    assert q.entropy().item() == pytest.approx(other.entropy(), rel=1e-9)


def test_mean_and_variance_are_those_of_the_draws():
    q, generator = _law(4, 7.0)
    z = q.rsample_from(_noise(200_000, q, generator))
    assert ((z.mean(0) - q.mean).abs() < 4.5 * (q.variance / len(z)).sqrt()).all()
    square = (z - q.mean).square()
    assert ((square.mean(0) - q.variance).abs() < 4.5 * square.std(0) / len(z) ** 0.5).all()
    zero = VonMisesFisher(q.mean_direction, torch.zeros((), dtype=torch.float64))
    torch.testing.assert_close(zero.variance, torch.full((4,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(q.stddev, q.variance.sqrt())
    assert torch.equal(q.mode, q.mean_direction)


@pytest.mark.parametrize("dim", [2, 3, 15, 16, 128, 768])
def test_log_ratio_of_a_draw_in_float32(dim):
    # Against float64 from the same noise; log_ratio(z) has lost to the rounding of z.
    for kappa, tolerance in [(0.0, 1e-6), (1.0, 1e-5), (30.0, 1e-4), (1e3, 1e-3), (1e6, 2e-1)]:
        q, generator = _law(dim, kappa, torch.float32)
        noise = _noise(1000, q, generator, torch.float32)
        z, log_ratio = q.draw_from(noise)
        exact = VonMisesFisher(q.mean_direction.double(), q.concentration.double())
        expected = exact.draw_from(noise.double())[1]
        torch.testing.assert_close(log_ratio.double(), expected, rtol=2e-7, atol=1e-6)
        assert (q.log_ratio(z).double() - expected).abs().max() <= tolerance * max(1, dim**0.5 / 4)


@pytest.mark.parametrize("dim", [2, 3, 15, 16, 128, 768])
@pytest.mark.parametrize("kappa", [0.0, 1e-6, 1.0, 50.0, 1e4, 1e8])
def test_unit_norm_in_float32(dim, kappa):
    generator = torch.Generator().manual_seed(0)
    mu = F.normalize(torch.randn(2000, dim, generator=generator), dim=-1).requires_grad_()
    k = torch.full((2000,), kappa, requires_grad=True)
    z = VonMisesFisher(mu, k).rsample_from(torch.randn(2000, dim + 1, generator=generator))
    assert z.dtype == torch.float32
    assert (z.double().norm(dim=-1) - 1).abs().max() < 5e-7
    z.pow(3).sum().backward()
    assert torch.isfinite(mu.grad).all()
    assert torch.isfinite(k.grad).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dim", [2, 10, 50])
def test_mean_direction_along_an_axis(dim, sign):
    # Householder reflections divide by zero here.
    mu = torch.zeros(dim)
    mu[0] = sign
    mu.requires_grad_()
    q = VonMisesFisher(mu, torch.tensor(20.0))
    noise = torch.randn(20_000, dim + 1, generator=torch.Generator().manual_seed(0))
    z = q.rsample_from(noise)
    w = (z @ mu.detach()).detach().double()
    assert abs(w.mean() - q.mean_resultant_length) < 4.5 * w.std() / len(w) ** 0.5
    z.square().sum().backward()
    assert torch.isfinite(mu.grad).all()


def test_zero_concentration_is_uniform():
    q, generator = _law(6, 0.0)
    z = q.rsample_from(_noise(100_000, q, generator))
    beta = stats.beta(2.5, 2.5)
    for direction in torch.eye(6, dtype=torch.float64):
        assert stats.kstest((1 + (z @ direction).numpy()) / 2, beta.cdf).pvalue > 1e-3
    assert (q.log_prob(z) == -log_area(6)).all()
    assert (q.draw_from(_noise(9, q, generator))[1] == 0).all()


def test_batches_and_samples_are_independent_laws():
    generator = torch.Generator().manual_seed(0)
    mu = F.normalize(torch.randn(4, 1, 5, dtype=torch.float64, generator=generator), dim=-1)
    k = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    q = VonMisesFisher(mu, k)
    assert q.batch_shape == (4, 3)
    assert q.event_shape == (5,)
    noise = torch.randn(2, 7, 4, 3, 6, dtype=torch.float64, generator=generator)
    z, log_ratio = q.draw_from(noise)
    for i in range(4):
        for j in range(3):
            alone = VonMisesFisher(mu[i, 0], k[j]).draw_from(noise[..., i, j, :])
            torch.testing.assert_close(z[..., i, j, :], alone[0], rtol=1e-13, atol=1e-15)
            torch.testing.assert_close(log_ratio[..., i, j], alone[1], rtol=1e-12, atol=1e-13)
    wider = VonMisesFisher(mu[:, 0], k[:1]).expand((3, 4))
    assert wider.rsample((2,)).shape == (2, 3, 4, 5)
    assert wider.log_prob(z[:, :3].transpose(-2, -3)).shape == (2, 3, 3, 4)
    assert wider.entropy().shape == (3, 4)
    assert HypersphericalUniform(5).expand((3, 4)).rsample((2,)).shape == (2, 3, 4, 5)
    assert kl_divergence(wider, HypersphericalUniform(5)).shape == (3, 4)


def test_rsample_is_rsample_from_of_torchs_noise():
    q, _ = _law(5, 3.0)
    torch.manual_seed(9)
    z = q.rsample((4,))
    torch.manual_seed(9)
    assert torch.equal(z, q.rsample_from(torch.randn(4, 6, dtype=torch.float64)))


@pytest.mark.parametrize("dim", [4, 20])
def test_autocast_changes_nothing(dim):
    q, generator = _law(dim, 30.0, torch.float32)
    k = q.concentration.clone().requires_grad_()
    mu = q.mean_direction.clone().requires_grad_()
    noise = _noise(64, q, generator, torch.float32)

    def run():
        p = VonMisesFisher(mu, k)
        z, log_ratio = p.draw_from(noise)
        other = VonMisesFisher(-mu, 2 * k)
        out = [z, log_ratio, p.log_ratio(z), p.entropy(), p.variance, kl_divergence(p, other)]
        grads = torch.autograd.grad(sum(x.square().sum() for x in out), (mu, k))
        return [*out, *grads]

    plain = run()
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(plain, run(), strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    # Inputs in bfloat16 are taken at their own values, and results rounded to bfloat16.
    short = VonMisesFisher(q.mean_direction.bfloat16(), q.concentration.bfloat16())
    z, log_ratio = short.draw_from(noise)
    assert z.dtype == log_ratio.dtype == torch.bfloat16
    wide = VonMisesFisher(F.normalize(short.mean_direction.float(), dim=0), torch.tensor(30.0))
    torch.testing.assert_close(z.float(), wide.rsample_from(noise), atol=8e-3, rtol=0)


@pytest.mark.parametrize("dim", [2, 5, 300])
def test_the_largest_concentrations_keep_their_digits(dim):
    # kappa and Phi are 1e8 both: their difference would lose 1e-8, and cosines near 1 as much.
    q, generator = _law(dim, 1e8)
    with mpmath.workdps(40):
        k, nu = mpmath.mpf(10) ** 8, mpmath.mpf(dim) / 2 - 1

        def phi(c):
            return mpmath.log(mpmath.gamma(nu + 1) * (2 / c) ** nu * mpmath.besseli(nu, c))

        mean = mpmath.besseli(nu + 1, k) / mpmath.besseli(nu, k)
        peak, across = float(k - phi(k)), float(mean / k)
        kl = float(k / 4 * mean - phi(k) + phi(k * 3 / 4))
    assert q.log_ratio(q.mean_direction).item() == pytest.approx(peak, rel=1e-13)
    noise = _noise(200, q, generator)
    z, log_ratio = q.draw_from(noise)
    # z is off by its rounding, ε d^1/2; and v by that of |eps|^2 - <eps, mu>^2, cancelled in part.
    apart, eps = (z - q.mean_direction).norm(dim=-1), noise[:, 1:]
    square = eps.square().sum(-1)
    cancelled = square / (square - (eps @ q.mean_direction).square())
    rounding = 1e8 * apart * (dim**0.5 + apart * dim * cancelled) * 4.5e-16 + 1e-12
    assert ((q.log_ratio(z) - log_ratio).abs() < rounding).all()
    assert rounding.median() < 3e-9
    along = q.mean_direction.square()
    expected = across * (1 - along) + q.cosine_variance * along
    torch.testing.assert_close(q.variance, expected, rtol=1e-12, atol=0)
    less = VonMisesFisher(q.mean_direction, q.concentration * 0.75)
    assert kl_divergence(q, less).item() == pytest.approx(kl, rel=1e-11)
    assert kl_divergence(q, q).abs() < 1e-12 * peak


WHOLE = [torch.tensor(20), torch.tensor(20, dtype=torch.uint8), 20, np.int64(20), 20.0]


@pytest.mark.parametrize("kappa", WHOLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_whole_numbers_are_no_other_law(kappa, dtype):
    mu = torch.tensor([1.0, 0.0, 0.0, 0.0])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # Whole numbers of a mean direction count as well: it is an axis.
    q = VonMisesFisher(mu.to(dtype), kappa, validate_args=True)
    expected = VonMisesFisher(mu.to(wide), torch.tensor(20.0, dtype=wide))
    uniform = HypersphericalUniform(4)
    numbers = [
        (kl_divergence(q, uniform), kl_divergence(expected, uniform)),
        (kl_divergence(uniform, q), kl_divergence(uniform, expected)),
        (kl_divergence(q, q.expand(())), torch.zeros((), dtype=wide)),
        (q.entropy(), expected.entropy()),
        (q.mean_resultant_length, expected.mean_resultant_length),
        (q.cosine_variance, expected.cosine_variance),
        (q.log_prob(torch.tensor([0, -1, 0, 0])), expected.log_prob(mu.to(wide).roll(1).neg())),
    ]
    for got, right in numbers:
        assert got.dtype == wide
        torch.testing.assert_close(got, right, rtol=0, atol=1e-14)
    assert kl_divergence(q, uniform).item() == pytest.approx(3.258385442132396, rel=2e-7)
    noise = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    own = torch.bfloat16 if dtype == torch.bfloat16 else wide
    for got, right in (
        (q.rsample_from(noise), expected.rsample_from(noise)),
        (q.variance, expected.variance),
    ):
        torch.testing.assert_close(got, right.to(own), rtol=0, atol=0)


def test_numbers_of_python_have_the_precision_of_the_mean_direction():
    mu = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    q, expected = (VonMisesFisher(mu, k) for k in (0.1, torch.tensor(0.1, dtype=torch.float64)))
    assert torch.equal(q.entropy(), expected.entropy())
    # 257 is no number of bfloat16.
    short = VonMisesFisher(mu.bfloat16(), torch.tensor(257))
    assert short.concentration.item() == 257
    assert VonMisesFisher(mu, [1, 20]).entropy().shape == (2,)


def test_points_of_whole_numbers_have_a_density():
    uniform, z = HypersphericalUniform(3, validate_args=True), torch.tensor([0, 0, -1])
    assert uniform.log_prob(z).item() == pytest.approx(-math.log(4 * math.pi))
    with pytest.raises(ValueError, match="support"):
        uniform.log_prob(torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"dtype is torch\.int64: draws need a floating one"):
        HypersphericalUniform(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="got complex numbers"):
        VonMisesFisher(torch.eye(3)[0], torch.tensor(1j))


BAD = [
    (-3, "concentration has an entry -3.0"),
    (torch.tensor([4, -3]), "concentration has an entry -3.0"),
    (torch.tensor(-1.0), "concentration has an entry -1.0"),
    (torch.tensor([1.0, math.nan]), "concentration has an entry nan"),
    (torch.tensor([[math.inf], [1.0]]), "concentration has an entry inf"),
]


@pytest.mark.parametrize(("kappa", "message"), BAD)
def test_bad_concentrations_are_refused(kappa, message):
    mu = torch.tensor([1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=message):
        VonMisesFisher(mu, kappa, validate_args=True)
    VonMisesFisher(mu, kappa, validate_args=False)


def test_other_mistakes_are_refused():
    one = torch.ones(())
    with pytest.raises(ValueError, match="vector of length 2: normalise it"):
        VonMisesFisher(torch.tensor([2.0, 0.0]), one, validate_args=True)
    with pytest.raises(ValueError, match="vector of length nan"):
        VonMisesFisher(torch.tensor([math.nan, 0.0]), one, validate_args=True)
    with pytest.raises(ValueError, match=r"mean_direction has shape \(1,\)"):
        VonMisesFisher(torch.ones(1), one)
    with pytest.raises(ValueError, match="dim is 1"):
        HypersphericalUniform(1)
    with pytest.raises(ValueError, match="dimensions 3 and 4"):
        kl_divergence(HypersphericalUniform(3), HypersphericalUniform(4))
    q = VonMisesFisher(torch.tensor([1.0, 0.0]), one, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.tensor([0.5, 0.5]))


def test_copies_and_pickles():
    q, generator = _law(11, 40.0)
    noise = _noise(8, q, generator)
    expected = q.rsample_from(noise)
    for other in (copy.deepcopy(q), pickle.loads(pickle.dumps(q))):
        assert torch.equal(other.rsample_from(noise), expected)


@pytest.mark.slow
def test_compiles_as_one_graph():
    in_new_process(_compile)


def _everything(raw: Tensor, k: Tensor, noise: Tensor) -> list[Tensor]:
    q = VonMisesFisher(F.normalize(raw, dim=-1), k)
    z, log_ratio = q.draw_from(noise)
    other = VonMisesFisher(F.normalize(raw.flip(0), dim=-1), 2 * k)
    uniform = HypersphericalUniform(raw.shape[-1])
    kls = [kl_divergence(q, uniform), kl_divergence(q, other)]
    # Another dimension, whose tables are others.
    few = VonMisesFisher(F.normalize(raw[:, :5], dim=-1), k)
    kls += [kl_divergence(few, HypersphericalUniform(5)), few.rsample_from(noise[..., :6])]
    return [z, log_ratio, q.log_ratio(z), q.log_prob(z), q.entropy(), q.variance, *kls]


def _compile():
    torch.set_num_threads(1)
    compiled = torch.compile(_everything, fullgraph=True, dynamic=False, backend="aot_eager")
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(3, 20, generator=generator).requires_grad_()
    k = torch.tensor([0.5, 5.0, 80.0]).requires_grad_()
    noise = torch.randn(2, 3, 21, generator=generator)
    got, expected = compiled(raw, k, noise), _everything(raw, k, noise)
    torch.testing.assert_close(got, expected)
    grads = [torch.autograd.grad(sum(x.sum() for x in out), (raw, k)) for out in (got, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)
