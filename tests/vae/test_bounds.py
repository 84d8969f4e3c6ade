import math

import pytest
import torch
from torch.distributions import Normal

from zoo.vae.bounds import bound, dreg, elbo, iwae, path_only
from zoo.vae.posteriors import GaussianPosterior


class Linear:
    """p(z) = N(0, I), p(x|z) = N(z v, s^2): everything in closed form, one datum a row of x."""

    def __init__(self, x, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.x = x.double()
        self.v = torch.randn(x.shape[1], generator=g, dtype=torch.float64).requires_grad_()
        self.mean = torch.randn(len(x), 1, generator=g, dtype=torch.float64).requires_grad_()
        self.log_std = (-0.3 + torch.zeros(len(x), 1, dtype=torch.float64)).requires_grad_()

    @property
    def parameters(self):
        return [self.v, self.mean, self.log_std]

    def posterior(self):
        return GaussianPosterior(self.mean, self.log_std)

    def log_likelihood(self, z):
        return Normal(z * self.v, 0.7).log_prob(self.x).sum(-1)

    def log_weights(self, noise, path=False):
        z, ratio = self.posterior().draw(noise, path_only=path)
        return self.log_likelihood(z) - ratio, z

    def log_density(self):
        d = len(self.v)
        cov = torch.outer(self.v, self.v) + 0.49 * torch.eye(d, dtype=torch.float64)
        zero = torch.zeros(d, dtype=torch.float64)
        return torch.distributions.MultivariateNormal(zero, cov).log_prob(self.x)

    def set_exact_posterior(self):
        precision = 1 + (self.v @ self.v).detach() / 0.49
        self.mean.data = (self.x @ self.v / 0.49 / precision)[:, None].detach()
        self.log_std.data.fill_(-0.5 * precision.log().item())


def data(n=3):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(1))


def noise(k, b, seed=2):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(k, b, 1, generator=g, dtype=torch.float64)


def test_bounds_are_their_definitions():
    log_w = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(elbo(log_w), log_w.sum(0) / 5)
    torch.testing.assert_close(iwae(log_w), log_w.exp().mean(0).log())
    torch.testing.assert_close(iwae(log_w + 1000), log_w.exp().mean(0).log() + 1000)
    for name in ("dreg", "stl", "iwae"):
        torch.testing.assert_close(bound(name, log_w, torch.zeros(5, 3, 1)), iwae(log_w))


def test_every_bound_is_exact_with_the_exact_posterior():
    model = Linear(data())
    model.set_exact_posterior()
    for name in ("elbo", "iwae", "dreg", "stl"):
        log_w, z = model.log_weights(noise(4, 3), path_only(name))
        torch.testing.assert_close(bound(name, log_w, z), model.log_density())


def test_iwae_grows_with_k_towards_the_density():
    """On a fixed model, in expectation."""
    model = Linear(data(2))
    log_w, _ = model.log_weights(noise(40_000, 2))
    means = [iwae(log_w.reshape(k, -1, 2)).mean(0).detach() for k in (1, 4, 16)]
    assert (means[0] < means[1]).all()
    assert (means[1] < means[2]).all()
    assert (means[2] < model.log_density()).all()
    torch.testing.assert_close(means[0], elbo(log_w))


def naive(model, eps, estimator):
    """The gradient as the paper's sum over samples, each sample's terms by a graph of its own."""
    K, B = eps.shape[:2]
    with torch.no_grad():
        weights = model.log_weights(eps)[0].softmax(0)
    grads = [torch.zeros_like(p) for p in model.parameters]
    for k in range(K):
        for b in range(B):
            z = (model.mean + model.log_std.exp() * eps[k])[b]
            still = z.detach().requires_grad_()
            log_p = Normal(still * model.v, 0.7).log_prob(model.x[b]).sum()
            log_prior = Normal(0, 1).log_prob(still).sum()
            q = Normal(model.mean[b].detach(), model.log_std[b].exp().detach())
            log_w = log_p + log_prior - q.log_prob(still).sum()
            dz, dv = torch.autograd.grad(log_w, [still, model.v])
            w = weights[k, b]
            path = w**2 if estimator == "dreg" else w
            for i, g in enumerate(torch.autograd.grad(z, [model.mean, model.log_std], dz)):
                grads[i + 1] += path * g
            grads[0] += w * dv
    return grads


@pytest.mark.parametrize("estimator", ["dreg", "stl"])
def test_estimators_equal_the_papers_sums(estimator):
    model, eps = Linear(data()), noise(6, 3)
    log_w, z = model.log_weights(eps, path=True)
    got = torch.autograd.grad(bound(estimator, log_w, z).sum(), model.parameters)
    for a, b in zip(got, naive(model, eps, estimator), strict=True):
        torch.testing.assert_close(a, b)


def test_iwae_gradient_is_burdas_weighted_sum():
    model, eps = Linear(data()), noise(6, 3)
    log_w, _ = model.log_weights(eps)
    got = torch.autograd.grad(iwae(log_w).sum(), model.parameters, retain_graph=True)
    weights = log_w.detach().softmax(0)
    expected = torch.autograd.grad((weights * log_w).sum(), model.parameters)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_dreg_has_the_expectation_of_iwae_and_less_noise():
    x, K, repeats = data(1), 4, 30_000
    model = Linear(x.expand(repeats, -1))
    for p in (model.mean, model.log_std):  # the same posterior for all repeats
        p.data = p.data[:1].expand(repeats, 1).clone()
    eps = noise(K, repeats)
    found = {}
    for name in ("iwae", "dreg"):
        log_w, z = model.log_weights(eps, path_only(name))
        found[name] = torch.autograd.grad(bound(name, log_w, z).sum(), [model.mean, model.log_std])
    for plain, double in zip(found["iwae"], found["dreg"], strict=True):
        error = ((plain.var() + double.var()) / repeats) ** 0.5
        assert abs(plain.mean() - double.mean()) < 4 * error
        assert double.var() < plain.var()


def test_elbo_and_its_gradient_are_the_closed_form():
    """log w is quadratic in the noise here, so its mean over the noises 1 and -1 is exact."""
    model = Linear(data(1))
    log_w, _ = model.log_weights(torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None])
    got = torch.autograd.grad(elbo(log_w).sum(), model.parameters)
    m, s2 = model.mean, (2 * model.log_std).exp()
    squares = ((model.x - m * model.v) ** 2).sum(-1) + (s2 * model.v**2).sum(-1)
    log_p = -squares / (2 * 0.49) - 4 * math.log(0.7 * math.sqrt(2 * math.pi))
    closed = log_p - model.posterior().kl()
    torch.testing.assert_close(elbo(log_w), closed)
    for a, b in zip(got, torch.autograd.grad(closed.sum(), model.parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_dreg_of_constant_draws_has_the_decoders_gradient_only():
    model, eps = Linear(data()), noise(3, 3)
    z, ratio = model.posterior().detach().draw(eps)
    value = dreg(model.log_likelihood(z) - ratio, z)
    (dv,) = torch.autograd.grad(value.sum(), [model.v])
    torch.testing.assert_close(dv, naive(model, eps, "dreg")[0])
