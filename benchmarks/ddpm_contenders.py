"""What benchmarks/ddpm.py compares: each library's training step and sampler, as it means them."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NETWORKS: dict[str, dict[str, Any]] = {
    "cifar": {
        "image_size": 32,
        "channels": 3,
        "width": 128,
        "multipliers": [1, 2, 2, 2],
        "blocks": 2,
        "attention_levels": [1],
    },
    "digits": {
        "image_size": 8,
        "channels": 1,
        "levels": 17,
        "width": 64,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention_levels": [1],
    },
}
# lucidrains' network in the same widths.
LUCIDRAINS: dict[str, dict[str, Any]] = {
    "cifar": {"dim": 128, "dim_mults": (1, 2, 2, 2), "channels": 3},
    "digits": {"dim": 64, "dim_mults": (1, 2), "channels": 1},
}
LR = 2e-4


class Contender:
    """One library's model with its training step and its sampler."""

    net: nn.Module

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.batch, self.sampler = options.batch, options.sampler
        config = NETWORKS[options.network]
        self.shape = (config["channels"], config["image_size"], config["image_size"])
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
        if options.precision == "bf16":
            self.autocast = lambda: torch.autocast(self.device.type, torch.bfloat16)
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(self.batch, *self.shape, generator=generator) * 2 - 1
        self.images = self.images.to(self.device)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The network."""
        raise AssertionError

    def step(self) -> None:
        """A whole training step."""
        raise AssertionError

    def sample(self, n: int, steps: int) -> Tensor:
        """Images through the library's own entry point, uint8 on the host."""
        raise AssertionError


class Zoo(Contender):
    """What `zoo fit` does in a step beside the Trainer, which trainer_overhead.py measures."""

    arguments: ClassVar[dict[str, Any]] = {"channels_last": True}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        from zoo import DDPM
        from zoo.training import EMA

        torch.manual_seed(0)
        self.model = DDPM(**NETWORKS[options.network], lr=LR, **self.arguments).to(self.device)
        self.net = self.model.net
        with torch.no_grad():  # Ho's first network is the zero function: a poor thing to compare
            for p in self.net.parameters():
                p.add_(torch.randn(p.shape).to(p), alpha=0.01)
        if self.arguments.get("compile"):
            self.net.compile(dynamic=False)
        self.parameters = list(self.net.parameters())
        self.optimizer = self.model.configure_optimizers()
        self.trainer: Any = SimpleNamespace(global_step=0)
        self.ema = EMA(0.9999)
        self.ema.on_fit_start(self.trainer, self.model)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The network."""
        return self.model(x, t)

    def step(self) -> None:
        """A whole training step."""
        with self.autocast():
            loss = self.model.training_step((self.images, torch.zeros(0)), 0)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.trainer.global_step += 1
        self.ema.on_train_batch_end(self.trainer, self.model, loss, None, 0)

    def sample(self, n: int, steps: int) -> Tensor:
        """Images by DDIM or DPM-Solver++."""
        spacing = "logsnr" if self.sampler == "dpmpp" else "leading"
        with self.autocast():
            images = self.model.sample(n, sampler=self.sampler, steps=steps, spacing=spacing)
        return ((images + 1) * 127.5).round().byte().cpu()


class ZooContiguous(Zoo):
    """The same in PyTorch's default memory format."""

    arguments: ClassVar[dict[str, Any]] = {"channels_last": False}


class ZooCompiled(Zoo):
    """The same through torch.compile."""

    arguments: ClassVar[dict[str, Any]] = {"channels_last": True, "compile": True}


