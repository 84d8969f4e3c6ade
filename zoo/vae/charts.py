"""Coordinates in which codes are plain vectors, also on spheres: for laws that have a covariance.

A chart is of a batch of posteriors: it begins where the encoder puts a datum, and says what the
prior's density is in its coordinates, so that whoever uses it need not know where codes live.
"""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.vae.sphere.bessel import log_area


class Chart(Protocol):
    """Coordinates u (..., B, n) of codes z (..., B, d), float64."""

    mean: Tensor
    """The encoder's code, (B, n)."""
    deviation: Tensor
    """Its standard deviation in each coordinate, (B, n)."""

    def codes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Codes, and the log density of the prior in the coordinates, (..., B)."""
        ...

    def coordinates(self, z: Tensor) -> Tensor:
        """The inverse of `codes`."""
        ...


def precise(x: Tensor) -> Tensor:
    """float64, on the CPU where the device has none."""
    return (x.cpu() if x.device.type == "mps" else x).double()


class Flat:
    """Codes with the prior N(0, I) as they are.

    Args:
        mean: The encoder's mean, (B, d).
        deviation: Its standard deviation, (B, d).
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        self.mean, self.deviation = precise(mean), precise(deviation)

    def codes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates themselves, and log N(u; 0, I)."""
        return u, -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)

    def coordinates(self, z: Tensor) -> Tensor:
        """The codes themselves."""
        return z


class Stereographic:
    """A product of spheres with the uniform prior, each seen from the antipode of the encoder's mu.

    With mu at the pole, z = (2 u, 1 - |u|^2) / (1 + |u|^2): all of the sphere but one point, and an
    area of (2 / (1 + |u|^2))^n du.

    >>> chart = Stereographic([torch.tensor([[0.6, 0.8]])], [torch.tensor([3.0])])
    >>> chart.codes(chart.mean)[0].float()
    tensor([[0.6000, 0.8000]])

    Args:
        modes: The encoder's mean direction on each sphere, (B, d) with a d of its own each.
        concentrations: Its kappa on each sphere, (B,).
    """

    def __init__(self, modes: list[Tensor], concentrations: list[Tensor]) -> None:
        self.modes = [F.normalize(precise(mode), dim=-1) for mode in modes]
        self.blocks = [mode.shape[-1] for mode in modes]
        flat = [mode[..., :-1] for mode in self.modes]
        self.mean = torch.cat([torch.zeros_like(part) for part in flat], dim=-1)
        # u is half an angle near the pole; without a concentration |u|^2 is 1 in the middle.
        pairs = zip(flat, concentrations, strict=True)
        self.deviation = torch.cat(
            [
                (0.5 / (precise(k)[:, None] + part.shape[-1] / 4).sqrt()).expand_as(part)
                for part, k in pairs
            ],
            dim=-1,
        )

    def codes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors, and the log of the uniform density in the coordinates."""
        codes, log_prior = [], u.new_zeros(())
        parts = torch.split(u, [d - 1 for d in self.blocks], dim=-1)
        for part, mode in zip(parts, self.modes, strict=True):
            square = part.square().sum(-1, keepdim=True)
            codes.append(_turn(torch.cat([2 * part, 1 - square], dim=-1) / (1 + square), mode))
            d = mode.shape[-1]
            scale = math.log(2) - torch.log1p(square[..., 0])
            log_prior = log_prior + (d - 1) * scale - log_area(d)
        return torch.cat(codes, dim=-1), log_prior

    def coordinates(self, z: Tensor) -> Tensor:
        """The inverse of `codes`."""
        parts = []
        for part, mode in zip(torch.split(z, self.blocks, dim=-1), self.modes, strict=True):
            y = _turn(part, mode)
            parts.append(y[..., :-1] / (1 + y[..., -1:]).clamp_min(1e-12))
        return torch.cat(parts, dim=-1)


def _turn(z: Tensor, mode: Tensor) -> Tensor:
    """An isometry, its own inverse, that swaps the last axis and `mode`: a Householder reflection.

    Of the two mirrors between them, with the sign that loses no digits.
    """
    sign = torch.where(mode[..., -1:] < 0, -1.0, 1.0)
    v = mode.clone()
    v[..., -1:] += sign
    return sign * ((z * v).sum(-1, keepdim=True) / (1 + mode[..., -1:].abs()) * v - z)
