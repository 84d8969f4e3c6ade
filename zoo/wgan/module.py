"""WGAN as a LightningModule."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from zoo.loading import class_path
from zoo.ranges import AtLeastTwo, BelowOne, Count, NonNegative, Positive, Whole, check_ranges
from zoo.training.averages import Averages
from zoo.training.log import is_logging_step, log_every
from zoo.training.optim import may_fuse, piecewise_linear
from zoo.wgan import evaluation
from zoo.wgan.constraints.by_name import Lipschitz, make_constraint
from zoo.wgan.constraints.weights import Evaluated
from zoo.wgan.networks.by_name import Network, make_networks
from zoo.wgan.networks.layers import Activation, Init
from zoo.wgan.objectives import ObjectiveName, make_objective
from zoo.wgan.steps import average_over_processes, critic_step_loss

OptimizerName = Literal["adam", "rmsprop"]


class WGAN(LightningModule):
    """Wasserstein GAN of images in [-1, 1] or of points, with any Lipschitz constraint.

    arXiv 1701.07875 and kexue.fm/archives/8757 (gradient normalisation), /8244 (what it estimates).
    A training step is one iteration of the generator: `n_critic` steps of the critic on fresh
    data, then one of the generator. Steps, schedules and checkpoints count these iterations.

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
        critic_activation: Of the critic: relu, leaky_relu, elu, silu, tanh or softplus.
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
        beta1: Of adam; write 0.0, not 0.
        beta2: Of adam.
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
        counts = {"n_critic": n_critic, "critic_batch": critic_batch, "latent_dim": latent_dim}
        if generator_batch is not None:
            counts["generator_batch"] = generator_batch
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}={value}: must be 1 or more")
        if not (lr_generator > 0 and lr_critic > 0):
            raise ValueError(f"lr_generator={lr_generator}, lr_critic={lr_critic}: need > 0")
        if dequantize and network == "mlp":
            raise ValueError("dequantize=true is for images: network=mlp takes points")
        if optimizer not in get_args(OptimizerName):
            raise ValueError(f"optimizer={optimizer!r}: choose adam or rmsprop")
        self.objective = make_objective(
            objective,
            lipschitz=lipschitz,
            critic_batch_norm=critic_batch_norm,
            epsilon=c_epsilon,
            penalty=c_penalty,
        )
        # Keys that went through JSON are strings.
        self.lr_points = {int(k): float(v) for k, v in (lr_schedule or {0: 1.0}).items()}
        piecewise_linear(self.lr_points)
        size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        self.shape = (features,) if network == "mlp" else (channels, *size)
        self.num_classes = num_classes
        self.generator_batch = generator_batch or 2 * critic_batch
        self.constraint = make_constraint(
            lipschitz,
            penalty=penalty,
            div_power=div_power,
            clip_value=clip_value,
            gran_epsilon=gran_epsilon,
            lipschitz_constant=lipschitz_constant,
        )
        self.generator, self.critic = make_networks(
            network,
            self.shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            generator_widths=generator_widths,
            critic_widths=critic_widths,
            critic_halvings=critic_halvings,
            critic_activation=critic_activation,
            critic_batch_norm=critic_batch_norm,
            critic_pooling=critic_pooling,
            critic_bias=critic_bias,
            init=init,
        )
        if critic_bf16 and not self.constraint.inner_gradient:
            raise ValueError(
                f"critic_bf16 has no effect on lipschitz={lipschitz}, whose critic is in bf16 "
                "anyway: leave it out"
            )
        self.constraint.check(self.critic)
        self.constraint.prepare(self.critic)
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.compiled = False
        self._critic_loss: Callable[..., tuple[Tensor, Evaluated]] = partial(
            critic_step_loss, self.constraint, self.objective
        )
        self._generator_gradient: Callable[..., tuple[Tensor, Tensor]] = (
            self.constraint.generator_gradient
        )
        self._validation = Averages("val/wasserstein_critic")
        self._test = Averages("test/wasserstein_critic")
        self._tested = 0

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images or points of latent vectors z (B, latent_dim), float32."""
        x: Tensor = self.generator(z, labels if self.num_classes else None)
        return x.float()

    # Training

    def draw_latent(self, n: int) -> Tensor:
        """Latent vectors z of a training step, (n, latent_dim), from the global stream."""
        return torch.randn(n, self.hparams["latent_dim"], device=self.device)

    def draw_labels(self, n: int) -> Tensor | None:
        """Classes of a generator step, (n,), from the global stream."""
        K = self.num_classes
        return torch.randint(K, (n,), device=self.device) if K else None

    def draw_noise(self, real: Tensor) -> Tensor | None:
        """What the constraint draws in a critic step."""
        return self.constraint.noise(real)

    def _fakes(self, labels: Sequence[Tensor | None]) -> list[Tensor]:
        """Fakes for each critic step, without a graph."""
        n, steps = self.hparams["critic_batch"], len(labels)
        with torch.no_grad():
            if not self.hparams["fakes_at_once"]:
                return [self(self.draw_latent(n), y) for y in labels]
            classes = [y for y in labels if y is not None]
            x = self(self.draw_latent(n * steps), torch.cat(classes) if classes else None)
            return list(x.chunk(steps))

    def critic_precision(self) -> AbstractContextManager[Any]:
        """Float32 where the loss contains the critic's gradient."""
        if self.constraint.inner_gradient and not self.hparams["critic_bf16"]:
            return torch.autocast(self.device.type, enabled=False)
        return nullcontext()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """One iteration of the generator; the batch has the data of all critic steps.

        Returns:
            The sum of the last critic loss and the generator's loss.
        """
        generator_optimizer, critic_optimizer = self._both_optimizers()
        x, classes = self.unpack(batch)
        n, critic_batch = self.hparams["n_critic"], self.hparams["critic_batch"]
        if len(x) != n * critic_batch:
            raise ValueError(
                f"a batch of {len(x)} items: a training step takes n_critic * critic_batch = {n} * "
                f"{critic_batch}"
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
        for schedule in self._schedules():
            schedule.step()
        if is_logging_step(self):
            logged = evaluation.monitor(self, reals[-1], fakes[-1], labels[-1], values)
            losses = {"train/critic_loss": loss, "train/generator_loss": generator_loss}
            log_every(self, {**losses, **logged})
        return loss.detach() + generator_loss

    def _both_optimizers(self) -> tuple[Any, Any]:
        """Lightning's wrapper of the generator's, whose steps it counts, and the critic's itself.

        So `global_step`, and all that goes by it, is the number of generator iterations.
        """
        wrapped: Any = self.optimizers()
        return wrapped[0], wrapped[1].optimizer

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
        if not self.hparams["dequantize"]:
            return x
        k = self.hparams["levels"]
        v = (x + 1) * ((k - 1) / 2)
        noisy: Tensor = (v + torch.rand_like(x)) * (2 / k) - 1
        return noisy

    def _schedules(self) -> list[Any]:
        schedules: Any = self.lr_schedulers() if self.hparams["lr_schedule"] is not None else []
        return schedules  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        """One optimiser for each network, the generator's first, and their schedules."""
        optimizers: list[torch.optim.Optimizer] = []
        for name in ("generator", "critic"):
            parameters, lr = getattr(self, name).parameters(), self.hparams[f"lr_{name}"]
            if self.hparams["optimizer"] == "rmsprop":
                optimizers.append(torch.optim.RMSprop(parameters, lr, foreach=True))
            else:
                betas = (float(self.hparams["beta1"]), float(self.hparams["beta2"]))
                optimizers.append(torch.optim.Adam(parameters, lr, betas, fused=may_fuse(self)))
        if self.hparams["lr_schedule"] is None:
            return optimizers
        make = torch.optim.lr_scheduler.LambdaLR
        return optimizers, [make(each, piecewise_linear(self.lr_points)) for each in optimizers]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the class, for `zoo.load`."""
        checkpoint["zoo_class"] = class_path(self)

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
        evaluation.check_data(self, getattr(self.trainer, "datamodule", None), stage)
        if self.hparams["compile"] and not self.compiled:
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
        n = self.hparams["n_critic"]
        if most < n:
            return f"give {n} images or more, or lower --model.n_critic"
        return f"lower --model.critic_batch to {most // n} or less"

    def unpack(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Images or points, and their classes if the model has any."""
        x = batch[0].float()  # whatever precision the Trainer converts its inputs to
        evaluation.check_shape(self, tuple(x.shape[1:]))
        if self.hparams["channels_last"]:
            x = x.contiguous(memory_format=torch.channels_last)
        return x, batch[1] if self.num_classes else None

    # Evaluation

    sample = evaluation.sample
    critic_values = evaluation.critic_values

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to val/wasserstein_critic."""
        evaluation.add_values(self, self._validation, batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Logs the critic's estimate, and of points how good the samples are."""
        evaluation.finish(self, self._validation, "val")

    def test_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """Adds to test/wasserstein_critic."""
        evaluation.add_values(self, self._test, batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Logs the same of the test split, beside what real data would get."""
        self._tested = evaluation.finish(self, self._test, "test")

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        return evaluation.protocol(self, self._tested)

    def predict_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        """A sample for each item: of its label, and with its number."""
        index = evaluation.item_numbers(batch, batch_idx)
        labels = batch[1] if self.num_classes else None
        return evaluation.sample(self, len(index), labels=labels, index=index)


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
