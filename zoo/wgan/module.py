"""WGAN as a LightningModule."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from zoo.data.protocols import HasBatchSize, HasFeatures, HasImages, datamodule_of
from zoo.ranges import AtLeastTwo, BelowOne, Count, NonNegative, Positive, Whole, check_ranges
from zoo.training.distributed import average_over_processes
from zoo.training.fit_of_data import check_numbers
from zoo.training.log import is_logging_step, log_every
from zoo.training.module import by_step
from zoo.training.optim import may_fuse, piecewise_linear
from zoo.wgan.constraints.by_name import Lipschitz, make_constraint
from zoo.wgan.constraints.gradient import Critic
from zoo.wgan.constraints.weights import Evaluated, Unconstrained
from zoo.wgan.networks.by_name import Network, make_networks
from zoo.wgan.networks.layers import Activation, Init
from zoo.wgan.objectives import Objective, ObjectiveName, make_objective
from zoo.wgan.page import Pages

OptimizerName = Literal["adam", "rmsprop"]


class WGAN(Pages):
    """Wasserstein GAN of images in [-1, 1] or of points, with any Lipschitz constraint.

    arXiv 1701.07875 and kexue.fm/archives/8757 (gradient normalisation), /8244 (what it estimates).
    A training step is one iteration of the generator: `n_critic` steps of the critic on fresh
    data, then one of the generator. Steps, schedules and checkpoints count these iterations.

    >>> model = WGAN(network="mlp", generator_widths=[8], critic_widths=[8], lipschitz="gn")
    >>> model.sample(3).shape
    torch.Size([3, 2])

    Args:
        network: mlp (for points), dcgan or resnet.
        features: Dimension of a point, for mlp.
        image_size: Side of a square image, or [height, width].
        channels: Channels of an image: 1 for grey, 3 for RGB.
        levels: Grey levels of the data: 256 for 8-bit images. Used by `dequantize`.
        num_classes: Number of classes to condition on, by conditional batch normalisation in the
            generator and projection in the critic; 0 for none.
        latent_dim: Dimension of the generator's normal noise z.
        generator_widths: mlp: hidden layers; else channels of the first map and after each
            doubling. As published if not given.
        critic_widths: mlp: hidden layers; else channels after each block. As published if not
            given.
        critic_halvings: Blocks of a resnet critic that halve the resolution.
        critic_activation: Activation of the critic: relu, leaky_relu, elu, silu, tanh or softplus.
        critic_batch_norm: Batch normalisation in a dcgan critic; only without inner gradients.
        critic_pooling: mean or sum over positions at the end of a resnet critic.
        critic_bias: Whether a resnet critic's last layer has a bias.
        init: First weights: normal, kaiming or glorot; dcgan's normal, else kaiming if not given.
        lipschitz: none, clip, spectral_norm, gp, lp, div, r1, dragan, gn or gran.
        penalty: Weight of the penalty; the paper's if not given: 10 for gp, lp, dragan and r1
            (gamma), 2 for div (k).
        div_power: Power p of div; 6 if not given.
        clip_value: Bound of the weights for clip; 0.01 if not given.
        gran_epsilon: Epsilon of gran; 0.1 if not given.
        lipschitz_constant: Factor on the output of gn and gran; 1 if not given.
        objective: wasserstein, hinge, ns (of the first GAN), c_transform or c_eps_transform. The
            last two need lipschitz=none.
        c_epsilon: Epsilon of c_eps_transform, in units of the distance.
        c_penalty: Weight of either penalty of c_transform and c_eps_transform (arXiv 1902.03642);
            0.1, as there, if not given; 0 for the plain dual.
        n_critic: Critic steps to one of the generator.
        critic_batch: Real images of a critic step, and as many fake ones, on each process.
        generator_batch: Images of a generator step on each process; twice critic_batch if not
            given.
        fakes_at_once: Generate the fakes of all critic steps in one pass, faster; batch
            normalisation then sees all of them together.
        dequantize: Add uniform noise to the real images, one grey level wide, as WGAN-GP's code.
        optimizer: adam (fused) or rmsprop.
        lr_generator: Learning rate of the generator.
        lr_critic: Learning rate of the critic.
        beta1: Decay of adam's first average; write 0.0, not 0.
        beta2: Decay of adam's second average.
        lr_schedule: Multiplier of both learning rates at some iterations, linear between them and
            constant after: {0: 1, 100000: 0} is a linear decay. Constant if not given.
        critic_bf16: Let bf16-mixed act on a critic with an inner gradient too, which is in float32
            otherwise.
        channels_last: Keep activations as (B, H, W, C) in memory.
        compile: Compile the generator, and the whole loss of the critic, when a Trainer runs them.

    Raises:
        ValueError: A value is out of range, or does not go with the others.
    """

    averaged_modules = ("generator",)

    def __init__(
        self,
        *,
        network: Network = "resnet",
        features: Count = 2,
        image_size: Count | list[Count] = 32,
        channels: Count = 3,
        levels: AtLeastTwo = 256,
        num_classes: Whole = 0,
        latent_dim: Count = 128,
        generator_widths: list[Count] | None = None,
        critic_widths: list[Count] | None = None,
        critic_halvings: Whole | None = None,
        critic_activation: Activation | None = None,
        critic_batch_norm: bool = False,
        critic_pooling: Literal["mean", "sum"] = "mean",
        critic_bias: bool = True,
        init: Init | None = None,
        lipschitz: Lipschitz = "gp",
        penalty: Positive | None = None,
        div_power: Positive | None = None,
        clip_value: Positive | None = None,
        gran_epsilon: Positive | None = None,
        lipschitz_constant: Positive | None = None,
        objective: ObjectiveName = "wasserstein",
        c_epsilon: Positive | None = None,
        c_penalty: NonNegative | None = None,
        n_critic: Count = 5,
        critic_batch: Count = 64,
        generator_batch: Count | None = None,
        fakes_at_once: bool = False,
        dequantize: bool = False,
        optimizer: OptimizerName = "adam",
        lr_generator: Positive = 2e-4,
        lr_critic: Positive = 2e-4,
        beta1: BelowOne = 0.0,
        beta2: BelowOne = 0.9,
        lr_schedule: dict[int, NonNegative] | None = None,
        critic_bf16: bool = False,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        self.automatic_optimization = False
        if dequantize and network == "mlp":
            raise ValueError("dequantize=true is for images: network=mlp takes points")
        self.objective = make_objective(
            objective,
            lipschitz=lipschitz,
            critic_batch_norm=critic_batch_norm,
            epsilon=c_epsilon,
            penalty=c_penalty,
        )
        self.lr_points = by_step(lr_schedule)
        piecewise_linear(self.lr_points)
        self.has_schedule = lr_schedule is not None
        size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        self.shape = (features,) if network == "mlp" else (channels, *size)
        self.num_classes, self.latent_dim = num_classes, latent_dim
        self.dequantize_levels = levels if dequantize else 0
        self.n_critic, self.critic_batch = n_critic, critic_batch
        self.generator_batch = generator_batch or 2 * critic_batch
        self.fakes_at_once, self.critic_bf16 = fakes_at_once, critic_bf16
        self.channels_last, self.compiles, self.compiled = channels_last, compile, False
        self.optimizer_name, self.betas = optimizer, (float(beta1), float(beta2))
        self.rates = {"generator": lr_generator, "critic": lr_critic}
        self.constraint = make_constraint(
            lipschitz,
            penalty=penalty,
            div_power=div_power,
            clip_value=clip_value,
            gran_epsilon=gran_epsilon,
            lipschitz_constant=lipschitz_constant,
        )
        named = {n: self.hparams[n] for n in signature(make_networks).parameters if n != "shape"}
        self.generator, self.critic = make_networks(shape=self.shape, **named)
        if critic_bf16 and not self.constraint.inner_gradient:
            raise ValueError(
                f"critic_bf16 has no effect on lipschitz={lipschitz}, whose critic is in bf16 "
                "anyway: leave it out"
            )
        self.constraint.check(self.critic)
        self.constraint.prepare(self.critic)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self._critic_loss: Callable[..., tuple[Tensor, Evaluated]] = partial(
            critic_step_loss, self.constraint, self.objective
        )
        self._generator_gradient: Callable[..., tuple[Tensor, Tensor]] = (
            self.constraint.generator_gradient
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images or points of latent vectors z (B, latent_dim), float32."""
        x: Tensor = self.generator(z, labels if self.num_classes else None)
        return x.float()

    # Training

    def draw_latent(self, n: int) -> Tensor:
        """Latent vectors z of a training step, (n, latent_dim), from the global stream."""
        return torch.randn(n, self.latent_dim, device=self.device)

    def draw_labels(self, n: int) -> Tensor | None:
        """Classes of a generator step, (n,), from the global stream."""
        K = self.num_classes
        return torch.randint(K, (n,), device=self.device) if K else None

    def draw_noise(self, real: Tensor) -> Tensor | None:
        """What the constraint draws in a critic step."""
        return self.constraint.noise(real)

    def _fakes(self, labels: Sequence[Tensor | None]) -> list[Tensor]:
        """Fakes for each critic step, without a graph."""
        n, steps = self.critic_batch, len(labels)
        with torch.no_grad():
            if not self.fakes_at_once:
                return [self(self.draw_latent(n), y) for y in labels]
            classes = [y for y in labels if y is not None]
            x = self(self.draw_latent(n * steps), torch.cat(classes) if classes else None)
            return list(x.chunk(steps))

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """One iteration of the generator; the batch has the data of all critic steps.

        Returns:
            The sum of the last critic loss and the generator's loss.
        """
        # Lightning counts the steps of its wrapper: only the generator's go by it, so that
        # `global_step`, and all that hangs on it, is the number of generator iterations.
        wrapped: Any = self.optimizers()
        generator_optimizer, critic_optimizer = wrapped[0], wrapped[1].optimizer
        x, classes = self.unpack(batch)
        n = self.n_critic
        if len(x) != n * self.critic_batch:
            raise ValueError(
                f"a batch of {len(x)} items: a training step takes n_critic * critic_batch = {n} * "
                f"{self.critic_batch}"
            )
        reals = self._dequantized(x).chunk(n)
        labels = [None] * n if classes is None else classes.chunk(n)
        fakes = self._fakes(labels)
        parameters = list(self.critic.parameters())
        for real, fake, y in zip(reals, fakes, labels, strict=True):
            noise = self.draw_noise(real)
            with self.critic_precision():
                loss, values = self._critic_loss(self.critic, real, fake, y, noise)
            self._update(critic_optimizer, parameters, torch.autograd.grad(loss, parameters))
            self.constraint.project(self.critic)
        generator_loss = self._generator_step(generator_optimizer, reals[-1], labels[-1])
        if self.has_schedule:
            schedules: Any = self.lr_schedulers()
            for schedule in schedules:
                schedule.step()
        if is_logging_step(self):
            logged = self.monitor(reals[-1], fakes[-1], labels[-1], values)
            losses = {"train/critic_loss": loss, "train/generator_loss": generator_loss}
            log_every(self, {**losses, **logged})
        return loss.detach() + generator_loss

    def _generator_step(self, optimizer: Any, real: Tensor, of_real: Tensor | None) -> Tensor:
        """The critic gives the gradient at the images, which goes on into the generator.

        Only the c-transforms look at real images, and their labels.
        """
        labels = self.draw_labels(self.generator_batch)
        x = self(self.draw_latent(self.generator_batch), labels)
        with self.critic_precision(), self.constraint.frozen(self.critic):
            loss, upstream = self.objective.generator_gradient(
                self._generator_gradient, self.critic, x.detach(), labels, real, of_real
            )
        parameters = list(self.generator.parameters())
        self._update(optimizer, parameters, torch.autograd.grad(x, parameters, upstream))
        return loss

    def _update(
        self, optimizer: Any, parameters: list[nn.Parameter], gradients: Sequence[Tensor]
    ) -> None:
        """A step of one network, with the gradients of all processes."""
        for parameter, gradient in zip(parameters, average_over_processes(gradients), strict=True):
            # A fused optimiser reads weight and gradient side by side in memory; autograd.grad may
            # give another layout, as compiled convolutions do, and accumulation is bypassed here.
            if gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    def _dequantized(self, x: Tensor) -> Tensor:
        """Images x = 2 (v + u) / k - 1 of grey level v in 0 ... k - 1 and u ~ U(0, 1)."""
        if not (k := self.dequantize_levels):
            return x
        v = (x + 1) * ((k - 1) / 2)
        return (v + torch.rand_like(x)) * (2 / k) - 1

    def configure_optimizers(self) -> Any:
        """One optimiser for each network, the generator's first, and their schedules."""
        optimizers: list[torch.optim.Optimizer] = []
        for name, lr in self.rates.items():
            parameters = getattr(self, name).parameters()
            if self.optimizer_name == "rmsprop":
                optimizers.append(torch.optim.RMSprop(parameters, lr, foreach=True))
            else:
                fused = may_fuse(self)
                optimizers.append(torch.optim.Adam(parameters, lr, self.betas, fused=fused))
        if not self.has_schedule:
            return optimizers
        make = torch.optim.lr_scheduler.LambdaLR
        return optimizers, [make(each, piecewise_linear(self.lr_points)) for each in optimizers]

    def configure_callbacks(self) -> list[Callback]:
        """None; but the first hook of a run, where what two optimisers rule out can be refused.

        Raises:
            ValueError: Options of the Trainer that manual optimisation or the critic forbid.
        """
        _check_trainer(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        """Compares the data with the model, and compiles.

        Raises:
            ValueError: The data has another shape, levels, classes or batch size.
        """
        data, n, size = datamodule_of(self.trainer), self.n_critic, self.critic_batch
        if isinstance(data, HasFeatures):
            self._check_shape((data.features,))
        elif isinstance(data, HasImages):
            self._check_shape((data.channels, *data.size))
            check_numbers(data, levels=self.dequantize_levels, num_classes=self.num_classes)
        if stage == "fit" and isinstance(data, HasBatchSize) and data.batch_size != n * size:
            raise ValueError(
                f"--data.batch_size={data.batch_size}: a training step takes n_critic * "
                f"critic_batch = {n} * {size} real items; set --data.batch_size={n * size}"
            )
        if self.compiles and not self.compiled:
            inner = self.constraint.inner_gradient
            self.generator.compile(dynamic=False)
            # Never the bare critic: what is compiled cannot be differentiated twice from outside.
            self._critic_loss = torch.compile(self._critic_loss, fullgraph=inner, dynamic=False)
            self._generator_gradient = torch.compile(
                torch.no_grad()(self._generator_gradient), fullgraph=inner, dynamic=False
            )
            self.compiled = True

    def smaller_batch(self, most: int) -> str:
        """What to do where a training step may take so many real items at most."""
        if most < self.n_critic:
            return f"give {self.n_critic} images or more, or lower --model.n_critic"
        return f"lower --model.critic_batch to {most // self.n_critic} or less"


def critic_step_loss(
    constraint: Unconstrained,
    objective: Objective,
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None,
    noise: Tensor | None,
) -> tuple[Tensor, Evaluated]:
    """The critic's loss on real and fake points (B, ...), and the values that it is made of."""
    out = constraint.evaluate(critic, real, fake, labels, noise)
    loss = objective.batch_loss(real, fake, out.real, out.fake)
    return (loss if out.penalty is None else loss + out.penalty), out


def _check_trainer(trainer: Trainer) -> None:
    clips, accumulates = trainer.gradient_clip_val, trainer.accumulate_grad_batches
    if trainer.state.fn == "fit" and (clips or accumulates != 1):
        option = f"gradient_clip_val={clips}" if clips else f"accumulate_grad_batches={accumulates}"
        raise ValueError(
            f"--trainer.{option}: a WGAN has two optimisers and takes its own steps; leave it out"
        )
    if trainer.precision not in ("32-true", "bf16-mixed"):
        raise ValueError(
            f"--trainer.precision={trainer.precision}: inner gradients need 32-true or bf16-mixed"
        )
