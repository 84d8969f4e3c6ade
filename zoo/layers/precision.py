"""The precision in which losses and norms are taken."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Halves become float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
