"""What benchmarks/wgan.py compares: critic step, generator step, and a whole iteration."""

import argparse
import copy
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import WGAN
from zoo.wgan.networks.double_backward import Conv2d
from zoo.wgan.networks.resampling import ConvMean, Double, UpConv
from zoo.wgan.networks.resnet import DownBlock, UpBlock

N_CRITIC = 5
LR, BETAS = 2e-4, (0.0, 0.9)


class Contender:
    """Networks of one constraint, and how the steps are done."""

    def __init__(self, constraint: str, options: argparse.Namespace) -> None:
        self.constraint, self.B = constraint, options.batch
        self.GB = 2 * self.B
        self.device = torch.device(options.device)
        torch.manual_seed(0)
        self.model = WGAN(
            network=options.network,
            image_size=32,
            lipschitz=constraint,
            objective="wasserstein" if constraint == "gp" else "hinge",
            n_critic=N_CRITIC,
            critic_batch=self.B,
            channels_last=options.channels_last,
        ).to(self.device)
        self.real = torch.rand(self.B, 3, 32, 32).to(self.device) * 2 - 1
        self.generator, self.critic = self.model.generator, self.model.critic
        self.build()

    def build(self) -> None:
        """Optimisers, and what else a contender changes."""
        raise AssertionError

    def critic_step(self) -> None:
        """Generates fakes and updates the critic."""
        raise AssertionError

    def generator_step(self) -> None:
        """Updates the generator."""
        raise AssertionError


class Zoo(Contender):
    """What `zoo fit` does beside the Trainer."""

    fused: ClassVar[bool] = True
    instead: ClassVar[dict[type[nn.Module], type[nn.Module]]] = {}

    def build(self) -> None:
        """Fused optimisers."""
        arguments: dict[str, Any] = {"fused": True} if self.fused else {}
        self.optimizers = [
            torch.optim.Adam(m.parameters(), LR, BETAS, **arguments)
            for m in (self.generator, self.critic)
        ]
        for network in (self.generator, self.critic):
            replace(network, self.instead)

    def fakes(self) -> Tensor:
        """Of a critic step."""
        (fake,) = self.model._fakes([None])
        return fake

    def critic_step(self) -> None:
        """As WGAN.training_step."""
        model, fake = self.model, self.fakes()
        noise = model.draw_noise(self.real)
        loss, _ = model._critic_loss(self.critic, self.real, fake, None, noise)
        parameters = list(self.critic.parameters())
        model._update(self.optimizers[1], parameters, torch.autograd.grad(loss, parameters))

    def generator_step(self) -> None:
        """As WGAN.training_step."""
        self.model._generator_step(self.optimizers[0], self.real, None)


class ZooUnfused(Zoo):
    """Without fused optimisers."""

    fused = False


class MeanAfter(Conv2d):
    """A convolution and the mean, one after the other; its double backward is fast."""

    def forward(self, input: Tensor) -> Tensor:
        """As ConvMean."""
        return F.avg_pool2d(super().forward(input), 2)


class PlainMeanAfter(nn.Conv2d):
    """The same by PyTorch's convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """As ConvMean."""
        return F.avg_pool2d(super().forward(input), 2)


class PlainConvMean(ConvMean):
    """One operation, by PyTorch's convolution."""

    def forward(self, input: Tensor) -> Tensor:
        """As ConvMean."""
        return F.conv2d(input, self.kernel(), self.bias, 2, 1)


class UpBefore(nn.Conv2d):
    """Upsampling and a convolution, one after the other."""

    def forward(self, input: Tensor) -> Tensor:
        """As UpConv."""
        return super().forward(F.interpolate(input, scale_factor=2, mode="nearest"))


class ZooPlainConvolutions(Zoo):
    """Without the convolution of a fast double backward."""

    instead: ClassVar = {Conv2d: nn.Conv2d, ConvMean: PlainConvMean}


class ZooResamplingApart(Zoo):
    """With mean and upsampling as operations of their own, in the published order."""

    instead: ClassVar = {ConvMean: MeanAfter, UpConv: UpBefore}

    def build(self) -> None:
        """The shortcuts, too."""
        super().build()
        published_shortcuts(self.model)