class Diffusers(Contender):
    """The loop of diffusers' train_unconditional.py, and its pipelines."""

    optimizer_arguments: ClassVar[dict[str, Any]] = {}

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        from diffusers import (
            DDIMPipeline,
            DDIMScheduler,
            DDPMPipeline,
            DDPMScheduler,
            DPMSolverMultistepScheduler,
            UNet2DModel,
        )
        from diffusers.training_utils import EMAModel

        config = NETWORKS[options.network]
        attends = [i in config["attention_levels"] for i in range(len(config["multipliers"]))]
        self.net = UNet2DModel(
            sample_size=config["image_size"],
            in_channels=config["channels"],
            out_channels=config["channels"],
            block_out_channels=tuple(config["width"] * m for m in config["multipliers"]),
            layers_per_block=config["blocks"],
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            attention_head_dim=None,
        ).to(self.device)
        self.scheduler = DDPMScheduler(variance_type="fixed_large")
        if self.sampler == "dpmpp":
            multistep = DPMSolverMultistepScheduler.from_config(
                self.scheduler.config, use_lu_lambdas=True, thresholding=True
            )
            self.pipeline = DDPMPipeline(self.net, multistep)
        else:
            self.pipeline = DDIMPipeline(self.net, DDIMScheduler.from_config(self.scheduler.config))
        self.pipeline.set_progress_bar_config(disable=True)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=LR,
            betas=(0.95, 0.999),
            weight_decay=1e-6,
            **self.optimizer_arguments,
        )
        self.ema = EMAModel(
            self.net.parameters(),
            decay=0.9999,
            use_ema_warmup=True,
            inv_gamma=1.0,
            power=0.75,
            model_cls=UNet2DModel,
            model_config=self.net.config,
        )
        self.ema.to(self.device)

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The network."""
        return self.net(x, t).sample

    def step(self) -> None:
        """A whole training step."""
        noise = torch.randn(self.images.shape, device=self.device)
        t = torch.randint(0, 1000, (self.batch,), device=self.device).long()
        noisy = self.scheduler.add_noise(self.images, noise, t)
        with self.autocast():
            output = self.net(noisy, t).sample
        loss = F.mse_loss(output.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.net.parameters())
        loss.detach().item()

    def sample(self, n: int, steps: int) -> Tensor:
        """Images by DDIM or DPM-Solver++."""
        with self.autocast():
            images = self.pipeline(n, num_inference_steps=steps, output_type="np").images
        return torch.from_numpy((images * 255).round().astype("uint8"))


class DiffusersFused(Diffusers):
    """The same with the fused optimiser."""

    optimizer_arguments: ClassVar[dict[str, Any]] = {"fused": True}


class Lucidrains(Contender):
    """denoising-diffusion-pytorch's Unet, GaussianDiffusion and the loop of its Trainer."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        self.net = Unet(**LUCIDRAINS[options.network])
        self.diffusion = GaussianDiffusion(
            self.net, image_size=self.shape[1], sampling_timesteps=options.steps
        ).to(self.device)
        self.optimizer = torch.optim.Adam(self.diffusion.parameters(), lr=LR, betas=(0.9, 0.99))
        self.ema = EMA(self.diffusion, beta=0.995, update_every=10).to(self.device)
        self.images = (self.images + 1) / 2  # it normalises by itself

    def predict(self, x: Tensor, t: Tensor) -> Tensor:
        """The network."""
        return self.net(x, t)

    def step(self) -> None:
        """A whole training step."""
        with self.autocast():
            loss = self.diffusion(self.images)
        loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(self.diffusion.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def sample(self, n: int, steps: int) -> Tensor:
        """Images by DDIM."""
        assert (self.sampler, steps) == ("ddim", self.diffusion.sampling_timesteps)
        with self.autocast():
            images = self.diffusion.sample(batch_size=n)
        return (images.float() * 255).round().byte().cpu()


CONTENDERS: dict[str, type[Contender]] = {
    "zoo": Zoo,
    "zoo-contiguous": ZooContiguous,
    "zoo-compiled": ZooCompiled,
    "diffusers": Diffusers,
    "diffusers-fused": DiffusersFused,
    "lucidrains": Lucidrains,
}
