"""Weights, gradients and optimiser state spread over processes: FSDP2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from zoo.loading import read_checkpoint
from zoo.shards import (
    SHARDS,
    SPREAD,
    is_shape,
    is_spread,
    mapped,
    new_folder,
    read_shards,
    remove_unnamed,
    write_shards,
)


class Shardable(LightningModule):
    """A LightningModule that ModelParallelStrategy spreads over processes, if it says how.

    Needs `net`, whose `parts_to_shard` are gathered one after the other.
    """

    net: Any
    sharded = False
    forwards: ClassVar[tuple[str, ...]] = ()
    """Methods of `net` and its parts, beside forward, that a step begins with."""

    def parts_to_shard(self) -> Sequence[nn.Module]:
        """The parts of `self.net` whose weights FSDP gathers one after the other.

        Raises:
            ValueError: The model is not cut.
        """
        raise ValueError(f"{type(self).__name__} cannot be spread over processes: use -c ddp")

    def configure_model(self) -> None:
        """Spreads weights, gradients and optimiser state over all processes (`-c fsdp`, FSDP2).

        Over a mesh of its own: Lightning's has a dimension for tensors cut across processes.
        """
        if self.device_mesh is None or self.sharded:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        parts, self.sharded = self.parts_to_shard(), True
        mesh = init_device_mesh(self.trainer.strategy.root_device.type, (self.trainer.world_size,))
        others = [m for m in self.children() if m is not self.net and list(m.parameters())]
        modules: list[Any] = [*parts, self.net, *others]
        for module in modules:
            fully_shard(module, mesh=mesh)
            for name in self.forwards:
                if hasattr(module, name):
                    register_fsdp_forward_method(module, name)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy, with checkpoints that hold all of a run and load on any processes.

    Lightning's own go by the names of parameters, make states of optimisers for those that never
    had a gradient, and read pickles. Here a checkpoint is the tree that one process would save,
    its distributed tensors in shards or, without `save_distributed_checkpoint`, gathered.
    """

    lightning_restore_optimizer = True
    load_model_state_dict = ParallelStrategy.load_model_state_dict
    load_optimizer_state_dict = ParallelStrategy.load_optimizer_state_dict

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The weights, of which each process holds a part."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state of the optimiser, of which each process holds a part."""
        return optimizer.state_dict()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Writes a checkpoint whole or not at all; all processes call it."""
        if not self._save_distributed_checkpoint:
            checkpoint = mapped(checkpoint, self._gathered)
            ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)
            return
        file = Path(filepath)
        file, *places = self.broadcast((file, *new_folder(file, checkpoint["global_step"])))
        write_shards(checkpoint, file, *places, first=self.is_global_zero)

    def _gathered(self, path: tuple[Any, ...], value: Any) -> Any:
        if not is_spread(value):
            return value
        whole = value.full_tensor()
        return whole.cpu() if self.is_global_zero else None

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A checkpoint with this process's parts of its tensors, whoever wrote it."""
        file = Path(checkpoint_path)
        assert self.lightning_module is not None
        weights = self.lightning_module.state_dict()
        trained = [
            dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
            for optimizer in self.optimizers
        ]

        def part(path: tuple[Any, ...], value: Any) -> Any:
            """A tensor as what it belongs to; with nothing in it where it is a shape alone."""
            match path:
                case ("state_dict" | "current_model_state", name):
                    like = weights.get(name)
                case ("optimizer_states", i, "state", number, _) if i < len(trained):
                    like = trained[i].get(number)
                case _:
                    like = None
            shape: Any = getattr(value, "shape", None)
            if not isinstance(like, DTensor) or like.shape != shape:
                return torch.zeros(shape, dtype=value.dtype) if is_shape(value) else value
            if is_shape(value):
                return torch.zeros_like(like, dtype=value.dtype)
            place = like.device_mesh, like.placements
            return distribute_tensor(value.to(like.device), *place, src_data_rank=None)

        checkpoint = read_checkpoint(file, keys=())
        filled = [*SPREAD] if self.optimizers else ["state_dict"]
        if SHARDS in checkpoint:
            return read_shards(checkpoint, file, filled, part)
        tensors = {key: checkpoint[key] for key in filled if key in checkpoint}
        return {**checkpoint, **mapped(tensors, part)}

    def remove_checkpoint(self, filepath: str | Path) -> None:
        """Removes a checkpoint with its shards."""
        super().remove_checkpoint(filepath)
        if self.is_global_zero:
            remove_unnamed(Path(filepath).parent)
