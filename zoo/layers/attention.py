"""Softmax attention, by whichever of two forms is faster where it is computed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.layers.precision import BF16_UNITS

# Keys up to which two products and a softmax are the faster form in bf16 on a CPU with instructions
# for it, whose fused kernel is slow: forward and backward take 0.15 of its time with 32 keys, 0.5
# with 256, 0.7 with 512, and as much with 2,048; forward alone 0.7, 0.5, 0.6 and 1.1 (torch 2.14,
# one thread of an AMD EPYC; findings/torch_attention_in_bf16_on_a_cpu.sh). Where bf16 is emulated
# it is the other way round; in float32 they take as long for few keys, twice as long for many.
_KEYS = 512


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v (arXiv 1706.03762, equation 1), all of one dtype.

    The form by two products has q k^T in the dtype itself, as attention that is written out always
    has: a score of s is off by up to 2^-9 s in bf16, and with it the weights of large scores.

    Args:
        q: Queries, shape (B, h, L, d).
        k: Keys, shape (B, h, S, d).
        v: Values, shape (B, h, S, e).
        mask: True where a query sees a key, bool, broadcast to (B, h, L, S); all if not given. A
            query sees one key or more.
        dropout: Probability with which a weight is left out.

    Returns:
        Shape (B, h, L, e).
    """
    if not _by_products(q, k, dropout):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1)
    return (F.dropout(weights, dropout) if dropout else weights) @ v


def _by_products(q: Tensor, k: Tensor, dropout: float) -> bool:
    """Whether two products and a softmax are the faster form; of a single query they always are."""
    if q.device.type != "cpu":
        return False
    if q.shape[-2] == 1 and not dropout:
        return True
    return q.dtype == torch.bfloat16 and k.shape[-2] <= _KEYS and BF16_UNITS
