"""Weights, gradients and optimiser state spread over processes: FSDP2."""

from collections.abc import Sequence
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from torch import nn


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
