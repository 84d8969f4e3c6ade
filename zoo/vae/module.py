"""VAE as a LightningModule: Gaussian codes."""

from zoo.ranges import (
    AtLeastTwo,
    BelowOne,
    Count,
    InsideUnit,
    NonNegative,
    Positive,
    Whole,
    check_ranges,
)
from zoo.vae.batch_norm import BatchNormMode, GaussianHead, StdForm
from zoo.vae.bounds import Objective
from zoo.vae.image_vae import Binarization, ImageVAE
from zoo.vae.likelihoods import LikelihoodName, Scale
from zoo.vae.networks import Activation, Init, NetworkName


class VAE(ImageVAE):
    """Variational autoencoder of images with a Gaussian posterior and prior.

    arXiv 1312.6114; importance weighted arXiv 1509.00519; density estimation
    kexue.fm/archives/8791; batch normalisation of the posterior arXiv 2004.12585 and
    kexue.fm/archives/7381.

    Args:
        image_size: Side of a square image, or [height, width].
        channels: Channels of an image: 1 for grey, 3 for RGB.
        levels: Grey levels of the data: 256 for 8-bit images.
        latent_dim: Dimensions d of the code z.
        network: mlp, or conv: residual convolutions.
        hidden: Units of the layers between image and code; of conv only the last number is used.
        activation: relu, tanh, gelu or silu.
        width: Channels of conv at multiplier 1.
        multipliers: Channels of each resolution of conv in units of width; each halves the sides.
        blocks: Residual blocks of conv a resolution.
        init: default: PyTorch's; glorot: uniform in the Glorot bound, biases 0.
        data_bias: Begin with the output that draws the training set's mean image; for bernoulli.
        posterior_std: How the encoder says a standard deviation: exp or softplus of its output.
        batch_norm: Of the posterior, so that the KL cannot vanish. paper: of the means, with a
            fixed scale; su: of means and deviations, as in the post.
        bn_gamma: Scale of paper: the KL of a batch is at least latent_dim * bn_gamma^2 / 2.
        bn_tau: Of su, in (0, 1): the KL of a batch is at least latent_dim * bn_tau / 2.
        bn_eps: Added to a batch's variance.
        likelihood: bernoulli, gaussian or discretized_logistic.
        scale: Of gaussian and discretized_logistic: a number (images are in [-1, 1]), learned (one
            a channel) or predicted (one a pixel and channel).
        binarization: Of images for bernoulli. dynamic: white with the grey level's probability,
            anew every time in training; threshold: white from 1/2 on; none: grey levels as they
            are, whose cross-entropy is no likelihood.
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
        free_bits: Nats of each dimension's KL that cost nothing (arXiv 1606.04934).
        lr: Learning rate of Adam.
        adam_betas: Decay of the mean and of the mean square of the gradient.
        adam_eps: Added to the root of the mean square.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given.
        lr_stages: Multiplier of lr from each of these steps on; 1 before the first.
        compile: Compile encoder and decoder when a Trainer runs them.
        log_density_samples: Importance samples for each image in a test.
        widen: Factor on the posterior's standard deviation as the proposal of a test.

    Raises:
        ValueError: A value is out of range, or has no effect beside the others.
    """

    def __init__(
        self,
        *,
        image_size: Count | list[Count] = 28,
        channels: Count = 1,
        levels: AtLeastTwo = 256,
        latent_dim: Count = 50,
        network: NetworkName = "mlp",
        hidden: list[Count] = [256, 128],  # noqa: B006  # never changed; a list, as YAML has it
        activation: Activation = "relu",
        width: Count = 32,
        multipliers: list[Count] = [1, 2, 4],  # noqa: B006
        blocks: Whole = 1,
        init: Init = "default",
        data_bias: bool = False,
        posterior_std: StdForm = "exp",
        batch_norm: BatchNormMode = "none",
        bn_gamma: Positive = 0.6,
        bn_tau: InsideUnit = 0.5,
        bn_eps: NonNegative = 1e-5,
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
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        if latent_dim < 1 or not hidden:
            raise ValueError(
                f"latent_dim={latent_dim}, hidden={hidden}: need at least one dimension and layer"
            )
        self.latent_dim = latent_dim
        self.head = GaussianHead(
            hidden[-1],
            latent_dim,
            std=posterior_std,
            batch_norm=batch_norm,
            gamma=bn_gamma,
            tau=bn_tau,
            eps=bn_eps,
        )
        self.build()
