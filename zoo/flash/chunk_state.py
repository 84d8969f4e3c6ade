"""Decoding by mixed chunk attention, with a state whose size does not depend on the prefix."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.flash.scores import Score, attend


def wide(x: Tensor) -> torch.dtype:
    """Dtype of sums over many tokens: float32 at least."""
    return x.dtype if x.dtype.itemsize >= 4 else torch.float32


@dataclass
class ChunkState:
    """What decoding keeps of the past: the open chunk, and one matrix for all closed ones."""

    k_quad: Tensor
    """(B, c, s), keys of the open chunk; beyond its tokens the values have no meaning."""
    k_lin: Tensor
    """(B, c, s)."""
    v: Tensor
    """(B, c, e)."""
    summary: Tensor
    """(B, s, e), the sum of K_lin^T V over closed chunks, float32 at least."""
    lengths: list[int]
    """Tokens each row has seen. Numbers of the host, so that no step waits for the device."""

    @classmethod
    def empty(cls, batch: int, chunk: int, head: int, values: int, like: Tensor) -> "ChunkState":
        """The state before the first token, with dtype and device of `like`."""
        return cls(
            like.new_zeros(batch, chunk, head),
            like.new_zeros(batch, chunk, head),
            like.new_zeros(batch, chunk, values),
            like.new_zeros(batch, head, values, dtype=wide(like)),
            [0] * batch,
        )

    @property
    def offsets(self) -> list[int]:
        """Place in its chunk of each row's next token."""
        chunk = self.v.shape[1]
        return [n % chunk for n in self.lengths]

    def tensors(self) -> list[Tensor]:
        """All that takes memory."""
        return [self.k_quad, self.k_lin, self.v, self.summary]


def common_length(lengths: list[int]) -> int:
    """Tokens that all rows have seen; ValueError if some have seen more than others."""
    if len(set(lengths)) != 1:
        raise ValueError(
            f"rows that have seen {lengths} tokens cannot go on with several at once: "
            "feed them token by token"
        )
    return lengths[0]


def prepend(state: ChunkState, *new: Tensor) -> tuple[list[Tensor], int]:
    """The open chunk's tokens before the new ones, (B, i + n, .), and their number i."""
    opened = common_length(state.lengths) % state.v.shape[1]
    held = (state.k_quad, state.k_lin, state.v)
    return [
        torch.cat([old[:, :opened].to(x.dtype), x], 1) for old, x in zip(held, new, strict=True)
    ], opened


def advance(
    state: ChunkState, k_quad: Tensor, k_lin: Tensor, v: Tensor, lengths: list[int]
) -> ChunkState:
    """The state after more tokens.

    Args:
        state: Before them, all rows equally long.
        k_quad: Keys inside a chunk of the new tokens, shape (B, n, s).
        k_lin: Keys of the state, same shape.
        v: Values, shape (B, n, e).
        lengths: How many of the n each row really has; the rest is padding.
    """
    chunk = state.v.shape[1]
    (k_quad, k_lin, v), opened = prepend(state, k_quad, k_lin, v)
    closed = [(opened + n) // chunk * chunk for n in lengths]
    ends = torch.tensor(closed, device=v.device)[:, None]
    n = v.shape[1]
    inside = torch.arange(n, device=v.device) < ends
    dtype = state.summary.dtype
    summary = state.summary + torch.bmm((k_lin * inside[..., None]).to(dtype).mT, v.to(dtype))
    place = (ends + torch.arange(chunk, device=v.device)).clamp(max=n - 1)[..., None]
    kept = [
        x.gather(1, place.expand(-1, -1, x.shape[-1])).to(old.dtype)
        for x, old in ((k_quad, state.k_quad), (k_lin, state.k_lin), (v, state.v))
    ]
    total = [old + n for old, n in zip(state.lengths, lengths, strict=True)]
    return ChunkState(kept[0], kept[1], kept[2], summary, total)


def step(
    q_quad: Tensor,
    k_quad: Tensor,
    q_lin: Tensor,
    k_lin: Tensor,
    v: Tensor,
    state: ChunkState,
    *,
    score: Score,
    bias: Tensor | None = None,
    per_chunk: bool = False,
) -> Tensor:
    """Output of one more token a row; `state` is changed in place, so no gradients.

    Costs c (s + e) + s e multiplications, and once a chunk c s e, whatever the prefix.

    Args:
        q_quad: As for `mixed_chunk_attention`, of one token a row, (B, s); and so the next four.
        k_quad: Key inside the chunk.
        q_lin: Query of the state.
        k_lin: Key of the state.
        v: Value.
        state: What came before; rows may have seen different numbers of tokens.
        score: Weights inside a chunk.
        bias: Added to each row's products inside its chunk, shape (B, c).
        per_chunk: Divide the state by c, as FLASH-pytorch, not by the number of its tokens.

    Returns:
        Shape (B, e).
    """
    chunk = state.v.shape[1]
    offsets = state.offsets
    closed = [n - i for n, i in zip(state.lengths, offsets, strict=True)]
    held = ((state.k_quad, k_quad), (state.k_lin, k_lin), (state.v, v))
    end = max(offsets) + 1
    mask = None
    if len(set(offsets)) == 1:
        for old, new in held:
            old[:, end - 1] = new
    else:
        at = torch.tensor(offsets, device=v.device)
        rows = torch.arange(len(offsets), device=v.device)
        for old, new in held:
            old[rows, at] = new.to(old.dtype)
        mask = (torch.arange(end, device=v.device) <= at[:, None])[:, None]
    keys, values = state.k_quad[:, :end], state.v[:, :end]
    row = None if bias is None else bias[:, None, :end]
    y = attend(q_quad[:, None], keys, values, score=score, bias=row, mask=mask)
    if any(closed):
        summary = state.summary
        counts = torch.tensor([chunk if per_chunk else max(n, 1) for n in closed], device=v.device)
        read = q_lin.to(summary.dtype) / counts[:, None].to(summary.dtype)
        y = y + torch.bmm(read[:, None], summary).to(y.dtype)
    full = [b for b, i in enumerate(offsets) if i == chunk - 1]
    if full:
        chosen = slice(None) if len(full) == len(offsets) else full
        dtype = state.summary.dtype
        k_lin, v = (x[chosen].to(dtype) for x in (state.k_lin, state.v))
        state.summary[chosen] += torch.bmm(k_lin.mT, v)
    state.lengths = [n + 1 for n in state.lengths]
    return y[:, 0]
