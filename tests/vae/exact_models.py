"""Models whose log p(x) has a closed form, in float64, behind the protocol of the estimators."""

import math

import numpy as np
import torch
from scipy.special import gammaln, ive, ndtr
from torch import nn


class Gaussian:
    """N(mean, diag(std^2)) against N(0, I)."""

    space = "euclidean"

    def __init__(self, mean, std):
        self.mean, self.std, self.noise_dim = mean, std, mean.shape[-1]

    def draw(self, noise):
        z = self.mean + self.std * noise
        return z, self.log_ratio(z)

    def log_ratio(self, z):
        standard = (z - self.mean) / self.std
        return (0.5 * z**2 - 0.5 * standard**2 - torch.log(self.std)).sum(-1)

    def widen(self, factor):
        return Gaussian(self.mean, self.std * factor)


class PPCA(nn.Module):
    """x = W z + m + s e with orthogonal columns in W, so that a diagonal posterior is exact.

    The proposal is that posterior with its standard deviation times `t`.
    """

    def __init__(self, data_dim=12, latent_dim=10, t=1.0, s=0.7, seed=0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        Q = torch.linalg.qr(torch.randn(data_dim, data_dim, generator=g).double()).Q
        self.W = Q[:, :latent_dim] * torch.linspace(0.5, 2, latent_dim).double()
        self.m = torch.randn(data_dim, generator=g).double()
        self.s, self.t = s, t
        self.latent_dim, self.dimensions = latent_dim, data_dim
        self.calls = []  # K of every decoding
        self.encoded = 0

    def posterior(self, x):
        self.encoded += 1
        M = (self.W**2).sum(0) + self.s**2
        mean = (x - self.m) @ self.W / M
        return Gaussian(mean, (self.s * self.t / M.sqrt()).expand_as(mean))

    def log_likelihood(self, x, z):
        self.calls.append(len(z))
        error = (x - self.m - z @ self.W.T) / self.s
        return (-0.5 * error**2 - math.log(self.s) - 0.5 * math.log(2 * math.pi)).sum(-1)

    def log_p(self, x):
        covariance = self.W @ self.W.T + self.s**2 * torch.eye(self.dimensions).double()
        return torch.distributions.MultivariateNormal(self.m, covariance).log_prob(x)

    def data(self, n, seed=1):
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(n, self.latent_dim, generator=g).double()
        return self.m + z @ self.W.T + self.s * torch.randn(n, self.dimensions, generator=g)

    def chi2(self):
        """Relative variance of the weights: each dimension is N(0, 1) against N(0, t^2)."""
        return (self.t**2 / math.sqrt(2 * self.t**2 - 1)) ** self.latent_dim - 1


def cumulant(d, kappa):
    """Phi(kappa) = log[C_d(0) / C_d(kappa)]."""
    if kappa == 0:
        return 0.0
    nu = d / 2 - 1
    return gammaln(nu + 1) + nu * math.log(2 / kappa) + math.log(ive(nu, kappa)) + kappa


def log_uniform(d):
    """log C_d(0)."""
    return gammaln(d / 2) - math.log(2) - d / 2 * math.log(math.pi)


def quantiles(d, kappa):
    """A function from a normal score to w, by the numerical CDF in a = atanh w."""
    a = np.linspace(-12, 12, 200_001)
    log_density = kappa * np.tanh(a) - (d - 1) * np.log(np.cosh(a))
    cdf = np.cumsum(np.exp(log_density - log_density.max()))
    cdf = (cdf - 0.5 * np.exp(log_density - log_density.max())) / cdf[-1]
    return lambda x: np.tanh(np.interp(ndtr(x), cdf, a))


class VMF:
    """vMF(mean, kappa) against the uniform law, fixed kappa."""

    space = "sphere"

    def __init__(self, mean, kappa):
        self.mean, self.kappa = mean, kappa
        self.noise_dim = mean.shape[-1] + 1
        self._quantile = quantiles(mean.shape[-1], kappa)

    def draw(self, noise):
        w = torch.from_numpy(self._quantile(noise[..., :1].double().numpy()))
        v = noise[..., 1:] - (noise[..., 1:] * self.mean).sum(-1, keepdim=True) * self.mean
        z = w * self.mean + torch.sqrt(1 - w**2) * v / v.norm(dim=-1, keepdim=True)
        return z, self.log_ratio(z)

    def log_ratio(self, z):
        return self.kappa * (z * self.mean).sum(-1) - cumulant(z.shape[-1], self.kappa)

    def widen(self, factor):
        return VMF(self.mean, self.kappa / factor**2)


class Sphere(nn.Module):
    """p(z) uniform on the sphere, p(x|z) = vMF(z, kappa_x): p(x) is uniform too.

    The posterior is vMF(x, kappa_x); the proposal is vMF(x, kappa_q).
    """

    def __init__(self, d=10, kappa_x=15.0, kappa_q=15.0):
        super().__init__()
        self.latent_dim = self.dimensions = d
        self.kappa_x, self.kappa_q = kappa_x, kappa_q

    def posterior(self, x):
        return VMF(x, self.kappa_q)

    def log_likelihood(self, x, z):
        d = self.dimensions
        return log_uniform(d) - cumulant(d, self.kappa_x) + self.kappa_x * (z * x).sum(-1)

    def log_p(self, x):
        return x.new_full(x.shape[:-1], log_uniform(self.dimensions))

    def data(self, n, seed=1):
        g = torch.Generator().manual_seed(seed)
        return nn.functional.normalize(torch.randn(n, self.dimensions, generator=g).double(), dim=1)

    def chi2(self):
        d, x, q = self.dimensions, self.kappa_x, self.kappa_q
        return math.expm1(cumulant(d, abs(2 * x - q)) + cumulant(d, q) - 2 * cumulant(d, x))
