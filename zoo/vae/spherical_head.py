"""Features to von Mises-Fisher posteriors, with a fixed or a learned concentration."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.ranges import check_ranges
from zoo.vae.posteriors import Space, SphericalPosterior, full_precision
from zoo.vae.sphere.bessel import solve_concentration
from zoo.vae.von_mises_fisher import VonMisesFisher

Concentration = Literal["fixed", "target_kl", "learned"]


class SphericalHead(nn.Module):
    """Linear maps of features to a vMF posterior on one sphere or on a product of spheres.

    With a fixed kappa the KL is a constant (kexue.fm/archives/8404), so it cannot vanish. Learned,
    kappa = softplus(output) + 1 (arXiv 1804.00891).

    >>> head = SphericalHead(8, [3], concentration="target_kl", target_kl=2.0)
    >>> [round(kl, 3) for kl in head(torch.randn(2, 8)).kl().tolist()]
    [2.0, 2.0]

    Args:
        features: Numbers that come in.
        spheres: Numbers d of each part of the code: 3 for the sphere S^2 in R^3.
        concentration: fixed, target_kl or learned.
        kappa: Concentration on every sphere, for concentration=fixed.
        target_kl: KL on each sphere in nats, from which kappa follows, for concentration=target_kl.

    Raises:
        ValueError: A value is out of range, is missing, or has no effect.
    """

    kappas: Tensor
    space: Space = "sphere"

    def __init__(
        self,
        features: int,
        spheres: list[int],
        *,
        concentration: Concentration = "learned",
        kappa: float | None = None,
        target_kl: float | None = None,
    ) -> None:
        super().__init__()
        if not spheres or min(spheres) < 2:
            raise ValueError(f"spheres={spheres}: each part of a code needs 2 numbers or more")
        check_ranges(SphericalHead, {"concentration": concentration})
        for name, value, mode in (("kappa", kappa, "fixed"), ("target_kl", target_kl, "target_kl")):
            if (value is not None) != (concentration == mode):
                raise ValueError(
                    f"{name}={value} with concentration={concentration}: give it for "
                    f"concentration={mode}, and for that only"
                )
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: must be positive")
        self.blocks = list(spheres)
        self.kl_parts = len(spheres)
        self.noise_dim = sum(d + 1 for d in spheres)
        self.direction = nn.Linear(features, sum(spheres))
        if concentration == "learned":
            self.concentration = nn.Linear(features, len(spheres))
        else:
            values = [
                kappa if target_kl is None else solve_concentration(d, target_kl) for d in spheres
            ]
            kappas = torch.tensor(values, dtype=torch.get_default_dtype())
            self.register_buffer("kappas", kappas, persistent=False)
        self.learned = concentration == "learned"

    def prior(self, noise: Tensor) -> Tensor:
        """Uniform draws (n, d) of normal numbers (n, d)."""
        parts = torch.split(noise, self.blocks, dim=-1)
        return torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1)

    def forward(self, features: Tensor) -> SphericalPosterior:
        """The posteriors of features (B, features)."""
        directions = torch.split(full_precision(self.direction(features)), self.blocks, dim=-1)
        if self.learned:
            kappas = F.softplus(full_precision(self.concentration(features))) + 1
        else:
            kappas = self.kappas.expand(len(features), -1)
        # Checking the values would wait for the device; they are right by construction.
        laws = [
            VonMisesFisher(F.normalize(mu, dim=-1), kappa, validate_args=False)
            for mu, kappa in zip(directions, kappas.unbind(-1), strict=True)
        ]
        return SphericalPosterior(laws)
