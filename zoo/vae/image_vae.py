"""What VAE and VMFVAE share: bound, training, evaluation. They differ in posterior and prior."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from zoo.layers.counter_rng import uniform
from zoo.loading import class_path
from zoo.training.log import is_logging_step, log_every
from zoo.training.optim import clip, may_fuse
from zoo.vae import evaluation, generation
from zoo.vae.annealing import BetaSchedule, free_bits
from zoo.vae.batch_norm import GaussianHead
from zoo.vae.bounds import bound, elbo, iwae, path_only
from zoo.vae.evaluation import EVALUATION_SEED
from zoo.vae.likelihoods import make_likelihood
from zoo.vae.networks import draw_the_mean, glorot, make_networks
from zoo.vae.optimizer import multipliers
from zoo.vae.posteriors import Posterior
from zoo.vae.sphere.head import SphericalHead

Binarization = Literal["none", "dynamic", "threshold"]

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


class ImageVAE(LightningModule):
    """The steps of a variational autoencoder of images.

    A subclass saves its hyper-parameters, makes `head` (features to posteriors) and calls `build`.
    Numbers are in nats, summed over an image's pixels; what is logged as a bound is one, whatever
    was optimised.
    """

    head: GaussianHead | SphericalHead
    latent_dim: int

    def build(self) -> None:
        """Makes networks, likelihood and schedules of the hyper-parameters, and checks them.

        Raises:
            ValueError: A value is out of range, or has no effect beside the others.
        """
        own = self.hparams
        _check(own)
        size = own["image_size"]
        size = [size, size] if isinstance(size, int) else list(size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"image_size={own['image_size']}: give a side, or [height, width]")
        self.shape = (int(own["channels"]), int(size[0]), int(size[1]))
        self.dimensions = self.shape[0] * self.shape[1] * self.shape[2]
        self.beta = BetaSchedule(
            own["beta"], own["beta_start"], own["warmup_steps"], own["cycle_steps"], own["cycles"]
        )
        self.rate = multipliers(own["lr_schedule"], own["lr_stages"])
        self.likelihood = make_likelihood(
            own["likelihood"], self.shape[0], own["scale"], own["levels"]
        )
        self.encoder, self.decoder = make_networks(
            own["network"],
            self.shape,
            self.likelihood.output_channels,
            self.latent_dim,
            hidden=own["hidden"],
            activation=own["activation"],
            width=own["width"],
            multipliers=own["multipliers"],
            blocks=own["blocks"],
        )
        if own["init"] == "glorot":
            glorot(self)
        self.compiled = False
        self.report = evaluation.Report(self)

    # The model

    def posterior(self, x: Tensor) -> Posterior:
        """q(z|x) of images (B, C, H, W) in [-1, 1] that went through `prepare`."""
        if self.hparams["likelihood"] == "bernoulli":
            x = 0.5 * x + 0.5  # binary images are 0 and 1 to a network, as in the papers' code
        posterior: Posterior = self.head(self.encoder(x))
        return posterior

    def decode(self, z: Tensor) -> Tensor:
        """The decoder's output (..., C', H, W) for codes (..., d)."""
        output: Tensor = self.decoder(z.flatten(0, -2))
        return output.reshape(*z.shape[:-1], *output.shape[1:])

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """The log likelihood log p(x|z) of images (B, C, H, W) and codes (K, B, d), (K, B)."""
        return self.likelihood.log_prob(x, self.decode(z))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions in [-1, 1] of images (B, C, H, W), by the centres of their posteriors."""
        return self.reconstruct(x)

    def prepare(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Images as the likelihood has them: binarised, dequantised, or as they are.

        Args:
            x: In [-1, 1], (B, C, H, W).
            index: Numbers of the images, int64 (B,): their noise is then a function of them, the
                same in every epoch and run. Drawn from the global stream if not given.
        """
        x = x.float()
        binarization = self.hparams["binarization"]
        if binarization == "threshold":
            return _black_or_white(x >= 0)
        if binarization == "none" and not self.hparams["dequantize"]:
            return x
        if index is None:
            noise = torch.rand_like(x)
        else:
            noise = uniform(EVALUATION_SEED, index, _PIXELS, self.shape)
        if binarization == "dynamic":
            return _black_or_white(2 * noise - 1 < x)  # white with probability (x + 1) / 2
        half = 1 / (int(self.hparams["levels"]) - 1)
        return x + half * (2 * noise - 1)

    # Training

    def terms(self, x: Tensor, noise: Tensor) -> Terms:
        """Draws and their weights.

        Args:
            x: Prepared images, (B, C, H, W).
            noise: Standard normal, (K, B, head.noise_dim).
        """
        q = self.posterior(x)
        if self._closed_form:
            z = q.rsample(noise)
            return Terms(q, z, self.log_likelihood(x, z), None)
        z, log_ratio = q.draw(noise, path_only=path_only(self.hparams["objective"]))
        return Terms(q, z, self.log_likelihood(x, z), log_ratio)

    @property
    def _closed_form(self) -> bool:
        return self.hparams["objective"] == "elbo" and bool(self.hparams["analytic_kl"])

    def bound(self, terms: Terms) -> Tensor:
        """The bound of log p(x) that the objective is of, (B,): no weights, no free bits."""
        if terms.log_ratio is None:
            return terms.log_likelihood.mean(0) - terms.posterior.kl()
        log_weights = terms.log_likelihood - terms.log_ratio
        return elbo(log_weights) if self.hparams["objective"] == "elbo" else iwae(log_weights)

    def loss(self, terms: Terms, beta: float = 1.0) -> Tensor:
        """What is minimised: minus the bound with beta times the KL, or with free bits."""
        if terms.log_ratio is not None:
            log_weights = terms.log_likelihood - beta * terms.log_ratio
            return -bound(self.hparams["objective"], log_weights, terms.z).mean()
        if self.hparams["free_bits"]:
            kl = free_bits(terms.posterior.kl_per_dimension(), self.hparams["free_bits"])
        else:
            kl = terms.posterior.kl().mean()
        return beta * kl - terms.log_likelihood.mean()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch (images, ...); logs the bound beside it."""
        x = self.prepare(self._images(batch))
        count = (int(self.hparams["samples"]), len(x), self.noise_dim)
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

    @property
    def noise_dim(self) -> int:
        """Standard normal numbers that a draw from a posterior takes."""
        return self.head.noise_dim

    def configure_optimizers(self) -> Any:
        """Adam over all parameters, with the schedule by step."""
        optimizer = torch.optim.Adam(
            self.parameters(),
            lr=self.hparams["lr"],
            betas=tuple(self.hparams["adam_betas"]),
            eps=self.hparams["adam_eps"],
            fused=may_fuse(self),
        )
        if self.rate is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips all gradients; Lightning refuses to under bf16 with a fused optimiser."""
        clip(self.parameters(), gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the class, for `zoo.load`."""
        checkpoint["zoo_class"] = class_path(self)

    def setup(self, stage: str) -> None:
        """Compares the data with the model, sets the output's bias, and compiles.

        Raises:
            ValueError: The data has other channels, size or levels.
        """
        data = getattr(self.trainer, "datamodule", None)
        size = tuple(getattr(data, "size", self.shape[1:]))
        self._check_shape((getattr(data, "channels", self.shape[0]), *size))
        levels, own = getattr(data, "levels", None), self.hparams["levels"]
        if levels is not None and levels != own:
            raise ValueError(
                f"the data has levels={levels} but the model {own}: set --model.levels={levels}"
            )
        # A checkpoint to go on from is loaded after this.
        images = getattr(data, "reference_images", None)
        if stage == "fit" and self.hparams["data_bias"] and images is not None:
            mean = images("train").float().mean(0) / 255
            draw_the_mean(self.decoder, mean.to(self.device))
        if self.hparams["compile"] and not self.compiled:
            for network in (self.encoder, self.decoder):
                network.compile(dynamic=False)
            self.compiled = True

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape != self.shape:
            theirs, own = ("x".join(map(str, s)) for s in (shape, self.shape))
            raise ValueError(
                f"images of {theirs} (CxHxW) for a model of {own}: set --model.channels={shape[0]} "
                f"--model.image_size={list(shape[1:])}"
            )

    def _images(self, batch: Sequence[Tensor]) -> Tensor:
        self._check_shape(tuple(batch[0].shape[1:]))
        return batch[0].float()  # whatever precision the Trainer converts its inputs to

    # Evaluation and use

    validation_step = evaluation.validation_step
    on_validation_epoch_end = evaluation.on_validation_epoch_end
    on_test_start = evaluation.on_test_start
    test_step = evaluation.test_step
    on_test_epoch_end = evaluation.on_test_epoch_end
    predict_step = evaluation.predict_step
    on_predict_epoch_end = evaluation.on_predict_epoch_end
    protocol = evaluation.protocol
    arrays = evaluation.arrays
    log_density = evaluation.log_density

    prior_sample = generation.prior_sample
    sample = generation.sample
    images_of = generation.images_of
    encode = generation.encode
    reconstruct = generation.reconstruct
    interpolate = generation.interpolate
    traverse = generation.traverse
    manifold = generation.manifold
    pictures = generation.pictures


def _black_or_white(white: Tensor) -> Tensor:
    """Pixels of 1 where white and -1 elsewhere, in half the time of `torch.where` on a CPU."""
    return 2 * white.float() - 1


def _check(own: Mapping[str, Any]) -> None:
    """Raises ValueError where values contradict each other."""
    choices = {
        "objective": ("elbo", "iwae", "dreg", "stl"),
        "binarization": ("none", "dynamic", "threshold"),
        "init": ("default", "glorot"),
    }
    for name, known in choices.items():
        if own[name] not in known:
            raise ValueError(f"{name}={own[name]!r}: choose {', '.join(known)}")
    for name in ("samples", "log_density_samples", "levels", "channels"):
        if own[name] < 1:
            raise ValueError(f"{name}={own[name]}: must be 1 or more")
    if own["lr"] <= 0 or own["widen"] <= 0 or own["free_bits"] < 0:
        raise ValueError(
            f"lr={own['lr']}, widen={own['widen']}, free_bits={own['free_bits']}: the first two "
            "must be positive, the last 0 or more"
        )
    if len(own["adam_betas"]) != 2:
        raise ValueError(f"adam_betas={own['adam_betas']}: give two numbers")
    if own["free_bits"] and not (own["objective"] == "elbo" and own["analytic_kl"]):
        raise ValueError("free_bits needs the KL by dimension: objective=elbo with analytic_kl")
    if own["likelihood"] != "bernoulli":
        for name, off in (("binarization", "none"), ("data_bias", False)):
            if own[name] != off:
                raise ValueError(f"{name}={own[name]} is for likelihood=bernoulli only")
    if own["dequantize"] and own["likelihood"] != "gaussian":
        raise ValueError(
            "dequantize=true: for likelihood=gaussian, whose density is of real numbers"
        )
