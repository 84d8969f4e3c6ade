"""Rotary position embedding with tables that are rounded once."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.ranges import check_ranges

Pairing = Literal["interleaved", "half"]


def rotary_tables(
    positions: Tensor, dim: int, *, base: float = 10000.0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles t base^(-2 i / dim) (arXiv 2104.09864, eq. 15).

    The angles are computed in float64: bfloat16 has no integers beyond 256, and float32 angles of
    position 65,000 are off by 0.002.

    Args:
        positions: Integer positions t, any shape.
        dim: Features to rotate, even.
        base: Base of the frequencies.
        dtype: Of the tables; a narrow one gets the float32 value, rounded.

    Returns:
        Two tensors of shape (*positions, dim / 2).
    """
    if dim < 2 or dim % 2:
        raise ValueError(f"rotary dim={dim}: features are rotated in pairs, give an even number")
    i = torch.arange(0, dim, 2, dtype=torch.float64, device="cpu")
    angles = positions.cpu().double()[..., None] * base ** (-i / dim)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    cos, sin = (f(angles).to(wide).to(positions.device, dtype) for f in (torch.cos, torch.sin))
    return cos, sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairing: Pairing) -> Tensor:
    """Rotates pairs of features by their angles (arXiv 2104.09864, eq. 34).

    Args:
        x: Features, shape (..., n, D).
        cos: Cosines, shape (n, dim / 2) or one that broadcasts; features beyond `dim` stay.
        sin: Sines of the same shape.
        pairing: interleaved pairs features (2 i, 2 i + 1), as RoFormer and GPT-J; half pairs
            (i, i + dim / 2), as GPT-NeoX and Llama.
    """
    dim = 2 * cos.shape[-1]
    turned = x[..., :dim]
    if pairing == "half":
        a, b = turned.chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    else:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    return turned if dim == x.shape[-1] else torch.cat([turned, x[..., dim:].to(turned)], -1)


class RotaryEmbedding(nn.Module):
    """Rotary embedding that keeps its tables, in the precision of the model.

    The tables are buffers without a place in the state dict. They grow when a longer sequence
    comes, and are computed anew when the model changes its precision: each entry is the exact one,
    rounded. In bfloat16 that is an error of up to 2^-9 at any position; under autocast the tables
    are float32.

    Args:
        dim: Features to rotate, even; the first of each head.
        base: Base of the frequencies.
        pairing: interleaved (RoFormer, GPT-J) or half (GPT-NeoX, Llama).
        length: Positions to begin with.

    Raises:
        ValueError: `dim` is odd, or there is no such pairing.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        dim: int,
        *,
        base: float = 10000.0,
        pairing: Pairing = "interleaved",
        length: int = 512,
    ) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(
                f"rotary dim={dim}: features are rotated in pairs, give an even number"
            )
        check_ranges(RotaryEmbedding, {"pairing": pairing})
        self.dim, self.base, self.pairing = dim, base, pairing
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)
        self._build(length)

    def _build(self, length: int) -> None:
        positions, like = torch.arange(length, device="cpu"), self.cos
        cos, sin = rotary_tables(positions, self.dim, base=self.base, dtype=like.dtype)
        self.cos, self.sin = cos.to(like.device), sin.to(like.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        dtype = self.cos.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.cos.dtype != dtype:
            self._build(len(self.cos))
        return self

    def tables(self, end: int, start: int = 0) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions start ... end - 1, shape (end - start, dim / 2)."""
        if end > len(self.cos):
            self._build(max(end, 2 * len(self.cos)))
        return self.cos[start:end], self.sin[start:end]

    def at(self, positions: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of int64 positions of any shape, all below `end`: (*, dim / 2)."""
        cos, sin = self.tables(end)
        return cos[positions], sin[positions]

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotates x (..., n, D) at positions start, start + 1, ..."""
        return rotate(x, *self.tables(start + x.shape[-2], start), self.pairing)
