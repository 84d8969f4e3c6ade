"""A von Mises-Fisher draw from normal numbers, with the gradient written out (arXiv 1804.00891)."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.layers.precision import wide
from zoo.vae.sphere.quantile import quantile

_LOW_DIM = 16  # below it vectors are float64 too: |eps - <eps, mu> mu| may lose digits


class Draw(torch.autograd.Function):
    """(mu, kappa, noise) -> (z, 1 - w), z = w mu + sech(a) v, with few passes over the vectors.

    v = (eps - <eps, mu> mu) / |.| is uniform on the unit sphere orthogonal to mu, and sech(a) =
    sqrt(1 - w^2). Shapes (*batch, d), (*batch), (*samples, *batch, d + 1); the first of the d + 1
    normal numbers gives w, the others are eps. 1 - w is float64, with all digits where w rounds to
    1, and z of the dtype of mu.

    The gradient in mu lacks its part along mu, which a normalised vector does not have.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, mean_direction: Tensor, concentration: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The draw, and what its cosine lacks to 1."""
        dim = mean_direction.shape[-1]
        scalar = wide(noise.device)
        a, slope = quantile(dim, concentration.to(scalar), noise[..., 0].to(scalar))
        w, sine = a.tanh(), a.cosh().reciprocal()
        mu, eps = _vectors(mean_direction, noise)
        buffer = eps * mu
        along = buffer.sum(-1).to(scalar)
        square = torch.linalg.vector_norm(eps, dim=-1).to(scalar).square() - along.square()
        across = square.clamp(min=torch.finfo(scalar).tiny).sqrt()
        # z = w mu + sech(a) (eps - <eps, mu> mu) / |.|
        of_eps = sine / across
        of_mu = w - of_eps * along
        z = torch.mul(mu, of_mu.to(mu.dtype).unsqueeze(-1), out=buffer)
        z.addcmul_(eps, of_eps.to(mu.dtype).unsqueeze(-1))
        ctx.save_for_backward(mean_direction, noise, w, sine, slope, along, across)
        ctx.dtypes = concentration.dtype, concentration.shape
        return z.to(mean_direction.dtype), 2 / (2 * a).exp().add(1)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[no-untyped-def]
        ctx, grad_z: Tensor, grad_drop: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients in mu and kappa; the noise gets none."""
        mean_direction, noise, w, sine, slope, along, across = ctx.saved_tensors
        mu, eps = _vectors(mean_direction, noise)
        g = grad_z.to(mu.dtype)
        buffer = g * mu
        g_mu = buffer.sum(-1).to(w.dtype)
        g_eps = torch.mul(g, eps, out=buffer).sum(-1).to(w.dtype)
        g_v = (g_eps - along * g_mu) / across
        grad_mu = grad_kappa = None
        if ctx.needs_input_grad[0]:
            turn = sine / across
            of_g = w - turn * along
            of_eps = turn * (along / across * g_v - g_mu)
            grad_mu = torch.mul(g, of_g.to(mu.dtype).unsqueeze(-1), out=buffer)
            grad_mu.addcmul_(eps, of_eps.to(mu.dtype).unsqueeze(-1))
            grad_mu = grad_mu.sum_to_size(mean_direction.shape).to(mean_direction.dtype)
        if ctx.needs_input_grad[1]:
            # dw/da = sech^2 a, d sech(a)/da = -w sech a
            dtype, shape = ctx.dtypes
            grad_kappa = sine * (sine * (g_mu - grad_drop) - w * g_v) * slope
            grad_kappa = grad_kappa.sum_to_size(shape).to(dtype)
        return grad_mu, grad_kappa, None


def _vectors(mean_direction: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The mean direction and the noise around it, in the dtype they are computed in."""
    if mean_direction.shape[-1] >= _LOW_DIM:
        dtype = torch.promote_types(mean_direction.dtype, torch.float32)
        return mean_direction.to(dtype), noise[..., 1:].to(dtype)
    mu = mean_direction.to(wide(noise.device))
    return mu / torch.linalg.vector_norm(mu, dim=-1, keepdim=True), noise[..., 1:].to(mu.dtype)
