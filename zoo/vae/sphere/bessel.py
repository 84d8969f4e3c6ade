"""What the von Mises-Fisher law needs of the Bessel functions: KL, entropy, normaliser, moments.

The cosine w = <mu, z> has density e^{kappa w} (1 - w^2)^{(d-3)/2} up to its normaliser on [-1, 1]
(kexue.fm/archives/8404). With Phi = log E[e^{kappa w}] under the uniform law (zero at kappa = 0),

    A = E[w] = Phi' = I_{d/2}(kappa) / I_{d/2-1}(kappa),   A' = Var(w),
    KL(vMF || uniform) = kappa A - Phi,   dKL/dkappa = kappa A'.

Quadrature in a = artanh(w), where the density e^{kappa tanh a} sech(a)^{d-1} is smooth for every d,
gives all three to a few units of the last place. Once per dimension it fills a table of
polynomials in t = kappa / (kappa + c); calls evaluate these in float64 for any input dtype. The
same few operations for every kappa in [0, 1e8]: no switch, no series, no wait for the device. At
1e8 both kappa and Phi leave 8 digits behind the point, and their difference is wanted: 1 - A has a
polynomial of its own, and kappa - Phi = KL + kappa (1 - A) is a sum of positive terms.
"""

import functools
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.layers.precision import wide
from zoo.vae.sphere.tables import floating, table_rows, with_slope

if TYPE_CHECKING:
    import numpy as np

_CELLS, _TERMS = 128, 8  # of the table: intervals of t, coefficients in each


def kl_to_uniform(dim: int, concentration: Tensor) -> Tensor:
    """KL(vMF(kappa) || uniform) in nats, kappa A - Phi.

    Args:
        dim: Ambient dimension d >= 2; the sphere is S^{d-1}.
        concentration: kappa in [0, 1e8], any shape and dtype; not checked here.

    Returns:
        Shape and dtype of `concentration`, float of whole numbers; gradient kappa A'.
    """
    k = concentration.detach()
    kl, _, variance, _ = _moments(dim, k)
    return with_slope(concentration, kl, k.to(variance.dtype) * variance)


def log_partition(dim: int, concentration: Tensor) -> Tensor:
    """Phi = log E[e^{kappa w}] under the uniform law; arguments as for `kl_to_uniform`."""
    k = concentration.detach()
    kl, mean, _, _ = _moments(dim, k)
    return with_slope(concentration, k.to(mean.dtype) * mean - kl, mean)


def log_peak(dim: int, concentration: Tensor) -> Tensor:
    """Log of the highest density over the uniform law's, kappa - Phi; as for `kl_to_uniform`."""
    k = concentration.detach()
    kl, _, _, shortfall = _moments(dim, k)
    return with_slope(concentration, kl + k.to(kl.dtype) * shortfall, shortfall)


def mean_resultant_length(dim: int, concentration: Tensor) -> Tensor:
    """A = E[w], the length of the mean vector, in [0, 1); arguments as for `kl_to_uniform`."""
    _, mean, variance, _ = _moments(dim, concentration.detach())
    return with_slope(concentration, mean, variance)


def mean_shortfall(dim: int, concentration: Tensor) -> Tensor:
    """1 - A with all digits, however large kappa is; arguments as for `kl_to_uniform`."""
    _, _, variance, shortfall = _moments(dim, concentration.detach())
    return with_slope(concentration, shortfall, -variance)


def cosine_variance(dim: int, concentration: Tensor) -> Tensor:
    """A' = Var(w); arguments as for `kl_to_uniform`."""
    # The one function whose gradient autograd finds: that of the table's polynomial.
    concentration = floating(concentration)
    return _moments(dim, concentration)[2].to(concentration.dtype)


def log_normalizer(dim: int, concentration: Tensor) -> Tensor:
    """Log C_d(kappa), the density being C_d(kappa) e^{kappa w}; as for `kl_to_uniform`."""
    k = concentration.detach()
    kl, mean, _, _ = _moments(dim, k)
    value = kl - k.to(mean.dtype) * mean - log_area(dim)
    return with_slope(concentration, value, -mean)


def entropy(dim: int, concentration: Tensor) -> Tensor:
    """Differential entropy in nats, log area - KL; arguments as for `kl_to_uniform`."""
    k = concentration.detach()
    kl, _, variance, _ = _moments(dim, k)
    return with_slope(concentration, log_area(dim) - kl, -k.to(variance.dtype) * variance)


def log_area(dim: int) -> float:
    """Log of the area of S^{d-1}, 2 pi^{d/2} / Gamma(d/2): the entropy of the uniform law."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def solve_concentration(dim: int, kl: float) -> float:
    """The kappa at which KL(vMF || uniform) is `kl`, to rounding.

    Args:
        dim: Ambient dimension d >= 2.
        kl: The KL to reach in nats, positive.

    Raises:
        ValueError: If no kappa up to 1e8 has that KL.
    """
    import numpy as np

    def at(log_kappa: float) -> float:
        return float(quadrature(dim, np.array([math.exp(log_kappa)]))[0][0])

    low, high = math.log(1e-8), math.log(1e8)
    if not at(low) <= kl <= at(high):
        raise ValueError(
            f"no concentration in [1e-8, 1e8] gives a KL of {kl} nats in dimension {dim}: "
            f"choose it between {at(low):.3g} and {at(high):.6g}"
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) < kl else (low, middle)
    return math.exp((low + high) / 2)


def _scale(dim: int) -> float:
    """The c of t = kappa / (kappa + c), with which (n/4) log(1 + (kappa/c)^2) ~ kappa^2 / (2 d)."""
    return math.sqrt((dim - 1) * dim / 2)


def _moments(dim: int, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """KL, A, A' and 1 - A at kappa, in float64."""
    k = k.to(wide(k.device))
    c = _scale(dim)
    above = k + c
    t = k / above
    u = t * _CELLS
    cell = u.to(torch.int64).clamp(max=_CELLS - 1)
    x = (u - cell).mul(2).sub(1).unsqueeze(-1)
    rows = _rows(dim, cell.flatten()).reshape(*k.shape, _TERMS, 4)
    value = rows[..., _TERMS - 1, :]
    for j in range(_TERMS - 2, -1, -1):
        value = torch.addcmul(rows[..., j, :], value, x)
    kl, mean, variance, shortfall = value.unbind(-1)
    kl = torch.log1p((k / c).square()) * ((dim - 1) / 4) + t.square() * kl
    return kl, t * mean, variance / above.square(), shortfall / above


