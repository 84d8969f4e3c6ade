"""The von Mises-Fisher law and the uniform law on the sphere, as torch Distributions.

Density C_d(kappa) e^{kappa <mu, z>} on S^{d-1} (kexue.fm/archives/8404; Davidson et al., arXiv
1804.00891). A draw is z = w mu + sqrt(1 - w^2) v with w = <mu, z> from `zoo.vae.sphere.quantile`
and v uniform on the unit sphere orthogonal to mu: no rejection, and exact pathwise gradients in mu
and kappa. Numbers of one draw are computed in float64 whatever the dtype, so autocast changes
nothing.
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import register_kl

from zoo.layers.precision import wide
from zoo.vae.sphere import bessel
from zoo.vae.sphere.constraints import concentration_range, refuse_bad, sphere
from zoo.vae.sphere.draw import Draw
from zoo.vae.sphere.tables import floating


class VonMisesFisher(Distribution):
    """vMF(mu, kappa) on S^{d-1}.

    The gradient in mu is right along the sphere; its part along mu, which a normalised vector does
    not have, is arbitrary.

    >>> law = VonMisesFisher(torch.tensor([0.0, 0.0, 1.0]), 10.0)
    >>> law.sample((5,)).norm(dim=-1).allclose(torch.ones(5))
    True
    >>> round(torch.distributions.kl_divergence(law, HypersphericalUniform(3)).item(), 4)
    1.9957

    Args:
        mean_direction: mu, unit vectors, shape (..., d), d >= 2.
        concentration: kappa in [0, 1e8], shape (...), or a number; 0 is the uniform law. KL and
            entropy have its dtype, and that of the mean direction for whole numbers.
        validate_args: Check the values, which waits for the device; as torch's default if None.

    Raises:
        ValueError: If a kappa is negative, infinite or NaN, or a mu is not of length 1.
    """

    arg_constraints = {  # noqa: RUF012  # torch's name
        "mean_direction": sphere,
        "concentration": concentration_range,
    }
    support = sphere
    has_rsample = True

    def __init__(
        self,
        mean_direction: Tensor,
        concentration: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        mean_direction = floating(mean_direction)
        concentration = floating(concentration, mean_direction)
        if mean_direction.ndim < 1 or mean_direction.shape[-1] < 2:
            raise ValueError(
                f"mean_direction has shape {tuple(mean_direction.shape)}: its last dimension is "
                "that of the space around the sphere, 2 or more"
            )
        self.dim = mean_direction.shape[-1]
        shape = _broadcast(mean_direction.shape[:-1], concentration.shape)
        self.mean_direction = mean_direction.expand(*shape, self.dim)
        self.concentration = concentration.expand(shape)
        super().__init__(shape, torch.Size((self.dim,)), validate_args=False)
        self._validate_args = (
            Distribution._validate_args if validate_args is None else validate_args
        )
        if self._validate_args and not torch.compiler.is_compiling():
            refuse_bad(mean_direction, concentration)

    # The density C_d(kappa) e^{kappa <mu, z>}, and its height over the uniform law's

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density with respect to the area of the sphere, in nats."""
        if self._validate_args and not torch.compiler.is_compiling():
            self._validate_sample(value)
        return self.log_ratio(value) - bessel.log_area(self.dim)

    def log_ratio(self, z: Tensor) -> Tensor:
        """Log q(z) - log uniform(z) in nats, for unit vectors z (..., d) that broadcast."""
        z = floating(z, self.mean_direction)
        dtype = torch.promote_types(z.dtype, torch.float32)
        apart = z.to(dtype) - self.mean_direction.to(dtype)
        k = self.concentration.to(wide(z.device))
        # 1 - <mu, z> = |z - mu|^2 / 2, which keeps its digits where kappa is large.
        drop = apart.square().sum(-1).to(k.dtype) / 2
        log_ratio = bessel.log_peak(self.dim, k) - k * drop
        return log_ratio.to(torch.promote_types(z.dtype, self.concentration.dtype))

    # Draws z = w mu + sqrt(1 - w^2) v

    @property
    def noise_dim(self) -> int:
        """Normal numbers that a draw takes: one for the cosine, d for the direction around mu."""
        return self.dim + 1

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws (*sample_shape, ..., d) with pathwise gradients."""
        shape = (*sample_shape, *self.batch_shape, self.noise_dim)
        dtype = torch.promote_types(self.mean_direction.dtype, torch.float32)
        return self.rsample_from(torch.randn(shape, dtype=dtype, device=self.mean_direction.device))

    def rsample_from(self, noise: Tensor) -> Tensor:
        """The draws that standard normal numbers stand for.

        Args:
            noise: Shape (*sample_shape, *batch_shape, d + 1); gets no gradient.

        Returns:
            Unit vectors, shape (*sample_shape, *batch_shape, d), dtype of the mean direction.
        """
        return Draw.apply(self.mean_direction, self.concentration, noise)[0]

    def draw_from(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """`rsample_from` with log q(z) - log uniform(z) of each draw.

        The log-ratio comes from the cosine before z is rounded, and keeps its digits at any kappa.

        Returns:
            z, and the log-ratio in nats, shape (*sample_shape, *batch_shape).
        """
        z, drop = Draw.apply(self.mean_direction, self.concentration, noise)
        k = self.concentration.to(drop.dtype)
        log_ratio = bessel.log_peak(self.dim, k) - k * drop
        return z, log_ratio.to(self.concentration.dtype)

    # Moments, by A(kappa) = E[w]

    @property
    def mean_resultant_length(self) -> Tensor:
        """A = E[<mu, z>], shape (...)."""
        return bessel.mean_resultant_length(self.dim, self.concentration)

    @property
    def cosine_variance(self) -> Tensor:
        """Var(<mu, z>), shape (...)."""
        return bessel.cosine_variance(self.dim, self.concentration)

    @property
    def mean(self) -> Tensor:
        """E[z] = A mu, shape (..., d)."""
        return self.mean_resultant_length.unsqueeze(-1) * self.mean_direction

    @property
    def mode(self) -> Tensor:
        """The mean direction."""
        return self.mean_direction

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate: the diagonal of (A / kappa) (I - mu mu^T) + A' mu mu^T."""
        k = self.concentration.to(wide(self.concentration.device))
        along = bessel.cosine_variance(self.dim, k)
        # A / kappa, from A' = 1 - A^2 - (d - 1) A / kappa, finite at kappa = 0.
        short = bessel.mean_shortfall(self.dim, k)
        across = ((short * (2 - short) - along) / (self.dim - 1)).unsqueeze(-1)
        square = self.mean_direction.to(k.dtype).square()
        return (across + (along.unsqueeze(-1) - across) * square).to(self.mean_direction.dtype)

    def entropy(self) -> Tensor:
        """Differential entropy in nats."""
        return bessel.entropy(self.dim, self.concentration)

    # What torch asks for

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None
    ) -> "VonMisesFisher":
        """The same law with a larger batch shape; see torch."""
        new: VonMisesFisher = self._get_checked_instance(  # type: ignore[no-untyped-call]
            VonMisesFisher, _instance
        )
        shape = torch.Size(batch_shape)
        new.dim = self.dim
        new.mean_direction = self.mean_direction.expand(*shape, self.dim)
        new.concentration = self.concentration.expand(shape)
        Distribution.__init__(new, shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


class HypersphericalUniform(Distribution):
    """The uniform law on S^{d-1}.

    >>> round(HypersphericalUniform(3).entropy().exp().item(), 4)  # the area 4 pi
    12.5664

    Args:
        dim: Ambient dimension d >= 2.
        batch_shape: How many independent copies there are, as a shape.
        dtype: What the draws are of; torch's default if None.
        device: Where the draws are made; torch's default if None.
        validate_args: Check values given to `log_prob`.
    """

    arg_constraints = {}  # noqa: RUF012  # torch's name
    support = sphere
    has_rsample = True

    def __init__(
        self,
        dim: int,
        batch_shape: torch.Size | tuple[int, ...] = (),
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if dim < 2:
            raise ValueError(f"dim is {dim}: give that of the space around the sphere, 2 or more")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}: draws need a floating one, such as torch.float32")
        self.dim, self.dtype, self.device = dim, dtype, device
        super().__init__(torch.Size(batch_shape), torch.Size((dim,)), validate_args=validate_args)

    @property
    def noise_dim(self) -> int:
        """Normal numbers that a draw takes."""
        return self.dim

    @property
    def mean(self) -> Tensor:
        """Zero."""
        return torch.zeros(self._extended_shape(), dtype=self.dtype, device=self.device)

    @property
    def variance(self) -> Tensor:
        """1 / d for each coordinate."""
        return torch.full_like(self.mean, 1 / self.dim)

    def expand(
        self, batch_shape: torch.Size | list[int] | tuple[int, ...], _instance: Any = None
    ) -> "HypersphericalUniform":
        """The same law with a larger batch shape; see torch."""
        new: HypersphericalUniform = self._get_checked_instance(  # type: ignore[no-untyped-call]
            HypersphericalUniform, _instance
        )
        new.dim, new.dtype, new.device = self.dim, self.dtype, self.device
        Distribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws (*sample_shape, *batch_shape, d)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.rsample_from(torch.randn(shape, dtype=self.dtype, device=self.device))

    def rsample_from(self, noise: Tensor) -> Tensor:
        """The draws that standard normal numbers (..., d) stand for."""
        return torch.nn.functional.normalize(noise, dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the log of the sphere's area, shape of the vectors and the batch."""
        if self._validate_args and not torch.compiler.is_compiling():
            self._validate_sample(value)
        shape = _broadcast(value.shape[:-1], self.batch_shape)
        return floating(value).new_full(shape, -bessel.log_area(self.dim))

    def entropy(self) -> Tensor:
        """Log of the sphere's area."""
        return torch.full(
            self.batch_shape, bessel.log_area(self.dim), dtype=self.dtype, device=self.device
        )


Law = VonMisesFisher | HypersphericalUniform


@register_kl(VonMisesFisher, HypersphericalUniform)  # type: ignore[no-untyped-call]
def _kl_vmf_uniform(p: VonMisesFisher, q: HypersphericalUniform) -> Tensor:
    return bessel.kl_to_uniform(p.dim, p.concentration).expand(_shape_of_pair(p, q))


@register_kl(HypersphericalUniform, VonMisesFisher)  # type: ignore[no-untyped-call]
def _kl_uniform_vmf(p: HypersphericalUniform, q: VonMisesFisher) -> Tensor:
    return bessel.log_partition(q.dim, q.concentration).expand(_shape_of_pair(p, q))


@register_kl(VonMisesFisher, VonMisesFisher)  # type: ignore[no-untyped-call]
def _kl_vmf_vmf(p: VonMisesFisher, q: VonMisesFisher) -> Tensor:
    """KL(p || uniform) - E_p[kappa_q <mu_q, z>] + Phi(kappa_q), in terms that keep their digits."""
    _shape_of_pair(p, q)  # or refuses
    kp, kq = (x.concentration.to(wide(x.concentration.device)) for x in (p, q))
    mean, short = bessel.mean_resultant_length(p.dim, kp), bessel.mean_shortfall(p.dim, kp)
    dtype = torch.promote_types(p.mean_direction.dtype, torch.float32)
    apart = (p.mean_direction.to(dtype) - q.mean_direction.to(dtype)).square().sum(-1) / 2
    kl = bessel.kl_to_uniform(p.dim, kp) - bessel.log_peak(p.dim, kq) + kq * short
    return (kl + kq * mean * apart.to(kq.dtype)).to(p.concentration.dtype)


@register_kl(HypersphericalUniform, HypersphericalUniform)  # type: ignore[no-untyped-call]
def _kl_uniform_uniform(p: HypersphericalUniform, q: HypersphericalUniform) -> Tensor:
    return torch.zeros(_shape_of_pair(p, q), dtype=p.dtype, device=p.device)


def _shape_of_pair(p: Law, q: Law) -> torch.Size:
    """The batch shape of a KL.

    Raises:
        ValueError: The laws live in different dimensions.
    """
    if p.dim != q.dim:
        raise ValueError(
            f"KL of laws in dimensions {p.dim} and {q.dim}: give both the same dimension"
        )
    return _broadcast(p.batch_shape, q.batch_shape)


def _broadcast(*shapes: torch.Size) -> torch.Size:
    return torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
