"""VMFVAE as a LightningModule: codes on spheres."""

from zoo.ranges import AtLeastTwo, BelowOne, Count, NonNegative, Positive, Whole, check_ranges
from zoo.vae.bounds import Objective
from zoo.vae.image_vae import Binarization, ImageVAE
from zoo.vae.likelihoods import LikelihoodName, Scale
from zoo.vae.networks import Activation, Init, NetworkName
from zoo.vae.sphere.head import Concentration, SphericalHead


class VMFVAE(ImageVAE):
    """Variational autoencoder of images with a von Mises-Fisher posterior and a uniform prior.

    arXiv 1804.00891 and kexue.fm/archives/8404; products of spheres arXiv 1910.02912.

    Args:
        image_size: Side of a square image, or [height, width].
        channels: Channels of an image: 1 for grey, 3 for RGB.
        levels: Grey levels of the data: 256 for 8-bit images.
        spheres: Numbers of each part of the code: [11] is one sphere in R^11, of which papers that
            count its own dimensions say d = 10; [4, 4] is a product of two in R^4.
        concentration: fixed: kappa is a constant, and with it the KL; target_kl: the constant that
            has this KL; learned: kappa = softplus + 1 of the encoder's output.
        kappa: Of fixed.
        target_kl: Of target_kl: nats on each sphere.
        network: mlp, or conv: residual convolutions.
        hidden: Units of the layers between image and code; of conv only the last number is used.
        activation: relu, tanh, gelu or silu.
        width: Channels of conv at multiplier 1.
        multipliers: Channels of each resolution of conv in units of width; each halves the sides.
        blocks: Residual blocks of conv a resolution.
        init: default: PyTorch's; glorot: uniform in the Glorot bound, biases 0.
        data_bias: Begin with the output that draws the training set's mean image; for bernoulli.
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
        free_bits: Nats of each sphere's KL that cost nothing (arXiv 1606.04934).
        lr: Learning rate of Adam.
        adam_betas: Decay of the mean and of the mean square of the gradient.
        adam_eps: Added to the root of the mean square.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given.
        lr_stages: Multiplier of lr from each of these steps on; 1 before the first.
        compile: Compile encoder and decoder when a Trainer runs them.
        log_density_samples: Importance samples for each image in a test.
        widen: A test's proposal has kappa / widen^2: about so many times the width.

    Raises:
        ValueError: A value is out of range, or has no effect beside the others.
    """

    def __init__(
        self,
        *,
        image_size: Count | list[Count] = 28,
        channels: Count = 1,
        levels: AtLeastTwo = 256,
        spheres: list[AtLeastTwo] = [11],  # noqa: B006  # never changed; a list, as YAML has it
        concentration: Concentration = "learned",
        kappa: Positive | None = None,
        target_kl: Positive | None = None,
        network: NetworkName = "mlp",
        hidden: list[Count] = [256, 128],  # noqa: B006
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
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        if not hidden:
            raise ValueError("hidden=[]: give the units of at least one layer")
        self.head = SphericalHead(
            hidden[-1],
            spheres,
            concentration=concentration,
            kappa=kappa,
            target_kl=target_kl,
        )
        self.latent_dim = sum(spheres)
        self.build()