@functools.cache
def coefficients(dim: int) -> "np.ndarray":
    """Polynomials of (KL - (n/4) log(1 + (kappa/c)^2)) / t^2, A / t, A' s^2 and (1 - A) s.

    With s = kappa + c these four are smooth and finite for t in [0, 1], the ends included, so that
    relative accuracy lasts from kappa = 0 to infinity. In a cell of t they interpolate at Chebyshev
    nodes; the nearest singularities, zeros of the Bessel function at imaginary kappa, lie on the
    circle |t - 1/2| = 1/2, many cells away.

    Returns:
        Shape (cells, 8 powers of the place in [-1, 1] in its cell, 4), float64.
    """
    import numpy as np

    x = np.cos((np.arange(_TERMS) + 0.5) * np.pi / _TERMS)
    t = (np.arange(_CELLS)[:, None] + (x + 1) / 2) / _CELLS
    c = _scale(dim)
    k = c * t / (1 - t)
    kl, mean, variance, shortfall = (v.reshape(k.shape) for v in quadrature(dim, k.ravel()))
    lead = (dim - 1) / 4 * np.log1p((k / c) ** 2)
    smooth = [(kl - lead) / t**2, mean / t, variance * (k + c) ** 2, shortfall * (k + c)]
    return np.linalg.inv(np.vander(x, increasing=True)) @ np.stack(smooth, -1)


_rows = table_rows("bessel_rows", coefficients, (_TERMS, 4))


def quadrature(
    dim: int, kappa: "np.ndarray"
) -> "tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]":
    """KL, A, A' and 1 - A by the trapezoidal rule in a = artanh(w), which converges exponentially.

    Args:
        dim: Ambient dimension d >= 2.
        kappa: Positive, shape (N,), float64.
    """
    import numpy as np

    n = dim - 1.0
    # In units of the local width: 10 covers the bell, the rest the tails e^{-n |a|} of low d.
    reach = math.ceil(10 * (10 + 64 / math.sqrt(n)))
    y = np.arange(-reach, reach + 1) / 10
    kl, mean, variance, shortfall = np.empty((4, len(kappa)))

    # Small kappa: sums of positive terms over the uniform law, whose width in a is 1 / sqrt(n).
    small = kappa**2 < dim
    uniform = np.exp(-n * np.log1p(2 * np.sinh(y / 2 / math.sqrt(n)) ** 2))
    total = uniform.sum()
    weights, w = uniform / total, np.tanh(y / math.sqrt(n))
    k = kappa[small, None]
    phi = np.log1p((weights * 2 * np.sinh(k * w / 2) ** 2).sum(-1))
    tilted = weights * np.cosh(k * w)
    norm = tilted.sum(-1)
    mean[small] = (weights * w * np.sinh(k * w)).sum(-1) / norm
    shortfall[small] = 1 - mean[small]
    variance[small] = (tilted * w**2).sum(-1) / norm - mean[small] ** 2
    kl[small] = kappa[small] * mean[small] - phi

    # Otherwise around the mode w* = tanh a*, with a = a* + sigma y and R = sqrt(n^2 + 4 kappa^2).
    k = kappa[~small, None]
    r = np.hypot(n, 2 * k)
    mode, one_minus_mode = 2 * k / (n + r), (n + n * n / (r + 2 * k)) / (n + r)
    sigma = np.sqrt((1 + n / r) / (2 * n))
    h = (1 + mode) / 2 * np.expm1(2 * sigma * y)
    rise = k * one_minus_mode * h / (1 + h)  # kappa (w - w*)
    bend = 2 * np.sinh(sigma * y / 2) ** 2 + mode * np.sinh(sigma * y)  # sech a* / sech a - 1
    p = np.exp(rise - n * np.log1p(bend))
    area = p.sum(-1, keepdims=True)
    p /= area
    shift = (p * rise).sum(-1, keepdims=True)
    mean[~small] = (mode + shift / k)[:, 0]
    shortfall[~small] = (one_minus_mode - shift / k)[:, 0]
    variance[~small] = (p * (rise - shift) ** 2).sum(-1) / k[:, 0] ** 2
    # KL = kappa (A - w*) - n log sech(a*) - log(sigma area) + log(area of the uniform law's bell)
    bell = np.log(area / total) + np.log1p(-2 * k**2 / (r * (r + n))) / 2
    kl[~small] = (n / 2 * np.log1p(2 * k**2 / (n * (n + r))) + shift - bell)[:, 0]
    return kl, mean, variance, shortfall
