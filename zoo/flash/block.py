"""A gated attention unit with its norm, residual, dropout and token shift."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.flash.chunk_state import ChunkState
from zoo.flash.config import FlashConfig
from zoo.flash.gau import GatedAttentionUnit, Rotary
from zoo.flash.norms import make_norm
from zoo.flash.quadratic import CacheState
from zoo.flash.recompute import Recompute


@dataclass
class ShiftedState:
    """The state of a block with token shift: its unit's, and the last token's first half."""

    unit: ChunkState | CacheState
    last: Tensor
    """(B, d / 2)."""

    @property
    def lengths(self) -> list[int]:
        """Tokens each row has seen."""
        return self.unit.lengths

    def tensors(self) -> list[Tensor]:
        """All that takes memory."""
        return [*self.unit.tensors(), self.last]


State = ChunkState | CacheState | ShiftedState


class GAUBlock(nn.Module):
    """x + GAU(norm(x)), or norm(x + GAU(x)); causal where no token sees a later one."""

    def __init__(self, config: FlashConfig, *, causal: bool) -> None:
        super().__init__()
        self.post_norm, self.token_shift = config.post_norm, config.token_shift
        self.checkpointing = config.checkpointing
        self.norm = make_norm(config.norm, config.dim, config.norm_eps)
        self.gau = GatedAttentionUnit(config, causal=causal)
        self.dropout = nn.Dropout(config.dropout)

    def _shift(self, x: Tensor, before: Tensor | None, doc_ids: Tensor | None) -> Tensor:
        moved, kept = x.chunk(2, -1)
        first = torch.zeros_like(moved[:, :1]) if before is None else before[:, None].to(x.dtype)
        moved = torch.cat([first, moved[:, :-1]], 1)
        if doc_ids is not None:  # a document's first token has none before it
            moved = moved * F.pad(doc_ids[:, 1:] == doc_ids[:, :-1], (1, 0), value=True)[..., None]
        return torch.cat([moved, kept], -1)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        key_mask: Tensor | None = None,
        doc_ids: Tensor | None = None,
        state: State | None = None,
        lengths: list[int] | None = None,
    ) -> tuple[Tensor, State | None]:
        """As for `GatedAttentionUnit`, with the residual."""
        with Recompute(not self.checkpointing) as cheap:
            y, state = self._residual(x, rotary, key_mask, doc_ids, state, lengths, cheap)
        x = x + self.dropout(y)
        return self.norm(x) if self.post_norm else x, state

    def _residual(
        self,
        x: Tensor,
        rotary: Rotary,
        key_mask: Tensor | None,
        doc_ids: Tensor | None,
        state: State | None,
        lengths: list[int] | None,
        cheap: Recompute,
    ) -> tuple[Tensor, State | None]:
        h = x if self.post_norm else cheap.of(self.norm, x, steps=True)
        inner, last = state, None
        if isinstance(state, ShiftedState):
            assert lengths is not None
            inner = state.unit
            ends = torch.tensor(lengths, device=x.device) - 1
            rows = torch.arange(len(x), device=x.device)
            # A row without new tokens keeps the half it has.
            halves = torch.cat([state.last[:, None].to(h.dtype), h.chunk(2, -1)[0]], 1)
            last = halves[rows, ends + 1]
            h = self._shift(h, state.last, doc_ids)
        elif self.token_shift:
            h = cheap.of(lambda h: self._shift(h, None, doc_ids), h)
        assert not isinstance(inner, ShiftedState)
        y, inner = self.gau(h, rotary, key_mask, doc_ids, inner, lengths, cheap)
        return y, inner if last is None or inner is None else ShiftedState(inner, last)

    def init_state(self, batch: int, like: Tensor) -> State:
        """The state before the first token, with dtype and device of `like`."""
        unit = self.gau.init_state(batch, like)
        if not self.token_shift:
            return unit
        half = self.gau.to_hidden.in_features // 2
        return ShiftedState(unit, like.new_zeros(batch, half))

    def step(self, x: Tensor, rotary: Rotary, state: State) -> Tensor:
        """Output (B, d) for one more token x (B, d) a row; changes `state`."""
        h = x if self.post_norm else self.norm(x)
        unit = state
        if isinstance(state, ShiftedState):
            moved, kept = h.chunk(2, -1)
            h = torch.cat([state.last.to(h.dtype), kept], -1)
            state.last = moved.clone()
            unit = state.unit
        assert not isinstance(unit, ShiftedState)
        x = x + self.gau.step(h, rotary, unit)
        return self.norm(x) if self.post_norm else x
