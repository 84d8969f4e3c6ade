"""The variational bound of an image's log-likelihood, in bits per dimension, without sampling."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.ddpm.diffusion import Diffusion
from zoo.ddpm.gaussian import CDF
from zoo.ddpm.sampler import Predict
from zoo.layers.counter_rng import normal


@dataclass(frozen=True)
class Bound:
    """The parts of the variational bound (arXiv 2006.11239, eq. 5), all in bits/dim.

    Args:
        prior: L_T = KL(q(x_T | x_0) || N(0, I)), shape (B,).
        steps: The decoder's L_0, then L_1 ... L_{T-1} in ascending order, shape (B, T).
    """

    prior: Tensor
    steps: Tensor

    @property
    def decoder(self) -> Tensor:
        """L_0, shape (B,)."""
        return self.steps[:, 0]

    @property
    def rate(self) -> Tensor:
        """All but the decoder's part, shape (B,): what Ho's table 2 calls the rate."""
        return self.prior + self.steps[:, 1:].sum(1)

    @property
    def total(self) -> Tensor:
        """Bits/dim of each datum, shape (B,)."""
        return self.rate + self.decoder


def variational_bound(
    diffusion: Diffusion,
    predict: Predict,
    x0: Tensor,
    *,
    seed: int,
    index: Tensor,
    clip: bool = True,
    cdf: CDF = "tanh",
) -> Bound:
    """One draw of the bound for each datum: an unbiased estimate of the bound itself.

    Args:
        diffusion: The process; a respaced one gives the bound of sampling in as many steps.
        predict: The network, told the step's number in the whole process.
        x0: Images in [-1, 1], shape (B, C, H, W).
        seed: Of the noise.
        index: Numbers of the data, int64, shape (B,): the noise of a datum does not depend on its
            batch.
        clip: Clip the predicted x_0 to [-1, 1], as published evaluations do.
        cdf: See `zoo.ddpm.gaussian.discretized_log_prob`.
    """
    if diffusion.variance == "zero":
        raise ValueError(
            "variance=zero has no likelihood: evaluate it with variance=fixed_small or fixed_large"
        )
    steps = []
    shape = tuple(x0.shape[1:])
    for i, t in enumerate(diffusion.timesteps.unbind()):
        noise = normal(seed, index, t, shape).to(x0.dtype)
        step = torch.full((len(x0),), i, device=x0.device)
        x_t = diffusion.q_sample(x0, step, noise)
        output = predict(x_t, t.expand(len(x0)))
        steps.append(diffusion.bound_term(output, x0, x_t, step, clip=clip, cdf=cdf))
    return Bound(diffusion.prior_term(x0), torch.stack(steps, dim=1))


def histogram_bits_per_dim(train: Tensor, test: Tensor, levels: int) -> float:
    """Bits/dim of coding each pixel by itself, by the training set's frequencies of its levels.

    The baseline that a model of the joint distribution has to beat. Counts start at 1 (Laplace).

    Args:
        train: Training images, uint8 in 0 ... 255, shape (N, C, H, W).
        test: Images to code, uint8, shape (M, C, H, W).
        levels: Number of grey levels, which 0 ... 255 stands for.
    """
    places = train[0].numel()
    start = torch.arange(places) * levels  # one histogram for each pixel position
    counts = torch.ones(places * levels, dtype=torch.long)

    def bins(images: Tensor) -> Tensor:
        return (images.flatten(1).float() * ((levels - 1) / 255)).round().long() + start

    for images in torch.split(train, 256):  # int64 takes 8 times the memory of the images
        counts += torch.bincount(bins(images).flatten(), minlength=places * levels)
    bits = -torch.log2(counts.double() / (len(train) + levels))
    total = math.fsum(bits[bins(images)].sum().item() for images in torch.split(test, 256))
    return total / test.numel()
