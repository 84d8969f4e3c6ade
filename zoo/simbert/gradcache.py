"""Large batches on small memory, exactly: GradCache (arXiv 2101.06983; kexue.fm/archives/8471)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(
    function: Callable[[slice], tuple[Tensor, ...]], rows: int, chunk: int
) -> tuple[Tensor, ...]:
    """A function of all rows with the memory of a few of them.

    Each chunk is computed without keeping what its backward pass needs, and again, with the same
    dropout, when the gradient of the loss over all rows is known. That is gradient checkpointing a
    chunk at a time, so it is exact, works with any optimiser loop and under DDP, and costs one
    forward pass more.

    Args:
        function: Outputs of some rows; outputs with rows are concatenated, scalars added.
        rows: Number of rows.
        chunk: Rows at a time; 0 for all at once, without recomputation.
    """
    if not chunk or chunk >= rows:
        return function(slice(0, rows))
    parts = [
        checkpoint(function, slice(start, min(start + chunk, rows)), use_reentrant=False)
        for start in range(0, rows, chunk)
    ]
    return tuple(
        torch.cat(output) if output[0].ndim else torch.stack(output).sum()
        for output in zip(*parts, strict=True)
    )