class ZooDoubleBackward(Zoo):
    """With double backward in the generator's step instead of the closed form."""

    def generator_step(self) -> None:
        """f_hat with a graph through the gradient norm, the critic frozen."""
        for p in self.critic.parameters():
            p.requires_grad_(False)
        x = self.model(self.model.draw_latent(self.GB))
        loss = -normalized(self.constraint, self.critic, x).mean()
        parameters = list(self.generator.parameters())
        self.model._update(self.optimizers[0], parameters, torch.autograd.grad(loss, parameters))
        for p in self.critic.parameters():
            p.requires_grad_(True)


class ZooNotFrozen(Zoo):
    """With gradients of the critic's weights in the generator's step, which nothing uses."""

    def generator_step(self) -> None:
        """One graph from the noise to the loss."""
        x = self.model(self.model.draw_latent(self.GB))
        (-self.critic(x).mean()).backward()
        gradients = [p.grad for p in self.generator.parameters()]
        self.model._update(self.optimizers[0], list(self.generator.parameters()), gradients)
        for p in self.critic.parameters():
            p.grad = None


class ZooGraphOfFakes(Zoo):
    """With a graph of the fakes in the critic's step, which is thrown away."""

    def fakes(self) -> Tensor:
        """By a forward pass that could be differentiated."""
        return self.model(self.model.draw_latent(self.B)).detach()


class ZooThreeForwards(Zoo):
    """With a forward pass each for real and fake."""

    def build(self) -> None:
        """The same optimisers, another loss."""
        super().build()
        self.model._critic_loss = self._loss

    def _loss(self, critic: Any, real: Tensor, fake: Tensor, _: None, noise: Any) -> Any:
        return public_loss(self.constraint, critic, real, fake, noise), None


class Public(Contender):
    """Public code's form: three forwards, plain double backward, a critic that is not frozen."""

    def build(self) -> None:
        """PyTorch's convolutions, the published order of operations, and default Adam."""
        instead: dict[Any, Any] = {
            Conv2d: nn.Conv2d,
            ConvMean: PlainMeanAfter,
            UpConv: UpBefore,
        }
        replace(self.model, instead)
        published_shortcuts(self.model)
        self.optimizers = [
            torch.optim.Adam(m.parameters(), LR, BETAS) for m in (self.generator, self.critic)
        ]

    def critic_step(self) -> None:
        """The generator makes its graph, which is thrown away."""
        fake = self.generator(torch.randn(self.B, 128, device=self.device)).detach()
        alpha = torch.rand(self.B, 1, 1, 1, device=self.device)
        loss = public_loss(self.constraint, self.critic, self.real, fake, alpha)
        self.optimizers[1].zero_grad()
        loss.backward()
        self.optimizers[1].step()

    def generator_step(self) -> None:
        """Gradients of the critic's weights are made, and not used."""
        x = self.generator(torch.randn(self.GB, 128, device=self.device))
        loss = -normalized(self.constraint, self.critic, x).mean()
        self.optimizers[0].zero_grad()
        loss.backward()
        self.optimizers[0].step()


def replace(network: nn.Module, instead: dict[Any, Any]) -> None:
    """Gives layers of a class another one; the weights and their parametrisations stay."""
    for layer in network.modules():
        kind = type(layer)
        if kind in instead:
            layer.__class__ = instead[kind]
        elif kind.__name__.startswith("Parametrized") and kind.__base__ in instead:
            own = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
            layer.__class__ = type(kind.__name__, (instead[kind.__base__],), own)


def published_shortcuts(model: nn.Module) -> None:
    """The 1x1 convolution where the map is large."""
    for block in model.modules():
        if isinstance(block, UpBlock | DownBlock) and len(block.shortcut) == 2:
            swapped = [
                nn.Upsample(scale_factor=2) if isinstance(layer, Double) else layer
                for layer in reversed(block.shortcut)
            ]
            block.shortcut = nn.Sequential(*swapped)


