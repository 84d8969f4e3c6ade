"""What VAE and VMFVAE share: networks, bound and training. They differ in posterior and prior."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.data.protocols import HasImages, HasReferenceImages, datamodule_of
from zoo.layers.counter_rng import uniform
from zoo.ranges import AtLeastTwo, BelowOne, Count, NonNegative, Positive, Whole, check_ranges
from zoo.training.fit_of_data import (
    check_given,
    check_images,
    check_numbers,
    floats_of,
    image_shape,
)
from zoo.training.log import is_logging_step, log_every
from zoo.training.module import Module
from zoo.training.optim import may_fuse
from zoo.vae.annealing import BetaSchedule, free_bits
from zoo.vae.batch_norm import GaussianHead
from zoo.vae.bounds import Objective, bound, elbo, iwae, path_only
from zoo.vae.density.refinement import STEPS
from zoo.vae.likelihoods import Bernoulli, LikelihoodName, Scale, make_likelihood
from zoo.vae.networks import Activation, Init, NetworkName, draw_the_mean, glorot, make_networks
from zoo.vae.optimizer import multipliers as learning_rates
from zoo.vae.posteriors import Posterior
from zoo.vae.spherical_head import SphericalHead

Binarization = Literal["none", "dynamic", "threshold"]

EVALUATION_SEED = 8791  # of noise and binarisation: an item meets the same in every epoch and run
_PIXELS = 2**31  # the stream of an item's binarisation; the draws of its code are 0, 1, 2, ...


class Terms(NamedTuple):
    """What a bound is made of, for K draws of each of B data."""

    posterior: Posterior
    z: Tensor
    """(K, B, d)."""
    log_likelihood: Tensor
    """log p(x|z), (K, B)."""
    log_ratio: Tensor | None
    """log q(z|x) - log p(z), (K, B); None where the closed-form KL stands for it."""


class ImageVAE(Module):
    """A variational autoencoder of images, but for the law of its codes.

    A subclass hands these arguments on, and then calls `build` with the head that makes posteriors
    of features. Numbers are in nats, summed over an image's pixels; what is logged as a bound is
    one, whatever was optimised.

    Args:
        image_size: Side of a square image, or [height, width].
        channels: Channels of an image: 1 for grey, 3 for RGB.
        levels: Grey levels of the data: 256 for 8-bit images.
        network: mlp, or conv: residual convolutions.
        hidden: Units of the layers between image and code; of conv only the last number is used.
        activation: relu, tanh, gelu or silu.
        width: Channels of conv at multiplier 1.
        multipliers: Channels of each resolution of conv in units of width; each halves the sides.
        blocks: Residual blocks of conv a resolution.
        init: default: PyTorch's; glorot: uniform in the Glorot bound, biases 0.
        data_bias: Begin with the output that draws the training set's mean image; for bernoulli.
        likelihood: bernoulli, gaussian or discretized_logistic.
        scale: Scale of gaussian and discretized_logistic: a number (images are in [-1, 1]), learned
            (one a channel) or predicted (one a pixel and channel).
        binarization: How images are binarised for bernoulli. dynamic: white with the grey level's
            probability, anew every time in training; threshold: white from 1/2 on; none: grey
            levels as they are, whose cross-entropy is no likelihood.
        dequantize: Add uniform noise of a level's width, for gaussian: then bits/dim are a bound.
        objective: elbo; iwae (importance weighted); dreg: iwae with the doubly reparameterised
            gradient; stl: without the score of the posterior.
        samples: Codes K drawn for each image in a bound.
        analytic_kl: Take the KL of elbo in closed form; else from the draws, as in the post.
        beta: Weight of the KL in what is optimised; 1 is the bound.
        beta_start: Weight at the beginning of a warm-up.
        warmup_steps: Optimiser steps in which the weight rises in a line to beta; 0 for none.
        cycle_steps: Begin the warm-up again so often (arXiv 1903.10145); 0 for never.
        cycles: Warm-ups, if cycle_steps is given.
        free_bits: Nats of the KL of each dimension, or of each sphere, that cost nothing (arXiv
            1606.04934).
        lr: Learning rate of Adam.
        adam_betas: Decay of the mean and of the mean square of the gradient.
        adam_eps: Added to the root of the mean square.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given.
        lr_stages: Multiplier of lr from each of these steps on; 1 before the first.
        compile: Compile encoder and decoder when a Trainer runs them.
        log_density_samples: Importance samples for each image in a test.
        widen: A test's proposal has so many times the posterior's standard deviation, or on spheres
            its kappa / widen^2, which is about so many times the width.
        refine: Newton steps from the posterior to a test's proposal for each image; 0 to draw from
            the posterior itself, as published protocols do.
    """

    head: GaussianHead | SphericalHead
    latent_dim: int

    def __init__(
        self,
        *,
        image_size: Count | list[Count] = 28,
        channels: Count = 1,
        levels: AtLeastTwo = 256,
        network: NetworkName = "mlp",
        hidden: list[Count] = [256, 128],  # noqa: B006  # never changed; a list, as YAML has it
        activation: Activation = "relu",
        width: Count = 32,
        multipliers: list[Count] = [1, 2, 4],  # noqa: B006
        blocks: Whole = 1,
        init: Init = "default",
        data_bias: bool = False,
        likelihood: LikelihoodName = "bernoulli",
        scale: Scale = "learned",
        binarization: Binarization = "none",
        dequantize: bool = False,
        objective: Objective = "elbo",
        samples: Count = 1,
        analytic_kl: bool = True,
        beta: NonNegative = 1.0,
        beta_start: NonNegative = 0.0,
        warmup_steps: Whole = 0,
        cycle_steps: Whole = 0,
        cycles: Count = 4,
        free_bits: NonNegative = 0.0,
        lr: Positive = 1e-3,
        adam_betas: list[BelowOne] = [0.9, 0.999],  # noqa: B006
        adam_eps: NonNegative = 1e-8,
        lr_schedule: dict[int, NonNegative] | None = None,
        lr_stages: dict[int, NonNegative] | None = None,
        compile: bool = False,
        log_density_samples: Count = 5000,
        widen: Positive = 1.0,
        refine: Whole = STEPS,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        self._check()
        self.shape = image_shape(channels, image_size)
        self.dimensions = math.prod(self.shape)
        self.features = hidden[-1]
        self.binarization, self.dequantize, self.levels = binarization, dequantize, int(levels)
        self.objective, self.samples, self.free_bits = objective, int(samples), free_bits
        self.closed_form = objective == "elbo" and analytic_kl
        self.beta = BetaSchedule(beta, beta_start, warmup_steps, cycle_steps, cycles)
        # `lr` by its name, which Lightning's LearningRateFinder looks for and changes.
        self.lr, self.adam_betas, self.adam_eps = lr, tuple(adam_betas), adam_eps
        self.schedules = lr_schedule, lr_stages
        learning_rates(*self.schedules)  # refuses what is none; a function is not pickled
        self.data_bias, self.compiles, self.compiled = data_bias, compile, False
        self.log_density_samples, self.widen, self.refine = log_density_samples, widen, refine

    def _check(self) -> None:
        """Raises ValueError where values contradict each other."""
        given = self.hparams
        if not given["hidden"]:
            raise ValueError("hidden=[]: give the units of at least one layer")
        if len(given["adam_betas"]) != 2:
            raise ValueError(f"adam_betas={given['adam_betas']}: give two numbers")
        if given["free_bits"] and not (given["objective"] == "elbo" and given["analytic_kl"]):
            raise ValueError("free_bits needs the KL by dimension: objective=elbo with analytic_kl")
        if given["likelihood"] != "bernoulli":
            for name, off in (("binarization", "none"), ("data_bias", False)):
                if given[name] != off:
                    raise ValueError(f"{name}={given[name]} is for likelihood=bernoulli only")
        if given["dequantize"] and given["likelihood"] != "gaussian":
            raise ValueError(
                "dequantize=true: for likelihood=gaussian, whose density is of real numbers"
            )

    def build(self, head: GaussianHead | SphericalHead) -> None:
        """The second half of the constructor: head, likelihood and networks, in this order."""
        given = self.hparams
        self.head, self.latent_dim, self.noise_dim = head, sum(head.blocks), head.noise_dim
        name, scale = given["likelihood"], given["scale"]
        self.likelihood = make_likelihood(name, self.shape[0], scale, self.levels)
        sizes = ("hidden", "activation", "width", "multipliers", "blocks")
        self.encoder, self.decoder = make_networks(
            given["network"],
            self.shape,
            self.likelihood.output_channels,
            self.latent_dim,
            **{name: given[name] for name in sizes},
        )
        if given["init"] == "glorot":
            glorot(self)

    # The model

    def posterior(self, x: Tensor) -> Posterior:
        """q(z|x) of images (B, C, H, W) in [-1, 1] that went through `prepare`."""
        if isinstance(self.likelihood, Bernoulli):
            x = 0.5 * x + 0.5  # binary images are 0 and 1 to a network, as in the papers' code
        return self.head(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's output (..., C', H, W) for codes (..., d)."""
        output: Tensor = self.decoder(z.flatten(0, -2))
        return output.reshape(*z.shape[:-1], *output.shape[1:])

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """The log likelihood log p(x|z) of images (B, C, H, W) and codes (K, B, d), (K, B)."""
        return self.likelihood.log_prob(x, self.decode(z))

    def prepare(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Images as the likelihood has them: binarised, dequantised, or as they are.

        Args:
            x: Images in [-1, 1], (B, C, H, W).
            index: Numbers of the images, int64 (B,): their noise is then a function of them, the
                same in every epoch and run. Drawn from the global stream if not given.
        """
        x = x.to(torch.promote_types(next(self.parameters()).dtype, torch.float32))
        if self.binarization == "threshold":
            return _black_or_white(x >= 0, x.dtype)
        if self.binarization == "none" and not self.dequantize:
            return x
        if index is None:
            noise = torch.rand_like(x)
        else:
            noise = uniform(EVALUATION_SEED, index, _PIXELS, self.shape)
        if self.binarization == "dynamic":
            return _black_or_white(2 * noise - 1 < x, x.dtype)  # white with probability (x + 1) / 2
        half = 1 / (self.levels - 1)
        return x + half * (2 * noise - 1)

    def _placed(self, x: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images and their numbers, 0, 1, ... if not given, on the model's device."""
        check_given(x, own=self.shape)
        index = torch.arange(len(x)) if index is None else index
        return x.to(next(self.parameters())), index.to(self.device)

    # Training

    def terms(self, x: Tensor, noise: Tensor) -> Terms:
        """Draws of prepared images (B, C, H, W) by normal noise (K, B, d), and their weights."""
        q = self.posterior(x)
        if self.closed_form:
            z = q.rsample(noise)
            return Terms(q, z, self.log_likelihood(x, z), None)
        z, log_ratio = q.draw(noise, path_only=path_only(self.objective))
        return Terms(q, z, self.log_likelihood(x, z), log_ratio)

    def bound(self, terms: Terms) -> Tensor:
        """The bound of log p(x) that the objective is of, (B,): no weights, no free bits."""
        if terms.log_ratio is None:
            return terms.log_likelihood.mean(0) - terms.posterior.kl()
        log_weights = terms.log_likelihood - terms.log_ratio
        return elbo(log_weights) if self.objective == "elbo" else iwae(log_weights)

    def loss(self, terms: Terms, beta: float = 1.0) -> Tensor:
        """What is minimised: minus the bound with beta times the KL, or with free bits."""
        if terms.log_ratio is not None:
            log_weights = terms.log_likelihood - beta * terms.log_ratio
            return -bound(self.objective, log_weights, terms.z).mean()
        if self.free_bits:
            kl = free_bits(terms.posterior.kl_per_dimension(), self.free_bits)
        else:
            kl = terms.posterior.kl().mean()
        return beta * kl - terms.log_likelihood.mean()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch (images, ...); logs the bound beside it."""
        x = self.prepare(self._images(batch))
        count = (self.samples, len(x), self.noise_dim)
        terms = self.terms(x, torch.randn(count, device=x.device))
        beta = self.beta(self.global_step if self._trainer is not None else 0)
        loss = self.loss(terms, beta)
        if is_logging_step(self):
            with torch.no_grad():
                values: dict[str, Tensor | float] = {
                    "train/objective": loss,
                    "train/bound": self.bound(terms).mean(),
                    "train/reconstruction": terms.log_likelihood.mean(),
                    "train/kl": terms.posterior.kl().mean(),
                    "train/beta": beta,
                }
            log_every(self, values)
        return loss

    def configure_optimizers(self) -> Any:
        """Adam over all parameters, with the schedule by step."""
        optimizer = torch.optim.Adam(
            self.parameters(),
            lr=self.lr,
            betas=self.adam_betas,  # type: ignore[arg-type]
            eps=self.adam_eps,
            fused=may_fuse(self),
        )
        rate = learning_rates(*self.schedules)
        if rate is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def setup(self, stage: str) -> None:
        """Compares the data with the model, sets the output's bias, and compiles."""
        data = datamodule_of(self.trainer)
        if isinstance(data, HasImages):
            check_images((data.channels, *data.size), self.shape)
        check_numbers(data, levels=self.levels)
        # A checkpoint to go on from is loaded after this.
        if stage == "fit" and self.data_bias and isinstance(data, HasReferenceImages):
            mean = data.reference_images("train").float().mean(0) / 255
            draw_the_mean(self.decoder, mean.to(self.device))
        if self.compiles and not self.compiled:
            for network in (self.encoder, self.decoder):
                network.compile(dynamic=False)
            self.compiled = True

    def _images(self, batch: Sequence[Tensor]) -> Tensor:
        x = floats_of(batch)
        check_images(tuple(x.shape[1:]), self.shape)
        return x


def _black_or_white(white: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels of 1 where white and -1 elsewhere, in half the time of `torch.where` on a CPU."""
    return 2 * white.to(dtype) - 1
