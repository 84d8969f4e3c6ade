"""Exponential moving average of the weights, as evaluation and sampling want them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from zoo.ranges import BelowOne, check_ranges


class EMA(Callback):
    """Averages the trained parameters: average <- d average + (1 - d) parameter, after every step.

    Only parameters are averaged, never buffers; of a module that names its `averaged_modules` (a
    GAN: its generator), only those of these sub-modules. Validation during a fit uses the average,
    a checkpoint's `state_dict` is the average (its raw weights are under `current_model_state`), so
    whatever loads the file evaluates the average, and after a fit the module holds it.

    Args:
        decay: The d above, in [0, 1); 0 keeps no average.
        warmup: Use d = min(decay, (1 + n) / (10 + n)) at update n, so that early averages are of
            recent weights instead of the random start.
    """

    def __init__(self, decay: BelowOne = 0.0, warmup: bool = True) -> None:
        check_ranges(EMA, {"decay": decay}, "--ema.")
        self.decay, self.warmup = decay, warmup
        self.updates = 0
        self._step = 0
        self._names: list[str] = []
        self._parameters: list[Tensor] = []
        self._averages: list[Tensor] = []
        self._restored: dict[str, Tensor] | None = None
        self._swapped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the averages from the weights, or from the checkpoint, on the weights' device."""
        if self.decay == 0:
            return
        only = tuple(f"{name}." for name in getattr(pl_module, "averaged_modules", ()))
        named = [
            (name, parameter)
            for name, parameter in pl_module.named_parameters()
            if parameter.requires_grad and (not only or name.startswith(only))
        ]
        self._names = [name for name, _ in named]
        self._parameters = [parameter for _, parameter in named]
        start = self._restored or dict(named)
        # In the parameters' memory layout, whatever the file's.
        self._averages = [torch.empty_like(p).copy_(start[name].detach()) for name, p in named]
        self._restored = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the step that the run goes on from; the loops are restored only now."""
        self._step = trainer.global_step

    def current_decay(self) -> float:
        """The d of the next update."""
        if not self.warmup:
            return self.decay
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One fused update, unless the batch only accumulated gradients."""
        if self._averages and trainer.global_step != self._step:
            self._step = trainer.global_step
            averages, weights = _here(self._averages), _here(self._parameters)
            torch._foreach_lerp_(averages, weights, 1 - self.current_decay())
            self.updates += 1

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        for module in pl_module.modules():
            reshard: Any = getattr(module, "reshard", None)
            if reshard:  # FSDP's: what it has gathered would not see the change
                reshard()
        averages, weights = _here(self._averages), _here(self._parameters)
        kept = [average.clone() for average in averages]
        torch._foreach_copy_(averages, weights)
        torch._foreach_copy_(weights, kept)
        self._swapped = not self._swapped

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the averages into the module while a fit validates."""
        if self._averages:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the averages out again."""
        if self._swapped:
            self._swap(pl_module)

    def averages(self) -> dict[str, Tensor]:
        """The average of each averaged parameter by its name in the module."""
        tensors = self._parameters if self._swapped else self._averages
        return {name: t.detach() for name, t in zip(self._names, tensors, strict=True)}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the averages in the module when a fit ends, and keeps nothing."""
        if stage == "fit" and self._averages:
            if not self._swapped:
                self._swap(pl_module)
            self._names, self._parameters, self._averages, self._swapped = [], [], [], False

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Makes the average the checkpoint's `state_dict`."""
        if not self._averages:
            return
        raw = self._averages if self._swapped else self._parameters
        weights = checkpoint["state_dict"]
        now = {name: t.detach() for name, t in zip(self._names, raw, strict=True)}
        checkpoint["current_model_state"] = {**weights, **now}
        checkpoint["state_dict"] = {**weights, **self.averages()}
        checkpoint["ema_updates"] = self.updates

    @torch.no_grad()
    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Resumes: raw weights into the module, the average into this callback."""
        if trainer.state.fn != "fit" or "current_model_state" not in checkpoint:
            return  # Lightning calls this for an evaluation too, which wants the average
        self.updates, raw = checkpoint["ema_updates"], checkpoint["current_model_state"]
        self._restored = checkpoint["state_dict"]
        pl_module.load_state_dict(raw)
        if self._averages:  # under FSDP the fit has started before
            restored = [self._restored[name] for name in self._names]
            torch._foreach_copy_(_here(self._averages), _here(restored))
            self._restored = None


@contextmanager
def averaged(trainer: Trainer) -> Iterator[None]:
    """With the averages in the module, between two steps of a fit that keeps some."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    keeping = [c for c in callbacks if isinstance(c, EMA) and c._averages and not c._swapped]
    for callback in keeping:
        callback._swap(trainer.lightning_module)
    try:
        yield
    finally:
        for callback in keeping:
            callback._swap(trainer.lightning_module)


def _here(tensors: list[Tensor]) -> list[Tensor]:
    """What this process holds of tensors, which is all of them but under FSDP."""
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
