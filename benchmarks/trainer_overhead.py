"""What `zoo fit` costs beside the mathematics: its Trainer against a raw PyTorch loop.

Both do the same work on the same batches: loss, backward, clipping, fused Adam, EMA, and logging
every 50 steps. They take turns in one process, and the ratio of the medians is printed.

    python benchmarks/trainer_overhead.py [--steps 200] [--rounds 5]
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn

from zoo import DDPM
from zoo.data import Digits
from zoo.training import (
    EMA,
    AtomicCheckpointIO,
    Checkpoint,
    FiniteLoss,
    MetricsCSV,
    NoProfiler,
    StepProgressBar,
    StepRNG,
    log_every,
    settle_missing_gpu,
)

UNET = {
    "image_size": 8,
    "channels": 1,
    "levels": 17,
    "width": 64,
    "multipliers": [1, 2],
    "blocks": 1,
    "attention_levels": [1],
}


class MLP(LightningModule):
    """A model whose step takes well under a millisecond."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, 32),
            nn.ReLU(),
            nn.Linear(32, 32),
            nn.ReLU(),
            nn.Linear(32, 64),
        )

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """Denoising error."""
        return (self.net(x + torch.randn_like(x)) - x.flatten(1)).square().mean()

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        """One step."""
        loss = self.loss(batch[0])
        log_every(self, {"train/loss": loss})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Fused Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3, fused=True)


def make(name: str) -> tuple[LightningModule, Digits]:
    torch.manual_seed(0)
    model = MLP() if name == "mlp" else DDPM(**UNET)
    return model, Digits(batch_size=64)


def raw(name: str, steps: int, warm: int) -> float:
    """Seconds a step of the raw loop."""
    model, data = make(name)
    data.setup("fit")
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    averages = [p.detach().clone() for p in parameters]
    loader = data.train_dataloader()
    done, start = 0, 0.0
    while True:
        for batch in loader:
            if done == warm:
                start = time.perf_counter()
            if done == warm + steps:
                return (time.perf_counter() - start) / steps
            images, _, _ = data.on_after_batch_transfer(batch)
            loss = model.loss(images)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1e-3)
            done += 1
            if done % 50 == 0:
                loss.item()


class Clock(Callback):
    """Times the steps after the warm-up, everything between them included."""

    def __init__(self, steps: int, warm: int) -> None:
        self.steps, self.warm, self.seconds, self._start = steps, warm, 0.0, 0.0

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        """Reads the clock."""
        if trainer.global_step == self.warm:
            self._start = time.perf_counter()
        if trainer.global_step == self.warm + self.steps:
            self.seconds = (time.perf_counter() - self._start) / self.steps


class TrainOnly(LightningDataModule):
    """The training batches of another module: a fit without validation."""

    def __init__(self, data: Digits) -> None:
        super().__init__()
        self.data = data

    def setup(self, stage: str | None = None) -> None:
        """Loads the images."""
        self.data.trainer = self.trainer
        self.data.setup("fit")

    def train_dataloader(self):
        """The loader."""
        return self.data.train_dataloader()

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        """Normalises."""
        return self.data.on_after_batch_transfer(batch)


def ours(name: str, steps: int, warm: int) -> float:
    """Seconds a step of `zoo fit`'s Trainer."""
    model, data = make(name)
    clock = Clock(steps, warm)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=warm + steps + 1,
            max_epochs=-1,
            gradient_clip_val=1.0,
            log_every_n_steps=50,
            default_root_dir=folder,
            logger=[MetricsCSV(folder)],
            callbacks=[
                clock,
                StepRNG(1),
                FiniteLoss(),
                StepProgressBar(),
                EMA(0.999),
                Checkpoint(0),
            ],
            plugins=[AtomicCheckpointIO()],
            profiler=NoProfiler(),
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, TrainOnly(data))
    return clock.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settle_missing_gpu()  # for both
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    results = {}
    for name, factor in (("mlp", 10), ("unet", 1)):
        steps, warm = options.steps * factor, 20 * factor
        pairs = [(raw(name, steps, warm), ours(name, steps, warm)) for _ in range(options.rounds)]
        loop, zoo = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratios = sorted(b / a for a, b in pairs)
        results[name] = {"raw_ms": 1e3 * loop, "zoo_ms": 1e3 * zoo, "ratio": zoo / loop}
        results[name] |= {"ratio_min": ratios[0], "ratio_max": ratios[-1]}
        print(
            f"{name:<5} raw loop {1e3 * loop:8.3f} ms/step   zoo fit {1e3 * zoo:8.3f} ms/step   "
            f"ratio {zoo / loop:.3f} (rounds {ratios[0]:.3f} to {ratios[-1]:.3f})"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
