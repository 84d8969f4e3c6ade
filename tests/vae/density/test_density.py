import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.vae.exact_models import PPCA, Sphere
from zoo.layers.counter_rng import normal
from zoo.vae.density.importance import LogWeights, default_chunk, estimate_log_density, sample_noise


def estimate(model, n, samples, **options):
    x = model.data(n)
    return estimate_log_density(model, x, torch.arange(n), samples=samples, **options), x


def test_noise_is_the_counter_generators():
    index = torch.tensor([5, 0, 2**40 + 3])
    noise = sample_noise(9, index, 6, 4, 7)
    assert noise.shape == (4, 3, 7)
    for k in range(4):
        assert torch.equal(noise[k], normal(9, index, 6 + k, (7,)))


def naive(log_w):
    """Everything by its definition, from all weights (M, B) at once."""
    log_w = log_w.numpy()
    M = len(log_w)
    w = np.exp(log_w - log_w.max(0))
    value = log_w.max(0) + np.log(w.mean(0))
    error = w.std(0, ddof=1) / w.mean(0) / math.sqrt(M)
    without = [log_w.max(0) + np.log(np.delete(w, i, 0).sum(0) / (M - 1)) for i in range(M)]
    jackknife = M * value - (M - 1) * np.mean(without, 0)
    return value, error, w.sum(0) ** 2 / (w**2).sum(0), jackknife, log_w.mean(0)


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("M", [2, 30, 513, 4000])
def test_stream_is_the_naive_formula(M, scale):
    g = torch.Generator().manual_seed(M)
    log_w = scale * torch.randn(M, 3, generator=g).double() - 1000
    log_w[: M // 2, 1] += 50  # the scale of the sums must follow; M // 2 = 1: one weight rules
    log_w[max(2, M // 3) :, 2] = -math.inf
    weights = LogWeights(M)
    for part in log_w.split(17):
        weights.add(part)
    got = weights.estimate()
    names = ("log_density", "standard_error", "ess", "jackknife", "elbo")
    for name, expected in zip(names, naive(log_w), strict=True):
        ours = getattr(got, name).numpy()
        # The naive jackknife subtracts M L_M and loses M times the rounding.
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-8)


def test_estimate_does_not_depend_on_chunks_and_batches():
    model = PPCA(t=0.9)
    whole, x = estimate(model, 6, 1300, seed=3)
    for chunk in (70, 512, 5000):
        again, _ = estimate(model, 6, 1300, seed=3, chunk=chunk)
        for a, b in zip(whole, again, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    index = torch.tensor([4, 1])
    part = estimate_log_density(model, x[index], index, samples=1300, seed=3)
    for a, b in zip(whole, part, strict=True):
        torch.testing.assert_close(a[index], b, rtol=1e-12, atol=1e-12)
    other, _ = estimate(model, 6, 1300, seed=4)
    assert (other.log_density != whole.log_density).all()


@pytest.mark.parametrize(("samples", "chunk"), [(1, None), (5, 5), (5, 2), (250, 100)])
def test_every_sample_counts_and_no_more(samples, chunk):
    model = PPCA()
    estimate(model, 2, samples, chunk=chunk)
    assert sum(model.calls) == samples
    assert max(model.calls) <= (chunk or samples)
    assert model.encoded == 1


def test_memory_is_bounded_by_default():
    assert default_chunk(100, 784, torch.device("cpu")) * 100 * 784 <= 2**20
    assert default_chunk(10**6, 784, torch.device("cpu")) == 1


def test_exact_posterior_needs_one_sample():
    model = PPCA()
    got, x = estimate(model, 8, 1)
    torch.testing.assert_close(got.log_density, model.log_p(x), rtol=0, atol=1e-9)
    assert torch.equal(got.elbo, got.log_density)
    assert got.standard_error.isnan().all()
    got, x = estimate(model, 8, 200)
    torch.testing.assert_close(got.log_density, model.log_p(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(got.jackknife, model.log_p(x), rtol=0, atol=1e-8)
    torch.testing.assert_close(got.ess, torch.full((8,), 200.0).double())
    assert (got.standard_error < 1e-7).all()
    assert (got.pareto_k == -math.inf).all()


def test_bias_and_standard_error_are_those_of_chi2():
    # chi^2 = 0.327; the bias is -chi^2 / 2M, the variance chi^2 / M.
    model, n, M = PPCA(t=0.9), 5000, 100
    chi2 = model.chi2()
    assert chi2 == pytest.approx(0.327, abs=1e-3)
    got, x = estimate(model, n, M)
    error = got.log_density - model.log_p(x)
    spread = math.sqrt(chi2 / M / n)
    assert abs(error.mean().item() + chi2 / (2 * M)) < 4 * spread
    assert abs(error.exp().mean().item() - 1) < 4 * spread  # p itself is unbiased
    assert error.std().item() == pytest.approx(math.sqrt(chi2 / M), rel=0.06)
    assert got.standard_error.square().mean().item() * M == pytest.approx(chi2, rel=0.06)
    assert (error / got.standard_error).std().item() == pytest.approx(1, abs=0.1)
    # ELBO: log p - KL(N(0, t^2) || N(0, 1)) a dimension.
    kl = 10 * (0.5 * (0.9**2 - 1) - math.log(0.9))
    gap = (model.log_p(x) - got.elbo).mean().item()
    assert gap == pytest.approx(kl, abs=4 * math.sqrt(10 * (1 - 0.81) ** 2 / 2 / (n * M)))


def test_jackknife_removes_the_bias():
    # From -0.0068 to 0.0000 for one dimension, t = 0.8, ten samples.
    model = PPCA(data_dim=3, latent_dim=1, t=0.8)
    n = 40_000
    got, x = estimate(model, n, 10)
    spread = math.sqrt(model.chi2() / 10 / n)
    assert (got.log_density - model.log_p(x)).mean().item() == pytest.approx(
        -0.0068, abs=4 * spread
    )
    assert abs((got.jackknife - model.log_p(x)).mean().item()) < 4 * spread


def test_widening_turns_a_narrow_proposal_into_a_safe_one():
    narrow = PPCA(t=0.6)  # t^2 < 1/2: infinite variance
    got, x = estimate(narrow, 40, 5000, chunk=1000)
    assert (got.pareto_k > 0.7).float().mean() > 0.5
    exact, x = estimate(narrow, 40, 50, widen=1 / 0.6)
    torch.testing.assert_close(exact.log_density, narrow.log_p(x), rtol=0, atol=1e-5)


def test_sphere_with_the_exact_proposal():
    model = Sphere(kappa_q=15.0)
    got, x = estimate(model, 5, 300)
    torch.testing.assert_close(got.log_density, model.log_p(x), rtol=0, atol=1e-9)
    assert (got.standard_error < 1e-7).all()
    assert (got.pareto_k == -math.inf).all()


def test_sphere_with_a_wide_proposal():
    model, n, M = Sphere(kappa_q=8.0), 300, 2000
    chi2 = model.chi2()
    assert chi2 == pytest.approx(1.21, abs=5e-3)
    got, x = estimate(model, n, M)
    error = got.log_density - model.log_p(x)
    assert abs(error.mean().item() + chi2 / (2 * M)) < 4 * math.sqrt(chi2 / M / n)
    assert error.std().item() == pytest.approx(math.sqrt(chi2 / M), rel=0.2)
    assert got.standard_error.square().mean().item() * M == pytest.approx(chi2, rel=0.05)
    assert (got.pareto_k < 0.7).all()


def test_sphere_with_a_narrow_proposal_raises_the_alarm():
    model = Sphere(kappa_q=60.0)
    assert model.chi2() > 1e22
    got, x = estimate(model, 40, 5000, chunk=1000)
    assert (got.pareto_k > 0.7).double().mean() > 0.9
    # What the alarm is for: the estimates are further off than their standard errors say.
    error = got.log_density - model.log_p(x)
    assert (error / got.standard_error).square().mean().sqrt() > 2


def test_sphere_with_a_proposal_on_the_edge():
    # chi^2 is 126.6, of which 5000 draws see a few per cent. The weights are bounded,
    # and the k of what is seen is about 0.6: more than finite variance (0.5) has, and above 0.7
    # for some data only.
    model = Sphere(kappa_q=30.0)
    assert model.chi2() == pytest.approx(126.6, abs=0.1)
    got, _ = estimate(model, 40, 5000, chunk=1000)
    assert (got.standard_error.square() * 5000).median() < 0.2 * model.chi2()
    assert 0.5 < got.pareto_k.median() < 0.7
    assert 0 < (got.pareto_k > 0.7).double().mean() < 0.5


class Dropping(PPCA):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def log_likelihood(self, x, z):
        assert not torch.is_grad_enabled()
        return super().log_likelihood(x, self.drop(z))


def test_in_the_middle_of_a_fit():
    model = Dropping().train()
    got, x = estimate(model, 4, 10)
    torch.testing.assert_close(got.log_density, model.log_p(x), rtol=0, atol=1e-9)
    assert model.training
    assert model.drop.training


@pytest.mark.parametrize(
    ("options", "words"),
    [({"samples": 0}, "samples=0"), ({"chunk": 0}, "chunk=0"), ({"widen": 0.0}, "widen=0.0")],
)
def test_mistakes(options, words):
    model = PPCA()
    with pytest.raises(ValueError, match=words):
        estimate_log_density(model, model.data(2), torch.arange(2), **{"samples": 5, **options})
