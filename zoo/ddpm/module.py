"""DDPM as a LightningModule."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from zoo.data.protocols import HasImages, HasReferenceImages, datamodule_of
from zoo.ddpm.blocks import Attention, ResBlock
from zoo.ddpm.diffusion import (
    Diffusion,
    LossReduction,
    Objective,
    Variance,
    Weighting,
)
from zoo.ddpm.generation import EVALUATION_SEED, Sampling
from zoo.ddpm.likelihood import Bound, histogram_bits_per_dim
from zoo.ddpm.page import Pages
from zoo.ddpm.sampler import SamplerName
from zoo.ddpm.schedule import Chain, Schedule, Spacing, make_betas
from zoo.ddpm.unet import UNet, unet_arguments
from zoo.layers.counter_rng import integers, normal
from zoo.layers.precision import product
from zoo.ranges import (
    AtLeastTwo,
    BelowOne,
    Count,
    Depth,
    Finite,
    InsideUnit,
    NonNegative,
    Positive,
    Range,
    Share,
    Whole,
    check_ranges,
)
from zoo.training.averages import Averages
from zoo.training.fit_of_data import (
    check_images,
    check_numbers,
    classes_of,
    floats_of,
    image_shape,
)
from zoo.training.log import is_logging_step, log_every
from zoo.training.module import by_step, numbers_of
from zoo.training.optim import LAMB, may_fuse, piecewise_linear

OptimizerName = Literal["adam", "lamb"]


class DDPM(Pages):
    """Denoising diffusion model of images in [-1, 1].

    arXiv 2006.11239 and kexue.fm/archives/9119; DDIM arXiv 2010.02502; learned variance and cosine
    schedule arXiv 2102.09672; classifier-free guidance arXiv 2207.12598. The defaults are Ho's
    CIFAR-10 model.

    >>> model = DDPM(image_size=8, width=8, multipliers=[1, 1], groups=4, timesteps=4)
    >>> model.sample(2, steps=2).shape
    torch.Size([2, 3, 8, 8])

    Args:
        image_size: Side of a square image, or [height, width].
        channels: Channels of an image: 1 for grey, 3 for RGB.
        levels: Grey levels of the data, for bits/dim: 256 for 8-bit images.
        timesteps: Number of steps T of the diffusion.
        schedule: Variances of the steps. linear: from beta_start to beta_end; post:
            beta_end * t / T; cosine.
        beta_start: First beta of the linear schedule.
        beta_end: Last beta of the linear and post schedules.
        objective: What the network predicts: the noise, the image, or the velocity v.
        loss: mean of the squared error over an image's pixels (Ho), or sum (the post's author).
        weighting: Weights of the loss over steps: uniform, or min_snr (arXiv 2303.09556).
        min_snr_gamma: Bound of the signal-to-noise ratio in min_snr.
        variance: Variance of a reverse step: fixed_small, fixed_large, zero (the post's greedy
            sampling), or learned_range (the network predicts it, trained by the bound).
        vlb_weight: Weight of the bound in bits/dim in the loss of learned_range.
        num_classes: Number of classes to condition on; 0 for none.
        label_dropout: Probability of training without the label, for guidance.
        width: Channels of the U-Net at multiplier 1.
        multipliers: Channels of each level in units of width; each level halves the resolution.
        blocks: Residual blocks a level.
        attention_levels: Levels with attention, 0 being the full resolution.
        dropout: Dropout before the second convolution of a residual block.
        groups: Groups of the group norms.
        head_dim: Channels of an attention head; one head over all if not given.
        norm_eps: Epsilon of the group norms: Ho's is 1e-6, OpenAI's 1e-5.
        freq_shift: 1 for Ho's timestep embedding, 0 for OpenAI's.
        cos_first: Cosines before sines in the timestep embedding, as OpenAI's.
        symmetric_downsample: Pad downsampling on all four sides, as OpenAI's.
        checkpointing: Recompute activations in the backward pass: less memory, a third more time.
        compile: Compile the network, and what a sampler does beside it, when a Trainer runs them.
        channels_last: Keep activations as (B, H, W, C) in memory.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
        optimizer: adam (fused), or lamb (the post's author's).
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given; {5000: 1} is Ho's warm-up. Constant if not given.
        sampler: dpmpp, which is DPM-Solver++(2M); ancestral or ddim.
        sample_steps: Steps of a sampler; if not given, 10 of dpmpp and all of the others.
        spacing: Which steps those are: leading, trailing, linspace, quadratic or logsnr; if not
            given, logsnr of dpmpp and trailing of the others.
        eta: Noise of ddim and dpmpp, from 0 (none) to 1.
        clip: Clip the predicted image to [-1, 1] at each step, and in bits/dim.
        guidance: Strength of classifier-free guidance; 1 is none.
    """

    def __init__(
        self,
        *,
        image_size: Count | list[Count] = 32,
        channels: Count = 3,
        levels: AtLeastTwo = 256,
        timesteps: AtLeastTwo = 1000,
        schedule: Schedule = "linear",
        beta_start: InsideUnit = 1e-4,
        beta_end: InsideUnit = 0.02,
        objective: Objective = "eps",
        loss: LossReduction = "mean",
        weighting: Weighting = "uniform",
        min_snr_gamma: Positive = 5.0,
        variance: Variance = "fixed_large",
        vlb_weight: NonNegative = 0.001,
        num_classes: Whole = 0,
        label_dropout: BelowOne = 0.1,
        width: Count = 128,
        multipliers: list[Count] = [1, 2, 2, 2],  # noqa: B006  # never changed; a list, as YAML has it
        blocks: Depth = 2,
        attention_levels: list[Whole] = [1],  # noqa: B006
        dropout: BelowOne = 0.0,
        groups: Count = 32,
        head_dim: Count | None = None,
        norm_eps: Positive = 1e-6,
        freq_shift: Annotated[int, Range(0, 1)] = 1,
        cos_first: bool = False,
        symmetric_downsample: bool = False,
        checkpointing: bool = False,
        compile: bool = False,
        channels_last: bool = False,
        lr: Positive = 2e-4,
        weight_decay: NonNegative = 0.0,
        optimizer: OptimizerName = "adam",
        lr_schedule: dict[int, NonNegative] | None = None,
        sampler: SamplerName = "dpmpp",
        sample_steps: Count | None = None,
        spacing: Spacing | None = None,
        eta: Share = 0.0,
        clip: bool = True,
        guidance: Finite = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        self.shape = image_shape(channels, image_size)
        self.num_classes, self.label_dropout = num_classes, label_dropout
        self.channels_last, self.compiles, self.compiled = channels_last, compile, False
        self.optimizer_name, self.lr, self.weight_decay = optimizer, lr, weight_decay
        self.lr_points = by_step(lr_schedule)
        piecewise_linear(self.lr_points)
        self.has_schedule = lr_schedule is not None
        if sampler == "ancestral" and eta != 0:
            raise ValueError(
                f"eta={eta} has no effect on sampler=ancestral: use sampler=ddim or dpmpp"
            )
        self._validation = Averages("val/loss")
        bits = ("bits_per_dim", "bits_prior", "bits_kl", "bits_decoder")
        self._test = Averages(*(f"test/{name}" for name in bits))
        self._tested = 0
        self.diffusion = Diffusion(
            Chain.from_betas(make_betas(schedule, timesteps, beta_start, beta_end)),
            objective=objective,
            variance=variance,
            loss=loss,
            weighting=weighting,
            min_snr_gamma=min_snr_gamma,
            vlb_weight=vlb_weight,
            levels=levels,
        )
        self.sampling = Sampling(sampler, sample_steps, spacing, eta, clip, guidance)
        if not self.diffusion.timesteps.is_meta:  # which have no values
            self.plan()  # says what does not go together
        self.check_guidance(guidance)
        self.net = UNet(**unet_arguments(self.hparams))
        self.net.check_size(*self.shape[1:])
        self.net.init_ho()
        if channels_last:
            self.net.to(memory_format=torch.channels_last)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's output for x_t (B, C, H, W) at steps t (B,); no labels: unconditional."""
        x_t = x_t.to(self.net.conv_in.weight.dtype)
        if self.channels_last:
            x_t = x_t.contiguous(memory_format=torch.channels_last)
        return self.net(x_t, t, labels if self.num_classes else None)

    # Training

    def losses(self, x0: Tensor, t: Tensor, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Loss of each item, float32 (B,), for given steps t (B,) and noise of the shape of x0."""
        x_t = self.diffusion.q_sample(x0, t, noise)
        return self.diffusion.loss(self(x_t, t, labels), x0, x_t, t, noise)

    def loss(
        self,
        x0: Tensor,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Mean loss of a batch; steps and noise are drawn from the global stream if not given."""
        t, noise = self._drawn(x0, t, noise)
        return self.losses(x0, t, noise, labels).mean()

    def _drawn(
        self, x0: Tensor, t: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Steps and noise, from the global stream where they are not given."""
        if t is None:
            t = torch.randint(len(self.diffusion.chain), (len(x0),), device=x0.device)
        return t, torch.randn_like(x0) if noise is None else noise

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """Loss of a batch (images, labels, ...)."""
        x0, labels = self._unpack(batch)
        if labels is not None:
            dropped = torch.rand(len(x0), device=x0.device) < self.label_dropout
            labels = torch.where(dropped, self.num_classes, labels)
        t, noise = self._drawn(x0)
        losses = self.losses(x0, t, noise, labels)
        loss = losses.mean()
        if is_logging_step(self):
            # Mean over each quarter of the steps, as OpenAI logs it; NaN where a batch has none.
            number = (t * 4 // len(self.diffusion.chain))[:, None]
            quarter = number == torch.arange(4, device=t.device)
            means = product(losses.detach(), quarter.float()) / quarter.sum(0)
            by_quarter = {f"train/loss_q{i}": mean for i, mean in enumerate(means.unbind())}
            log_every(self, {"train/loss": loss, **by_quarter})
        return loss

    def configure_optimizers(self) -> Any:
        """Adam or LAMB over all parameters, with the schedule by step."""
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "lamb":
            optimizer = LAMB(self.parameters(), **options)
        else:
            optimizer = torch.optim.AdamW(self.parameters(), fused=may_fuse(self), **options)
        if not self.has_schedule:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, piecewise_linear(self.lr_points))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def setup(self, stage: str) -> None:
        """Compares the data with the model, and compiles."""
        data = datamodule_of(self.trainer)
        if isinstance(data, HasImages):
            check_images((data.channels, *data.size), self.shape)
        check_numbers(data, levels=self.diffusion.levels, num_classes=self.num_classes)
        if self.compiles and not self.compiled:
            self.net.compile(dynamic=False)
            self.compiled = True

    def parts_to_shard(self) -> Sequence[nn.Module]:
        """Residual blocks and attentions; a level takes tensors off a list, which FSDP copies.

        Raises:
            ValueError: LAMB measures whole weights.
        """
        if self.optimizer_name == "lamb":
            raise ValueError("optimizer=lamb measures whole weights: use -c ddp, or optimizer=adam")
        self.net.to(memory_format=torch.contiguous_format)  # all that FSDP2 takes
        return [m for m in self.net.modules() if isinstance(m, ResBlock | Attention)]

    def _unpack(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        x0 = floats_of(batch)
        check_images(tuple(x0.shape[1:]), self.shape)
        return x0, classes_of(batch, self.num_classes)

    # Evaluation

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to val/loss, with each item's own step and noise."""
        x0, labels = self._unpack(batch)
        index = numbers_of(batch, batch_idx)
        t = integers(EVALUATION_SEED, index, 0, high=len(self.diffusion.chain))
        noise = normal(EVALUATION_SEED, index, 1, self.shape)
        self._validation.add({"val/loss": self.losses(x0, t, noise, labels)})

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss."""
        self._validation.log(self, prog_bar=True)

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to test/bits_per_dim and its parts."""
        x0, labels = self._unpack(batch)
        bound = self.bits_per_dim(
            x0,
            index=numbers_of(batch, batch_idx),
            labels=labels,
            variance=self._likelihood_variance(),
            return_parts=True,
        )
        assert isinstance(bound, Bound)
        parts = (bound.total, bound.prior, bound.steps[:, 1:].sum(1), bound.decoder)
        self._test.add(dict(zip(self._test.names, parts, strict=True)))

    def on_test_epoch_end(self) -> None:
        """Logs test/bits_per_dim, and a baseline where the data has reference images."""
        self._tested = self._test.log(self)
        data = datamodule_of(self.trainer)
        if isinstance(data, HasReferenceImages):
            train, test = (data.reference_images(split) for split in ("train", "test"))
            bits = histogram_bits_per_dim(train, test, self.diffusion.levels)
            self.log("baseline/bits_per_dim", bits, sync_dist=True)

    def _likelihood_variance(self) -> Variance:
        # Greedy sampling has no density.
        return "fixed_small" if self.diffusion.variance == "zero" else self.diffusion.variance

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        count = f"{self._tested} items" if self._tested else "all items"
        return {
            "test/bits_per_dim": (
                f"variational bound on the test split, {count}, one noise a step and item (seed "
                f"{EVALUATION_SEED}), timesteps {len(self.diffusion.chain)}, variance "
                f"{self._likelihood_variance()}, {self.diffusion.levels} levels with Ho's tanh "
                f"decoder, x0 {'clipped' if self.sampling.clip else 'not clipped'}"
                + (", given the labels" if self.num_classes else "")
            ),
            "baseline/bits_per_dim": (
                "test split, each pixel coded by the training split's histogram at its position, "
                "counts from 1"
            ),
        }

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """A sample for each item: of its label, and with its number."""
        index = numbers_of(batch, batch_idx)
        return self.sample(len(index), labels=self._unpack(batch)[1], index=index)
