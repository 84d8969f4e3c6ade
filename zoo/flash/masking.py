"""Which symbols a masked language model must guess, and what it sees in their place."""

import torch
from torch import Tensor


def mask_tokens(
    tokens: Tensor,
    valid: Tensor,
    u: Tensor,
    *,
    rate: float,
    mask: int,
    symbols: int,
    words: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Replaces chosen symbols: 8 of 10 by a mask, 1 by any symbol, 1 by itself (arXiv 1810.04805).

    Args:
        tokens: int64, shape (B, n).
        valid: Which may be chosen, bool, shape (B, n).
        u: Uniform in [0, 1), shape (B, n, 3).
        rate: Probability of a symbol, or of a word, to be chosen.
        mask: Number of the mask.
        symbols: Symbols to replace by are 0 ... symbols - 1.
        words: Position of the first symbol of each symbol's word, int64, shape (B, n): a word is
            chosen as a whole.

    Returns:
        What the model sees, and which symbols it must guess, bool; (B, n) each.
    """
    choice = u[..., 0] if words is None else u[..., 0].gather(1, words)
    chosen = (choice < rate) & valid
    instead = (u[..., 2] * symbols).long().clamp(max=symbols - 1)
    instead = instead.where((u[..., 1] >= 0.8) & (u[..., 1] < 0.9), tokens)
    instead = instead.masked_fill(u[..., 1] < 0.8, mask)
    return torch.where(chosen, instead, tokens), chosen
