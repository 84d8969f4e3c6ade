"""Tensors of all processes, with the gradient that one process would have; and who they are."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]


def processes() -> int:
    """How many processes train together; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def place() -> tuple[int, int]:
    """Rank of this process and how many there are, as torchrun or srun started them."""
    here = os.environ
    for names in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if all(name in here for name in names):
            return int(here[names[0]]), int(here[names[1]])
    return 0, 1


def launched(options: Mapping[str, Any]) -> dict[str, int]:
    """The processes that torchrun has started, as a Trainer's options that say of none.

    Lightning would take one of a CPU, or all GPUs of the machine, and refuse torchrun's number.
    """
    here = os.environ
    if options.get("devices") not in (None, "auto") or "TORCHELASTIC_RUN_ID" not in here:
        return {}
    own, world = int(here["LOCAL_WORLD_SIZE"]), int(here["WORLD_SIZE"])
    nodes = options.get("num_nodes") or 1
    return {"devices": own, "num_nodes": max(world // own, 1) if nodes == 1 else nodes}


def wait_for_all() -> None:
    """Returns when all processes that torchrun or srun started have come here."""
    rank, count = place()
    if "MASTER_ADDR" not in os.environ:
        slurm = SLURMEnvironment(auto_requeue=False)
        os.environ["MASTER_ADDR"] = slurm.main_address
        os.environ["MASTER_PORT"] = str(slurm.main_port)
    dist.init_process_group("gloo", rank=rank, world_size=count, timeout=timedelta(days=30))
    dist.barrier()
    dist.destroy_process_group()


def gather_with_grad(x: Tensor) -> Tensor:
    """Concatenates a tensor of every process along its first dimension, differentiably.

    The backward pass sums the gradients that all processes have for one process's part. DDP then
    averages over processes, so a loss that every process computes over the whole gathered batch
    has, after DDP, exactly the one-process gradient. The shape (B, ...) is the same everywhere; the
    result (world_size * B, ...) is in the order of the ranks.
    """
    if processes() == 1:
        return x
    return _Gather.apply(x)


def token_mean(total: Tensor, count: int | Tensor) -> Tensor:
    """A sum over this process's tokens, so scaled that DDP's mean is the mean over all tokens.

    `count`, the number of this process's tokens, is a tensor where only the device knows it.
    """
    count = torch.as_tensor(count, dtype=torch.float32, device=total.device)
    if processes() > 1:
        count = count.clone()
        dist.all_reduce(count)
    return total * processes() / count.clamp(min=1)


def average_over_processes(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """Means over the processes, by one collective over one flat buffer; nothing to do for one.

    `DistributedDataParallel` would wait, at every backward pass, for gradients of the network that
    is not trained; and it does not see what `torch.autograd.grad` returns.
    """
    if processes() == 1:
        return gradients
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= processes()
    parts = torch.split(flat, [g.numel() for g in gradients])
    return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
