"""The honest baseline: a Transformer block of today, with the fused attention of PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.flash.config import FlashConfig
from zoo.flash.gau import Rotary
from zoo.flash.quadratic import CacheState
from zoo.layers.rms_norm import RMSNorm
from zoo.layers.rotary import rotate


def swiglu_width(dim: int, expanded: int, head: int) -> int:
    """Hidden units that give a block the parameters of two gated attention units.

    Two units have 6 d e + 2 d s weights, attention has 4 d^2, and SwiGLU 3 d h.
    """
    room = 6 * expanded + 2 * head - 4 * dim
    if room <= 0:
        raise ValueError(
            f"kind=transformer: two units of e={expanded}, s={head} have no more weights than "
            f"attention of d={dim}: give them a larger expansion"
        )
    return max(round(room / 3 / 4) * 4, 4)


class Attention(nn.Module):
    """Multi-head attention with rotary embedding."""

    def __init__(self, config: FlashConfig, *, causal: bool) -> None:
        super().__init__()
        dim, self.heads = config.dim, config.head_count
        self.causal, self.pairing = causal, config.pairing
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (B, heads, n, d / heads)."""
        B, n, _ = x.shape
        qkv = self.to_qkv(x).reshape(B, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        cos, sin = rotary
        if cos.ndim == 3:  # of one token a row
            cos, sin = cos[:, None], sin[:, None]
        q, k = rotate(qkv[:2], cos, sin, self.pairing).to(qkv.dtype)
        return q, k, qkv[2]

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        key_mask: Tensor | None = None,
        doc_ids: Tensor | None = None,
        state: CacheState | None = None,
        lengths: list[int] | None = None,
    ) -> tuple[Tensor, CacheState | None]:
        """As for `GatedAttentionUnit`."""
        q, k, v = self.project(x, rotary)
        n, start = x.shape[1], 0
        if state is not None:
            assert lengths is not None
            start = state.lengths[0]
            k, v = state.extend(k, v, lengths)
        mask = None
        if key_mask is not None or doc_ids is not None or (start and n > 1):
            mask = torch.ones(1, n, start + n, dtype=torch.bool, device=x.device)
            mask = mask.tril(start) if self.causal else mask
            if doc_ids is not None:
                mask = mask & (doc_ids[:, :, None] == doc_ids[:, None, :])
            if key_mask is not None:
                # A padding token sees itself, as softmax must see something.
                mask = (mask & key_mask[:, None]) | torch.eye(n, dtype=torch.bool, device=x.device)
            mask = mask[:, None]
        plain = self.causal and mask is None and not start
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=plain)
        return self.to_out(y.transpose(1, 2).reshape(x.shape)), state

    def init_state(self, batch: int, like: Tensor) -> CacheState:
        """The state before the first token."""
        shape = (self.heads, self.to_out.in_features // self.heads)
        return CacheState.empty(batch, shape, shape, like)

    def step(self, x: Tensor, rotary: Rotary, state: CacheState) -> Tensor:
        """Output (B, d) for one more token x (B, d) a row; changes `state`."""
        q, k, v = self.project(x[:, None], rotary)
        keys, values, mask = state.append(k[:, :, 0], v[:, :, 0])
        mask = None if mask is None else mask[:, None, None]
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.to_out(y.reshape(x.shape))


class TransformerBlock(nn.Module):
    """x + Attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)) (arXiv 2002.05202).

    It stands for two units of the config's.
    """

    def __init__(self, config: FlashConfig, *, causal: bool) -> None:
        super().__init__()
        dim, hidden = config.dim, swiglu_width(config.dim, config.width, config.head_size)
        self.norm = RMSNorm(dim, config.norm_eps)
        self.attention = Attention(config, causal=causal)
        self.ffn_norm = RMSNorm(dim, config.norm_eps)
        self.to_hidden = nn.Linear(dim, 2 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, dim, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def _feed_forward(self, x: Tensor) -> Tensor:
        gate, value = self.to_hidden(self.ffn_norm(x)).chunk(2, -1)
        return x + self.dropout(self.to_out(F.silu(gate) * value))

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        key_mask: Tensor | None = None,
        doc_ids: Tensor | None = None,
        state: CacheState | None = None,
        lengths: list[int] | None = None,
    ) -> tuple[Tensor, CacheState | None]:
        """As for `GatedAttentionUnit`, with the residual."""
        y, state = self.attention(self.norm(x), rotary, key_mask, doc_ids, state, lengths)
        return self._feed_forward(x + self.dropout(y)), state

    def init_state(self, batch: int, like: Tensor) -> CacheState:
        """The state before the first token."""
        return self.attention.init_state(batch, like)

    def step(self, x: Tensor, rotary: Rotary, state: CacheState) -> Tensor:
        """Output (B, d) for one more token x (B, d) a row; changes `state`."""
        return self._feed_forward(x + self.attention.step(self.norm(x), rotary, state))