def normalized(constraint: str, critic: nn.Module, x: Tensor) -> Tensor:
    """f, or f_hat by double backward as GN-GAN's code has it."""
    if constraint != "gn":
        return critic(x)
    x = x if x.requires_grad else x.clone().requires_grad_()
    f = critic(x)
    (g,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    return f / (g.flatten(1).norm(dim=1) + f.abs())


def public_loss(
    constraint: str, critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor | None
) -> Tensor:
    """The critic's loss from one forward for real, one for fake and one for the interpolates."""
    on_real, on_fake = (normalized(constraint, critic, x) for x in (real, fake))
    if constraint != "gp":
        return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
    assert alpha is not None
    x = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return on_fake.mean() - on_real.mean() + 10 * (g.flatten(1).norm(2, dim=1) - 1).pow(2).mean()


class Mimicry(Contender):
    """torch-mimicry's own networks and train_step; its generator's batch is the critic's."""

    def build(self) -> None:
        """Imports its networks without its package's __init__, which needs TensorFlow."""
        package = importlib.util.find_spec("torch_mimicry")
        assert package is not None
        assert package.submodule_search_locations is not None
        shell = types.ModuleType("torch_mimicry")
        shell.__spec__ = package
        shell.__path__ = list(package.submodule_search_locations)
        sys.modules["torch_mimicry"] = shell
        kind = {"gp": "WGANGP", "spectral_norm": "SNGAN"}[self.constraint]
        folder = {"gp": "wgan_gp", "spectral_norm": "sngan"}[self.constraint]
        nets = importlib.import_module(f"torch_mimicry.nets.{folder}.{folder}_32")
        torch.manual_seed(0)
        self.generator = getattr(nets, f"{kind}Generator32")().to(self.device)
        self.critic = getattr(nets, f"{kind}Discriminator32")().to(self.device)
        self.optimizers = [
            torch.optim.Adam(m.parameters(), LR, BETAS) for m in (self.generator, self.critic)
        ]
        self.log = types.SimpleNamespace(add_metric=lambda *a, **k: None)

    def _arguments(self) -> dict[str, Any]:
        labels = torch.zeros(self.B, dtype=torch.long)
        return {"real_batch": (self.real, labels), "log_data": self.log, "device": self.device}

    def critic_step(self) -> None:
        """Its own."""
        self.critic.train_step(
            netG=self.generator, optD=self.optimizers[1], global_step=0, **self._arguments()
        )

    def generator_step(self) -> None:
        """Its own."""
        self.generator.train_step(
            netD=self.critic, optG=self.optimizers[0], global_step=0, **self._arguments()
        )


class ZooSmallBatch(Zoo):
    """zoo with the generator's batch that torch-mimicry has."""

    def build(self) -> None:
        """Half the batch."""
        super().build()
        self.model.generator_batch = self.B


CONTENDERS: dict[str, Callable[..., Contender]] = {
    "zoo": Zoo,
    "public": Public,
    "zoo, plain convolutions": ZooPlainConvolutions,
    "zoo, resampling apart": ZooResamplingApart,
    "zoo, three forwards": ZooThreeForwards,
    "zoo, double backward in G": ZooDoubleBackward,
    "zoo, critic not frozen": ZooNotFrozen,
    "zoo, graph of the fakes": ZooGraphOfFakes,
    "zoo, unfused": ZooUnfused,
    "zoo, small G batch": ZooSmallBatch,
    "mimicry": Mimicry,
}


def contenders(constraint: str, options: argparse.Namespace) -> Iterator[tuple[str, Contender]]:
    """Those that there are for a constraint and network."""
    for name in options.contenders.split(";") if options.contenders else CONTENDERS:
        if name == "zoo, double backward in G" and constraint != "gn":
            continue
        if name == "zoo, critic not frozen" and constraint == "gn":
            continue
        if name == "zoo, resampling apart" and options.network != "resnet":
            continue
        if name in ("mimicry", "zoo, small G batch"):
            if options.network != "resnet" or constraint not in ("gp", "spectral_norm"):
                continue
            if importlib.util.find_spec("torch_mimicry") is None:
                continue
        yield name, CONTENDERS[name](constraint, copy.copy(options))
