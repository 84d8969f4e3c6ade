"""Refined proposals on models whose log p(x) and posterior are known."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from tests.vae.exact_models import cumulant, log_uniform
from zoo.vae.charts import Stereographic
from zoo.vae.density.importance import estimate_log_density, sample_noise
from zoo.vae.density.refinement import RefinedProposal, fit, refine
from zoo.vae.posteriors import GaussianPosterior, SphericalPosterior
from zoo.vae.von_mises_fisher import VonMisesFisher


class Linear(nn.Module):
    """x = W z + s e with a full W, and an encoder that is off and knows no correlations."""

    latent_dim, dimensions, s = 4, 7, 0.5

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.W = torch.randn(self.dimensions, self.latent_dim, generator=g).double()
        self.precision = torch.eye(4).double() + self.W.T @ self.W / self.s**2

    def exact(self, x):
        covariance = torch.linalg.inv(self.precision)
        return x @ self.W @ covariance / self.s**2, covariance

    def posterior(self, x):
        mean, covariance = self.exact(x)
        std = 0.8 * self.precision.diagonal().rsqrt()
        shift = 0.3 * covariance.diagonal().sqrt()
        return GaussianPosterior(mean + shift, std.log().expand_as(mean))

    def log_likelihood(self, x, z):
        error = (x - z @ self.W.T) / self.s
        return (-0.5 * error**2 - math.log(self.s) - 0.5 * math.log(2 * math.pi)).sum(-1)

    def log_p(self, x):
        covariance = self.W @ self.W.T + self.s**2 * torch.eye(self.dimensions).double()
        zero = torch.zeros(self.dimensions).double()
        return torch.distributions.MultivariateNormal(zero, covariance).log_prob(x)

    def data(self, n):
        g = torch.Generator().manual_seed(1)
        z = torch.randn(n, self.latent_dim, generator=g).double()
        return z @ self.W.T + self.s * torch.randn(n, self.dimensions, generator=g).double()


class TwoSpheres(nn.Module):
    """p(x|z) = vMF(z, kappa) on each of S^2 and S^4: p(x) is uniform. The encoder is off."""

    blocks, kappas, dimensions = (3, 5), (30.0, 12.0), 8

    def posterior(self, x):
        factors = []
        for part, kappa in zip(x.split(self.blocks, -1), self.kappas, strict=True):
            away = F.normalize(part + 0.25 * part.roll(1, -1), dim=-1)
            factors.append(VonMisesFisher(away, torch.full(x.shape[:1], 3 * kappa).double()))
        return SphericalPosterior(factors)

    def log_likelihood(self, x, z):
        total = 0.0
        pairs = zip(x.split(self.blocks, -1), z.split(self.blocks, -1), self.kappas, strict=True)
        for a, b, kappa in pairs:
            d = a.shape[-1]
            total = total + log_uniform(d) - cumulant(d, kappa) + kappa * (a * b).sum(-1)
        return total

    def log_p(self, x):
        return x.new_full(x.shape[:-1], sum(log_uniform(d) for d in self.blocks))

    def data(self, n):
        g = torch.Generator().manual_seed(1)
        parts = [F.normalize(torch.randn(n, d, generator=g).double(), dim=-1) for d in self.blocks]
        return torch.cat(parts, -1)


def test_a_chart_is_a_bijection_with_the_area_that_it_says():
    g = torch.Generator().manual_seed(0)
    modes = [F.normalize(torch.randn(2, d, generator=g).double(), dim=-1) for d in (3, 4)]
    modes[0][0] = torch.tensor([0.0, 0.0, -1.0])  # where mirrors are ill defined for a wrong sign
    chart = Stereographic(modes, [torch.ones(2), torch.ones(2)])
    u = 2 * torch.randn(6, 2, 5, generator=g).double()
    z, log_prior = chart.codes(u)
    for part in (z[..., :3], z[..., 3:]):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(6, 2).double())
    torch.testing.assert_close(chart.coordinates(z), u)
    torch.testing.assert_close(chart.codes(chart.mean)[0], torch.cat(modes, -1))
    J = torch.autograd.functional.jacobian(
        lambda v: chart.codes(v.expand(1, 2, 5))[0][0, 0], u[0, 0]
    )
    log_area = 0.5 * torch.logdet(J.T @ J)
    expected = log_area + log_uniform(3) + log_uniform(4)
    torch.testing.assert_close(log_prior[0, 0], expected)


def test_one_step_finds_the_exact_posterior_of_a_linear_model():
    model = Linear()
    x = model.data(6)
    q = model.posterior(x)
    mean, factor = fit(model, x, q, q.chart(), steps=1, chunk=3)
    exact, covariance = model.exact(x)
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(factor @ factor.mT, covariance.expand(6, 4, 4), rtol=0, atol=1e-9)


@pytest.mark.parametrize("model", [Linear(), TwoSpheres()], ids=["linear", "spheres"])
def test_the_mean_weight_is_unbiased(model):
    """Over 1,000 repetitions, each with noise of its own: within 4 standard errors."""
    x = model.data(1).expand(1000, -1)
    options = {"samples": 20, "refine": 3, "seed": 5}
    estimate = estimate_log_density(model, x, torch.arange(1000), **options)
    ratio = (estimate.log_density - model.log_p(x)).exp()
    error = ratio.std() / math.sqrt(1000)
    assert error < 0.01
    assert abs(ratio.mean() - 1) < 4 * error


@pytest.mark.parametrize("model", [Linear(), TwoSpheres()], ids=["linear", "spheres"])
def test_refined_weights_are_reliable_where_the_encoders_are_not(model):
    x, index = model.data(30), torch.arange(30)
    plain = estimate_log_density(model, x, index, samples=500)
    fine = estimate_log_density(model, x, index, samples=500, refine=3)
    exact = model.log_p(x)
    assert (plain.pareto_k > 0.7).double().mean() > 0.5
    assert (fine.pareto_k < 0.7).all()
    rms = [(e.log_density - exact).square().mean().sqrt() for e in (plain, fine)]
    assert rms[1] < rms[0] / 3
    assert 0.7 < ((fine.log_density - exact) / fine.standard_error).std() < 1.4


def test_the_law_is_what_is_drawn_from():
    """The mean of p(z) / q(z) over draws z of q is 1."""
    model = TwoSpheres()
    x = model.data(1)
    q = refine(model, x, model.posterior(x).widen(8.0), steps=0, chunk=9)
    n = 40_000
    z, log_ratio = q.draw(sample_noise(1, torch.arange(1), 0, n, q.noise_dim).double())
    weights = (-log_ratio[:, 0]).exp()
    assert abs(weights.mean() - 1) < 4 * weights.std() / math.sqrt(n)
    assert weights.std() / math.sqrt(n) < 0.03
    torch.testing.assert_close(q.log_ratio(z), log_ratio)


def test_neither_batch_nor_chunk_matter():
    model = Linear()
    x, index = model.data(6), torch.arange(6)
    whole = estimate_log_density(model, x, index, samples=60, refine=3)
    again = estimate_log_density(model, x, index, samples=60, refine=3, chunk=1)
    part = estimate_log_density(model, x[4:], index[4:], samples=60, refine=3)
    for a, b, c in zip(whole, again, part, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(a[4:], c, rtol=1e-9, atol=1e-9)


class Bent(Linear):
    """x = W (z + 0.6 sin 3 z) + s e: what is a mile ahead is of another slope."""

    def log_likelihood(self, x, z):
        return super().log_likelihood(x, z + 0.6 * torch.sin(3 * z))

    def elbo(self, x, mean, factor):
        """By the points of the refinement, but for a constant, (B,)."""
        n = mean.shape[-1]
        e = math.sqrt(n) * torch.cat([torch.eye(n), -torch.eye(n)]).double()
        z = mean + torch.einsum("bij,kj->kbi", factor, e)
        log_joint = self.log_likelihood(x, z) - z.square().sum(-1) / 2
        return log_joint.mean(0) + torch.linalg.slogdet(factor).logabsdet


def test_a_step_that_does_not_help_is_taken_back_and_shortened():
    model = Bent()
    x = model.data(64)
    q = model.posterior(x)
    found = []
    for steps in range(9):
        found.append(model.elbo(x, *fit(model, x, q, q.chart(), steps=steps, chunk=8)))
    found = torch.stack(found)
    gains = found.diff(dim=0)
    assert (gains > -1e-12 * found[1:].abs()).all()  # each step, of each datum
    back = gains[0].abs() < 1e-12 * found[0].abs()  # whose first step did not help
    assert 0 < back.sum() < 64
    assert (found[-1] > found[0] + 0.1)[back].all()


class Broken(Linear):
    """The second datum has values and gradients that are no numbers."""

    def log_likelihood(self, x, z):
        return super().log_likelihood(x, z) * torch.tensor([1.0, math.nan, 1.0])


def test_a_datum_that_cannot_be_improved_keeps_the_encoders_law():
    model = Broken()
    x = model.data(3)
    q = model.posterior(x)
    mean, factor = fit(model, x, q, q.chart(), steps=3, chunk=8)
    torch.testing.assert_close(mean[1], q.mean[1])
    torch.testing.assert_close(factor[1], q.log_std[1].exp().diag())
    torch.testing.assert_close(mean[2], Linear().exact(x)[0][2], rtol=0, atol=1e-9)


def test_the_published_protocol_draws_from_the_posterior():
    torch.manual_seed(0)
    model = zoo.VAE(image_size=8, latent_dim=3, hidden=[16], binarization="threshold")
    x, index = model.prepare(model.sample(4)), torch.arange(4)
    got = model.log_density(x, samples=50, refine=0, prepared=True)
    with torch.no_grad():
        q = model.posterior(x)
        z, log_ratio = q.draw(sample_noise(8791, index, 0, 50, 3))
        weights = model.log_likelihood(x, z).double() - log_ratio.double()
    torch.testing.assert_close(got.log_density, weights.logsumexp(0) - math.log(50))
    assert isinstance(
        refine(model, x, q, steps=1, chunk=5), RefinedProposal
    )  # which takes the posterior as it is
    assert not torch.equal(model.log_density(x, samples=50, prepared=True)[0], got[0])


def test_mistakes():
    model = Linear()
    with pytest.raises(ValueError, match="refine=-1"):
        estimate_log_density(model, model.data(2), torch.arange(2), samples=5, refine=-1)
