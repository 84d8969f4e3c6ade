"""Means over the items of an evaluation, exact on uneven batches and uneven shards."""

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from zoo.layers.precision import wide


def added(one: Tensor, other: Tensor | None) -> Tensor:
    """The sum of two tensors, (..., n) and (..., m), of which the shorter goes on with zeros."""
    if other is None:
        return one
    longest = max(one.shape[-1], other.shape[-1])
    one, other = (F.pad(x, (0, longest - x.shape[-1])) for x in (one, other))
    return one + other


class Averages:
    """Sums per item, reduced over the processes at the end of the epoch.

    `self.log(..., sync_dist=True)` is not exact: Lightning 2.6 averages the processes' numbers of
    items as integers, so that 23 items on 2 processes count as 22.

    Args:
        *names: Metrics to average; every process names the same ones, also one without any item.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.count = 0
        self._sums: Tensor | None = None

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Adds the values of a batch's items, shape (B,) each; does not wait for the device."""
        assert set(values) == set(self.names)
        batch = torch.stack([values[name] for name in self.names])
        sums = batch.to(wide(batch.device)).sum(1)
        self._sums = sums if self._sums is None else self._sums + sums
        self.count += len(values[self.names[0]])

    def log(self, module: LightningModule, prog_bar: bool = False) -> int:
        """Logs the means from a hook at the end of an epoch, and starts again; no items, no means.

        Returns:
            The number of items, over all processes.
        """
        sums = self._sums
        if sums is None:
            device = module.device
            sums = torch.zeros(len(self.names), dtype=wide(device), device=device)
        totals = torch.cat([sums, sums.new_tensor([self.count])])
        *means, count = module.trainer.strategy.reduce(totals, reduce_op="sum").tolist()
        # Every process has the same values; sync_dist only tells Lightning that we thought of it.
        if count:
            values = {name: mean / count for name, mean in zip(self.names, means, strict=True)}
            module.log_dict(values, prog_bar=prog_bar, sync_dist=True)
        self._sums, self.count = None, 0
        return int(count)
