"""Randomness of a training batch as a function of (seed, rank, batch number)."""

import os
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.layers.seeds import mix


class StepRNG(Callback):
    """Seeds torch's generators before every training batch.

    Lightning gives all ranks one stream and stores no generator in a checkpoint. With a seed that
    depends on (seed, rank, batch number) every rank draws its own noise, and a resumed run draws
    what the uninterrupted one would have drawn; nothing has to be stored, and what validation
    draws in between changes nothing.

    So two processes do not draw what one would for the same global batch, nor do accumulated
    batches draw what one large one would. Draws of the global batch, of which each process takes
    its rows, would cost a process as many times more as there are processes; numbers by item
    (`zoo.layers.counter_rng`) cost seven times as much as PyTorch's dropout on a CPU, and its
    fused attention and LSTMs take no masks at all.

    Args:
        seed: Defaults to what `seed_everything` set.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds the generator of the CPU and of the module's device."""
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", "0"))
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        step_seed = mix(seed, trainer.global_rank, number)
        # A generator at a time: torch.manual_seed goes through every backend, 100 times slower.
        torch.default_generator.manual_seed(step_seed)
        if pl_module.device.type == "cuda":
            torch.cuda.default_generators[pl_module.device.index].manual_seed(step_seed)
