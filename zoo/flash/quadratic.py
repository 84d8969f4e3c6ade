"""Attention of one head to all tokens (FLASH-Quad), and its decoding step with a growing cache."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from zoo.flash.chunk_state import common_length
from zoo.flash.scores import Score, attend


def toeplitz(weights: Tensor, rows: Tensor, columns: Tensor, causal: bool) -> Tensor:
    """b_ij as a learned function of the distance (arXiv 2202.10447, appendix).

    Args:
        weights: One number a distance: of i - j = 0 ... R - 1 if causal, of j - i = -(R - 1) ...
            R - 1 otherwise. Farther tokens share the last one.
        rows: Positions i, int64.
        columns: Positions j, int64.
        causal: Whether j <= i is all that is needed.

    Returns:
        Shape (*rows, *columns).
    """
    if causal:
        index = (rows[..., None] - columns).clamp(0, len(weights) - 1)
    else:
        reach = len(weights) // 2
        index = (columns - rows[..., None]).clamp(-reach, reach) + reach
    return weights[index]


def quadratic_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    score: Score,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    doc_ids: Tensor | None = None,
    start: int = 0,
    block: int = 256,
) -> Tensor:
    """Attention in O(n^2) time, by blocks of queries; many are computed again for the gradient.

    Args:
        q: Queries, shape (B, n, s), rotated by their positions.
        k: Keys, shape (B, start + n, s).
        v: Values, shape (B, start + n, e).
        causal: No token sees a later one.
        score: The weights; its size is a constant, not n, which decoding does not know.
        bias: Weights of `toeplitz`.
        key_mask: True where there is a token, bool, shape (B, start + n).
        doc_ids: Document of each token, integer, (B, n), equal within one and in no other.
        start: Number of earlier tokens, of which there are no queries.
        block: Queries at a time; more than four blocks keep no weights for the gradient.

    Returns:
        Shape (B, n, e).
    """
    total = k.shape[1]
    if key_mask is None and doc_ids is None and score.name == "softmax" and bias is None:
        # PyTorch's own, which chooses a kernel by the sizes of keys and values.
        mask = None
        if causal and start:
            mask = torch.ones(total - start, total, dtype=torch.bool, device=q.device).tril(start)
        plain = causal and not start
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain)

    def some(q: Tensor, k: Tensor, v: Tensor, *places: Any) -> Tensor:
        weights, rows, columns, mask = places
        matrix = None if weights is None else toeplitz(weights, rows, columns, causal)
        return attend(q, k, v, score=score, bias=matrix, mask=mask)

    again = total > 4 * block and torch.is_grad_enabled()
    parts = []
    for first in range(start, total, block):
        last = min(first + block, total)
        end = last if causal else total
        here = slice(first - start, last - start)
        rows = torch.arange(first, last, device=q.device)
        columns = torch.arange(end, device=q.device)
        mask = (columns <= rows[:, None])[None] if causal else None
        if key_mask is not None:
            keys = key_mask[:, None, :end]
            mask = keys if mask is None else mask & keys
        if doc_ids is not None:
            same = doc_ids[:, here, None] == doc_ids[:, None, :end]
            mask = same if mask is None else mask & same
        given = (q[:, here], k[:, :end], v[:, :end], bias, rows, columns, mask)
        parts.append(checkpoint(some, *given, use_reentrant=False) if again else some(*given))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


@dataclass
class CacheState:
    """Keys and values of all tokens so far: grows with the prefix."""

    k: Tensor
    """(B, ..., capacity, s)."""
    v: Tensor
    """(B, ..., capacity, e)."""
    lengths: list[int]
    """Tokens each row has seen."""

    @classmethod
    def empty(
        cls, batch: int, keys: tuple[int, ...], values: tuple[int, ...], like: Tensor
    ) -> "CacheState":
        """No tokens; `keys` and `values` are the shapes of one token's, (..., s) and (..., e)."""
        k, v = (like.new_zeros(batch, *shape[:-1], 0, shape[-1]) for shape in (keys, values))
        return cls(k, v, [0] * batch)

    def tensors(self) -> list[Tensor]:
        """All that takes memory."""
        return [self.k, self.v]

    def grow(self, length: int) -> None:
        """Makes room for `length` tokens, at least doubling what there is."""
        have = self.k.shape[-2]
        if length > have:
            more = max(length, 2 * have) - have
            self.k, self.v = F.pad(self.k, (0, 0, 0, more)), F.pad(self.v, (0, 0, 0, more))

    def extend(self, k: Tensor, v: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens with the new ones, (B, ..., n, .), `lengths` of a row.

        All rows must have seen equally many.
        """
        start = common_length(self.lengths)
        end = start + k.shape[-2]
        self.grow(end)
        self.k[..., start:end, :], self.v[..., start:end, :] = k, v
        self.lengths = [start + m for m in lengths]
        return self.k[..., :end, :], self.v[..., :end, :]

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Adds one token (B, ..., .) a row: all keys and values, and which a row has, (B, end)."""
        end = max(self.lengths) + 1
        self.grow(end)
        mask = None
        if len(set(self.lengths)) == 1:
            self.k[..., end - 1, :], self.v[..., end - 1, :] = k, v
        else:
            for row, n in enumerate(self.lengths):
                self.k[row, ..., n, :], self.v[row, ..., n, :] = k[row], v[row]
            seen = torch.tensor(self.lengths, device=k.device)[:, None]
            mask = torch.arange(end, device=k.device) <= seen
        self.lengths = [n + 1 for n in self.lengths]
        return self.k[..., :end, :], self.v[..., :end, :], mask


def step(
    q: Tensor, k: Tensor, v: Tensor, state: CacheState, *, score: Score, bias: Tensor | None = None
) -> Tensor:
    """Output (B, e) of one more token a row, in time that grows with the prefix; changes `state`.

    Queries and keys (B, s) are rotated by their rows' positions; `bias` is of a causal `toeplitz`.
    """
    keys, values, mask = state.append(k, v)
    matrix = None
    if bias is not None:
        rows = torch.tensor(state.lengths, device=q.device)[:, None] - 1
        matrix = toeplitz(bias, rows, torch.arange(keys.shape[1], device=q.device), True)
    mask = None if mask is None else mask[:, None]
    return attend(q[:, None], keys, values, score=score, bias=matrix, mask=mask)[:, 0]
