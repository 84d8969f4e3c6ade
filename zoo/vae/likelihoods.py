"""Likelihoods p(x|z) of images in [-1, 1], from what the decoder says about each pixel.

Each takes the decoder's output (..., B, C', H, W) for images (B, C, H, W) and gives log p(x|z) in
nats, summed over an image's pixels and channels, (..., B).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.ranges import Positive
from zoo.vae.posteriors import full_precision

LikelihoodName = Literal["bernoulli", "gaussian", "discretized_logistic"]
Scale = Positive | Literal["learned", "predicted"]

_LOG_SCALE = (-7.0, 7.0)  # keeps a predicted scale where float32 can tell neighbouring levels apart


def _sum(x: Tensor) -> Tensor:
    return x.flatten(-3).sum(-1)


class Bernoulli(nn.Module):
    """Black or white pixels; the output is the logit of white (arXiv 1312.6114, appendix C.1).

    Values between are taken linearly, as Keras' binary cross-entropy does: useful, and the post's
    choice (kexue.fm/archives/8404), but then not the logarithm of a probability.

    >>> likelihood, logits = Bernoulli(1), torch.zeros(2, 1, 3, 3)
    >>> likelihood.log_prob(torch.ones(2, 1, 3, 3), logits)  # -9 log 2
    tensor([-6.2383, -6.2383])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output_channels = channels

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """The sum of v logit - log(1 + e^logit) with v = (x + 1) / 2 in [0, 1]."""
        logits = full_precision(output)
        v = torch.add(0.5, x, alpha=0.5)
        return -_sum(F.softplus(logits).addcmul_(v, logits, value=-1))

    def mean(self, output: Tensor) -> Tensor:
        """E[x|z] in [-1, 1]: the probability of white as a grey level."""
        return 2 * full_precision(output).sigmoid() - 1

    def draw(self, output: Tensor, uniform: Tensor) -> Tensor:
        """Black or white by uniform numbers in [0, 1)."""
        white = uniform < full_precision(output).sigmoid()
        return 2 * white.to(uniform.dtype) - 1


class _Located(nn.Module):
    """A mean in [-1, 1] a pixel and a scale.

    It is a number; learned: one a channel; predicted: the decoder's, one a pixel and channel.
    """

    def __init__(self, channels: int, scale: Scale) -> None:
        super().__init__()
        if isinstance(scale, str):
            if scale not in ("learned", "predicted"):
                raise ValueError(f"scale={scale!r}: give a number, learned or predicted")
        elif not scale > 0:
            raise ValueError(f"scale={scale}: must be positive")
        self.scale = scale
        self.output_channels = 2 * channels if scale == "predicted" else channels
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.full((channels, 1, 1), math.log(0.2)))

    def _parameters_of(self, output: Tensor) -> tuple[Tensor, Tensor]:
        output = full_precision(output)
        if self.scale == "predicted":
            mean, log_scale = output.chunk(2, dim=-3)
            return mean, log_scale.clamp(*_LOG_SCALE)
        if self.scale == "learned":
            return output, self.log_scale.to(output.dtype)
        assert isinstance(self.scale, int | float)
        return output, output.new_full((), math.log(self.scale))

    def mean(self, output: Tensor) -> Tensor:
        """The mean, clamped to [-1, 1]."""
        return self._parameters_of(output)[0].clamp(-1, 1)


class Gaussian(_Located):
    """Normal pixels (arXiv 1312.6114, appendix C.2); one learned scale is arXiv 2006.13202.

    A density of real numbers: of grey levels it is one only if they are dequantised.

    >>> likelihood, x = Gaussian(1, scale=1.0), torch.zeros(2, 1, 3, 3)
    >>> likelihood.log_prob(x, x)  # -9 log(2 pi) / 2
    tensor([-8.2704, -8.2704])
    """

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Sum of -((x - mean) / scale)^2 / 2 - log scale - log(2 pi) / 2."""
        mean, log_scale = self._parameters_of(output)
        standard = (x - mean) * (-log_scale).exp()
        return _sum(-0.5 * (standard.square() + math.log(2 * math.pi)) - log_scale)

    def draw(self, output: Tensor, uniform: Tensor) -> Tensor:
        """By the inverse of the normal's distribution function."""
        mean, log_scale = self._parameters_of(output)
        uniform = uniform.clamp(1e-7, 1 - 1e-7)
        x: Tensor = mean + log_scale.exp() * torch.special.ndtri(uniform)
        return x.clamp(-1, 1)


class DiscretizedLogistic(_Located):
    """Grey levels by a logistic law cut into their intervals (arXiv 1606.04934, appendix A).

    The lowest level has all that is below it, the highest all that is above.

    >>> likelihood = DiscretizedLogistic(1, scale=1.0, levels=2)
    >>> x = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    >>> likelihood.log_prob(x, torch.zeros(2, 1, 1, 1)).exp()  # two levels, and a mean between them
    tensor([0.5000, 0.5000])
    """

    def __init__(self, channels: int, scale: Scale, levels: int) -> None:
        super().__init__(channels, scale)
        self.levels = levels

    def log_prob(self, x: Tensor, output: Tensor) -> Tensor:
        """Sum of log[S(a) - S(b)] at the ends a, b of a level's interval, S the sigmoid.

        S(a) - S(b) = S(a) S(-b) (1 - e^(b-a)) loses nothing where both are near 0 or near 1.
        """
        mean, log_scale = self._parameters_of(output)
        half = 1 / (self.levels - 1)
        narrow = (-log_scale).exp()
        a, b = (x + half - mean) * narrow, (x - half - mean) * narrow
        below, above = F.logsigmoid(a), F.logsigmoid(-b)
        inner = below + above + torch.log(-torch.expm1(-2 * half * narrow))
        # Levels are 2 half apart, so these find the ends whatever their rounding.
        log_p = torch.where(x < half - 1, below, torch.where(x > 1 - half, above, inner))
        return _sum(log_p)

    def draw(self, output: Tensor, uniform: Tensor) -> Tensor:
        """By the inverse of the logistic distribution function, to the nearest level."""
        mean, log_scale = self._parameters_of(output)
        uniform = uniform.clamp(1e-7, 1 - 1e-7)
        x = (mean + log_scale.exp() * (uniform.log() - (-uniform).log1p())).clamp(-1, 1)
        level = ((x + 1) / 2 * (self.levels - 1)).round()
        return level * (2 / (self.levels - 1)) - 1


Likelihood = Bernoulli | Gaussian | DiscretizedLogistic


def make_likelihood(name: LikelihoodName, channels: int, scale: Scale, levels: int) -> Likelihood:
    """The likelihood of a name."""
    if name == "bernoulli":
        return Bernoulli(channels)
    if name == "gaussian":
        return Gaussian(channels, scale)
    if name == "discretized_logistic":
        return DiscretizedLogistic(channels, scale, levels)
    raise ValueError(f"likelihood={name!r}: choose bernoulli, gaussian or discretized_logistic")
