"""What the modules of all families share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from zoo.loading import class_path
from zoo.training.optim import clip
from zoo.training.sharding import Shardable


class Module(Shardable):
    """A LightningModule whose checkpoints `zoo.load` reads, and which clips in every precision."""

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips all gradients as `--trainer.gradient_clip_val` says.

        Lightning refuses to under bf16 with a fused optimiser, which might unscale gradients; bf16
        has no scaler, and fp16, which has one, gets an optimiser that is not fused.
        """
        clip(self.parameters(), gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the class, for `zoo.load`."""
        checkpoint["zoo_class"] = class_path(self)


@contextmanager
def evaluating(model: Any, *, precise: bool = False) -> Iterator[None]:
    """Without gradients, dropout and batch statistics, also in the middle of a fit.

    Args:
        model: A module, or what takes its place.
        precise: Without autocast, too.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    device = getattr(model, "device", torch.device("cpu")).type
    try:
        with torch.no_grad(), torch.autocast(device, enabled=False) if precise else nullcontext():
            yield
    finally:
        for module in training:
            module.training = True


def by_step(schedule: Mapping[Any, float] | None) -> dict[int, float]:
    """The multipliers of a schedule by step; keys that went through JSON are text."""
    return {int(step): float(value) for step, value in (schedule or {0: 1.0}).items()}


def numbers_of(batch: Sequence[Tensor], batch_idx: int) -> Tensor:
    """Numbers of a batch's items in their split; data without numbers is counted by batch."""
    if len(batch) > 2:
        return batch[2]
    size = len(batch[0])
    return torch.arange(batch_idx * size, (batch_idx + 1) * size, device=batch[0].device)
