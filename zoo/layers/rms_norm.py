"""Root-mean-square layer norm."""

import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps), times a weight if there is one (arXiv 1910.07467, eq. 4).

    torch's, whose result is of the input's dtype whatever the weight's; the mean is of float32.

    Args:
        dim: Features, the last axis.
        eps: Added to the mean square.
        affine: Have a weight; RoFormerV2 and GAU-alpha have none.
    """

    def __init__(self, dim: int, eps: float = 1e-6, *, affine: bool = True) -> None:
        super().__init__(dim, eps=eps, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis of x (..., dim)."""
        if x.dtype.itemsize >= 4:
            return super().forward(x)
        weight = None if self.weight is None else self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).to(x.dtype)
