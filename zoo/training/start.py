"""What a run is going to take, told at its start."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from zoo.data.protocols import HasBatchSize, datamodule_of
from zoo.training.ema import EMA

_PARTS = 6  # of a model, that are named


class StartTable(Callback):
    """Says how large a model is, what memory its training holds, and how many steps there are.

    What the data are stands in their own lines before; what the activations take and how long it
    lasts is measured, see `Pace`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the table, on rank 0."""
        held = held_bytes(trainer, pl_module)
        told = ", ".join(f"{name} {megabytes(size)}" for name, size in held.items() if size)
        lines = [
            f"parameters: {_counts(pl_module)}",
            f"memory: {megabytes(sum(held.values()))} ({told}), and the activations",
            f"steps: {_steps(trainer)}",
        ]
        rank_zero_info("\n  ".join([f"training: {type(pl_module).__name__}", *lines]))


def held_bytes(trainer: Trainer, module: LightningModule) -> dict[str, int]:
    """Bytes of this process that a training holds from its first step on, by what they are of."""
    parameters = list(module.parameters())
    averages: list[Tensor] = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMA):
            averages += callback.averages().values()
    return {
        "weights": _bytes([*parameters, *module.buffers()]),
        "gradients": _bytes(p for p in parameters if p.requires_grad),
        "optimiser": sum(map(state_bytes, trainer.optimizers)),
        "averages": _bytes(averages),
    }


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of an optimiser's state after its first step, which is tried without any memory.

    0 of an optimiser that cannot be tried so.
    """
    if not optimizer.state:
        inner: Any = getattr(optimizer, "optimizer", optimizer)  # of a LightningOptimizer
        groups = []
        for group in inner.param_groups:
            copies = [torch.empty_like(_local(p), device="meta") for p in group["params"]]
            for copy in copies:
                copy.grad = torch.empty_like(copy)
            groups.append({**group, "params": copies, "fused": None, "foreach": False})
        try:
            optimizer = type(inner)(groups)
            optimizer.step()
        except Exception:  # another's may want anything, and this is a line of a table
            return 0
    states = [value for state in optimizer.state.values() for value in state.values()]
    return _bytes(value for value in states if isinstance(value, Tensor))


def megabytes(size: float) -> str:
    """Such as 3.1 MB or 12.4 GB."""
    return f"{size / 1e6:,.1f} MB" if size < 1e9 else f"{size / 1e9:,.1f} GB"


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(_local(t).numel() * t.element_size() for t in tensors)


def _local(tensor: Tensor) -> Tensor:
    """This process's part of a weight."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def _counts(module: LightningModule) -> str:
    """All parameters, and those of the parts."""
    parts = {
        name: sum(p.numel() for p in child.parameters()) for name, child in module.named_children()
    }
    largest = sorted((name for name in parts if parts[name]), key=lambda name: -parts[name])
    named = ", ".join(f"{name} {parts[name]:,}" for name in largest[:_PARTS])
    fixed = sum(p.numel() for p in module.parameters() if not p.requires_grad)
    more = f"; {fixed:,} of them are not trained" if fixed else ""
    whole = f"{sum(p.numel() for p in module.parameters()):,}"
    return f"{whole} ({named}){more}" if len(largest) > 1 or fixed else whole


def _steps(trainer: Trainer) -> str:
    """How many, from where, and of how large batches."""
    total = trainer.estimated_stepping_batches
    whole = f"{int(total):,}" if 0 < total < float("inf") else "until it is stopped"
    done = f", {trainer.global_step:,} of them done" if trainer.global_step else ""
    data = datamodule_of(trainer)
    if not isinstance(data, HasBatchSize):
        return whole + done
    times = trainer.world_size * int(trainer.accumulate_grad_batches)
    many = f"{data.batch_size:,}" if times == 1 else f"{times} x {data.batch_size:,}"
    return f"{whole}{done}, a batch of {many} each"
