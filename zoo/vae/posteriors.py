"""Posteriors q(z|x): draws with their weights, and KL to the prior, behind one small protocol.

The letters are the papers': q(z|x) is the encoder's, p(x|z) the decoder's and p(z) the prior's. The
posts (kexue.fm/archives/8791, 8404) have p and q the other way round.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from zoo.vae.charts import Chart, Flat, Stereographic
from zoo.vae.sphere.bessel import kl_to_uniform
from zoo.vae.von_mises_fisher import VonMisesFisher

Space = Literal["euclidean", "sphere"]


class Posterior(Protocol):
    """A batch of B posteriors over a latent z of d numbers."""

    noise_dim: int
    """Standard normal numbers that a draw takes."""
    space: Space
    """How codes are to be compared: by distance, or by angle."""

    @property
    def center(self) -> Tensor:
        """E[z|x], (B, d)."""
        ...

    @property
    def mode(self) -> Tensor:
        """The likeliest z, (B, d)."""
        ...

    def rsample(self, noise: Tensor) -> Tensor:
        """The draws alone, (K, B, d)."""
        ...

    def draw(self, noise: Tensor, path_only: bool = False) -> tuple[Tensor, Tensor]:
        """Reparameterised draws and their log q(z|x) - log p(z).

        Args:
            noise: Standard normal, (K, B, noise_dim).
            path_only: Give log q(z|x) no gradient in the parameters of q, only the one through z
                (arXiv 1703.09194, 1810.04152); the value is the same.

        Returns:
            z (K, B, d) and log q(z|x) - log p(z), (K, B).
        """
        ...

    def log_ratio(self, z: Tensor) -> Tensor:
        """The log ratio log q(z|x) - log p(z) of z (..., B, d), shape (..., B)."""
        ...

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density of z (..., B, d), shape (..., B); z (N, 1, d) meets all B posteriors."""
        ...

    def kl(self) -> Tensor:
        """KL(q(z|x) || p(z)) in closed form, (B,)."""
        ...

    def kl_per_dimension(self) -> Tensor:
        """Its parts by dimension (B, d), or by sphere (B, spheres)."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """The tensors that describe the posteriors, (B, ...) each, by name."""
        ...

    def detach(self) -> Self:
        """The same posteriors, constant."""
        ...

    def widen(self, factor: float) -> Self:
        """Posteriors that are wider by `factor`, as proposals for density estimation."""
        ...

    def chart(self) -> Chart:
        """Coordinates of the codes around these posteriors."""
        ...


def full_precision(x: Tensor) -> Tensor:
    """float32 where autocast made it less; logarithms of densities need it."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class GaussianPosterior:
    """q(z|x) = N(mean, diag(std^2)) against p(z) = N(0, I) (arXiv 1312.6114).

    >>> GaussianPosterior(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).kl()  # |mean|^2 / 2
    tensor([12.5000])

    Args:
        mean: (B, d).
        log_std: Logarithm of the standard deviation, (B, d).
    """

    space: Space = "euclidean"

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        assert mean.shape == log_std.shape
        self.mean, self.log_std = full_precision(mean), full_precision(log_std)
        self.noise_dim = mean.shape[-1]

    @property
    def center(self) -> Tensor:
        """The mean, (B, d)."""
        return self.mean

    @property
    def mode(self) -> Tensor:
        """The mean, (B, d)."""
        return self.mean

    def rsample(self, noise: Tensor) -> Tensor:
        """Draws z = mean + std noise, (K, B, d)."""
        return torch.addcmul(self.mean, self.log_std.exp(), noise)

    def draw(self, noise: Tensor, path_only: bool = False) -> tuple[Tensor, Tensor]:
        """The draws and their log ratios; see `Posterior.draw`."""
        z = self.rsample(noise)
        if path_only:
            return z, self.detach().log_ratio(z)
        # (z - mean) / std is the noise itself, without the rounding of the way back.
        return z, (0.5 * (z.square() - noise.square()) - self.log_std).sum(-1)

    def log_ratio(self, z: Tensor) -> Tensor:
        """The log ratio log q(z|x) - log p(z) of z (..., B, d), shape (..., B)."""
        standard = (z - self.mean) * (-self.log_std).exp()
        return (0.5 * (z.square() - standard.square()) - self.log_std).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density log q(z|x) of z (..., B, d), shape (..., B)."""
        standard = (z - self.mean) * (-self.log_std).exp()
        constant = 0.5 * math.log(2 * math.pi)
        return (-0.5 * standard.square() - self.log_std - constant).sum(-1)

    def kl(self) -> Tensor:
        """KL to N(0, I), (B,)."""
        return self.kl_per_dimension().sum(-1)

    def kl_per_dimension(self) -> Tensor:
        """(mean^2 + std^2 - 1) / 2 - log std, (B, d) (arXiv 1312.6114, appendix B)."""
        return 0.5 * (self.mean.square() + torch.expm1(2 * self.log_std)) - self.log_std

    def parameters(self) -> dict[str, Tensor]:
        """The standard deviation; the mean is `center`."""
        return {"std": self.log_std.exp()}

    def detach(self) -> "GaussianPosterior":
        """The same posteriors, constant."""
        return GaussianPosterior(self.mean.detach(), self.log_std.detach())

    def widen(self, factor: float) -> "GaussianPosterior":
        """Posteriors of `factor` times the standard deviation."""
        return GaussianPosterior(self.mean, self.log_std + math.log(factor))

    def chart(self) -> Chart:
        """The codes as they are."""
        return Flat(self.mean, self.log_std.exp())


class SphericalPosterior:
    """q(z|x) = vMF(mean direction, kappa) against a uniform p(z) (arXiv 1804.00891).

    z may have several parts, each on a sphere of its own (arXiv 1910.02912); log ratios and KL add
    up over them.

    >>> law = VonMisesFisher(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([10.0]))
    >>> SphericalPosterior([law]).kl()
    tensor([1.9957])

    Args:
        factors: The law of each part, with batch shape (B,).
    """

    space: Space = "sphere"

    def __init__(self, factors: Sequence[VonMisesFisher]) -> None:
        assert factors
        self.factors = list(factors)
        self.noise_dim = sum(q.noise_dim for q in self.factors)

    @property
    def center(self) -> Tensor:
        """A(kappa) times the mean direction of each part, (B, d)."""
        return torch.cat([q.mean for q in self.factors], dim=-1)

    @property
    def mode(self) -> Tensor:
        """The mean direction of each part, (B, d)."""
        return torch.cat([q.mean_direction for q in self.factors], dim=-1)

    @property
    def concentrations(self) -> Tensor:
        """Kappa of each part, (B, spheres)."""
        return torch.stack([q.concentration for q in self.factors], dim=-1)

    def _parts(self, z: Tensor) -> tuple[Tensor, ...]:
        return torch.split(z, [q.dim for q in self.factors], dim=-1)

    def _noises(self, noise: Tensor) -> tuple[Tensor, ...]:
        return torch.split(noise, [q.noise_dim for q in self.factors], dim=-1)

    def rsample(self, noise: Tensor) -> Tensor:
        """Draws, (K, B, d)."""
        noises = self._noises(noise)
        parts = [q.rsample_from(e) for q, e in zip(self.factors, noises, strict=True)]
        return torch.cat(parts, dim=-1)

    def draw(self, noise: Tensor, path_only: bool = False) -> tuple[Tensor, Tensor]:
        """The draws and their log ratios; see `Posterior.draw`."""
        noises = self._noises(noise)
        drawn = [q.draw_from(e) for q, e in zip(self.factors, noises, strict=True)]
        z = torch.cat([part for part, _ in drawn], dim=-1)
        ratio = torch.stack([r for _, r in drawn]).sum(0)
        if path_only:
            # The value before z is rounded, with the gradient through z.
            path = self.detach().log_ratio(z)
            ratio = ratio.detach() + (path - path.detach())
        return z, ratio

    def log_ratio(self, z: Tensor) -> Tensor:
        """The log ratio log q(z|x) - log p(z) of z (..., B, d), shape (..., B)."""
        parts = zip(self.factors, self._parts(z), strict=True)
        return torch.stack([q.log_ratio(part) for q, part in parts]).sum(0)

    def log_prob(self, z: Tensor) -> Tensor:
        """The log density with respect to area, z (..., B, d), shape (..., B)."""
        parts = zip(self.factors, self._parts(z), strict=True)
        return torch.stack([q.log_prob(part) for q, part in parts]).sum(0)

    def kl(self) -> Tensor:
        """KL to the uniform law, (B,)."""
        return self.kl_per_dimension().sum(-1)

    def kl_per_dimension(self) -> Tensor:
        """KL of each part, (B, spheres)."""
        parts = [kl_to_uniform(q.dim, q.concentration) for q in self.factors]
        return torch.stack(parts, dim=-1)

    def parameters(self) -> dict[str, Tensor]:
        """Mean direction and kappa of each part."""
        return {"mean_direction": self.mode, "kappa": self.concentrations}

    def detach(self) -> "SphericalPosterior":
        """The same posteriors, constant."""
        return SphericalPosterior(
            [
                VonMisesFisher(
                    q.mean_direction.detach(), q.concentration.detach(), validate_args=False
                )
                for q in self.factors
            ]
        )

    def widen(self, factor: float) -> "SphericalPosterior":
        """Posteriors of kappa / factor^2: where kappa is large, `factor` times as wide."""
        return SphericalPosterior(
            [
                VonMisesFisher(q.mean_direction, q.concentration / factor**2, validate_args=False)
                for q in self.factors
            ]
        )

    def chart(self) -> Chart:
        """Each sphere, as it is seen from the antipode of the mean direction."""
        return Stereographic(
            [q.mean_direction for q in self.factors], [q.concentration for q in self.factors]
        )
