"""The gated attention unit, with either attention, and with another sequence's keys and values."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from zoo.flash import chunk_state, quadratic
from zoo.flash.attention import mixed_chunk_attention
from zoo.flash.chunk_state import ChunkState
from zoo.flash.config import FlashConfig
from zoo.flash.quadratic import CacheState, quadratic_attention, toeplitz
from zoo.flash.recompute import Recompute
from zoo.flash.scores import Score, attend
from zoo.layers.rotary import rotate

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of the positions, (n, r / 2) each, or (B, 1, r / 2) of one token a row."""


class _SiLUParts(torch.autograd.Function):
    """SiLU of the parts of x (..., n); what they give back goes into one gradient, not copied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x)
        ctx.sizes = sizes
        return tuple(F.silu(part) for part in torch.split(x, sizes, -1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        parts = (torch.split(each, ctx.sizes, -1) for each in (x, out))
        for part, whole, grad in zip(*parts, grads, strict=True):
            torch.ops.aten.silu_backward.grad_input(grad, part, grad_input=whole)
        return out, None


def _silu_parts(x: Tensor, sizes: list[int], cheap: Recompute) -> list[Tensor]:
    """SiLU of the parts of x, made again one by one, so that none is held for the others' sake."""
    parts = torch.split(x, sizes, -1)
    if torch.compiler.is_compiling():  # which does better by itself
        return [F.silu(part) for part in parts]
    made = list(_SiLUParts.apply(x, sizes))
    for out, part in zip(made, parts, strict=True):
        cheap.note(out, F.silu, part)
    return made


class GatedAttentionUnit(nn.Module):
    """O = (U * A V) W_o: attention and feed-forward in one layer, with one head.

    arXiv 2202.10447, section 2; kexue.fm/archives/8934. U, V and Z are SiLU(X W); queries and
    keys are gamma Z + beta, a pair (gamma, beta) each, turned by their positions.

    >>> unit = GatedAttentionUnit(FlashConfig(dim=8, head_size=4), causal=True)
    >>> still = torch.ones(5, 2), torch.zeros(5, 2)  # no rotation
    >>> unit(torch.randn(3, 5, 8), still)[0].shape
    torch.Size([3, 5, 8])

    Args:
        config: Of the network.
        causal: No token sees a later one.
    """

    position_bias: nn.Parameter | None
    beta: nn.Parameter | None

    def __init__(self, config: FlashConfig, *, causal: bool) -> None:
        super().__init__()
        self.config, self.causal, self.score = config, causal, config.weights
        width, head = config.width, config.head_size
        self.to_hidden = nn.Linear(config.dim, 2 * width + head, bias=config.bias)
        self.to_out = nn.Linear(width, config.dim, bias=config.bias)
        # quad q, quad k, and for flash lin q, lin k
        copies = 4 if config.kind == "flash" else 2
        self.gamma = nn.Parameter(torch.ones(copies, head))
        self.beta = nn.Parameter(torch.zeros(copies, head)) if config.offsets else None
        size = self.score.size if causal else 2 * self.score.size - 1
        self.position_bias = nn.Parameter(torch.zeros(size)) if config.position_bias else None

    def project(
        self, x: Tensor, rotary: Rotary, cheap: Recompute
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """U, V (B, n, e), and the queries and keys (B, n, s)."""
        width, head = self.config.width, self.config.head_size
        u, v, z = _silu_parts(self.to_hidden(x), [width, width, head], cheap)
        gamma = self.gamma[:, None, None]  # (copies, 1, 1, s): a copy is one block of memory
        if self.beta is None:
            copies = z * gamma
        else:
            copies = torch.addcmul(self.beta[:, None, None], z, gamma)
        turned = list(rotate(copies, *rotary, self.config.pairing).to(v.dtype).unbind(0))
        if not self.config.global_part:
            turned[3] = torch.zeros_like(turned[3])
        return u, v, turned

    def local_bias(self) -> Tensor | None:
        """The bias of the positions in a chunk, (c, c)."""
        if self.position_bias is None:
            return None
        positions = torch.arange(self.config.chunk, device=self.position_bias.device)
        return toeplitz(self.position_bias, positions, positions, self.causal)

    def _row_bias(self, state: ChunkState) -> Tensor | None:
        """Rows of `local_bias` for the next token, (B, c)."""
        if self.position_bias is None:
            return None
        chunk, device = self.config.chunk, self.position_bias.device
        rows = torch.tensor(state.offsets, device=device)
        return toeplitz(self.position_bias, rows, torch.arange(chunk, device=device), True)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        key_mask: Tensor | None = None,
        doc_ids: Tensor | None = None,
        state: ChunkState | CacheState | None = None,
        lengths: list[int] | None = None,
        cheap: Recompute | None = None,
    ) -> tuple[Tensor, ChunkState | CacheState | None]:
        """The unit's output (B, n, d), and the state after it where one was given.

        Args:
            x: Normalised input, shape (B, n, d).
            rotary: Tables of its positions.
            key_mask: True where there is a token, bool, shape (B, n).
            doc_ids: Document of each token, shape (B, n).
            state: What came before, to go on from.
            lengths: Tokens each row really has, with a state.
            cheap: What is not kept for the backward pass; all is kept if not given.
        """
        cheap = cheap or Recompute(False)
        u, v, copies = self.project(x, rotary, cheap)
        if self.config.kind == "flash":
            assert not isinstance(state, CacheState)
            q_quad, k_quad, q_lin, k_lin = copies
            y = mixed_chunk_attention(
                *(q_quad, k_quad, q_lin, k_lin, v),
                chunk=self.config.chunk,
                causal=self.causal,
                score=self.score,
                bias=self.local_bias(),
                key_mask=key_mask,
                doc_ids=doc_ids,
                state=state,
                global_norm=self.config.global_norm,
            )
            if state is not None:
                assert lengths is not None
                state = chunk_state.advance(state, k_quad, k_lin, v, lengths)
        else:
            assert not isinstance(state, ChunkState)
            q, k = copies
            start = 0
            if state is not None:
                assert lengths is not None
                start = state.lengths[0]
                k, v = state.extend(k, v, lengths)
            y = quadratic_attention(
                *(q, k, v),
                causal=self.causal,
                score=self.score,
                bias=self.position_bias,
                key_mask=key_mask,
                doc_ids=doc_ids,
                start=start,
            )
        out: Tensor = self.to_out(cheap.of(torch.mul, u, y))
        return out, state

    def init_state(self, batch: int, like: Tensor) -> ChunkState | CacheState:
        """The state before the first token, with dtype and device of `like`."""
        width, head = self.config.width, self.config.head_size
        if self.config.kind == "flash":
            return ChunkState.empty(batch, self.config.chunk, head, width, like)
        return CacheState.empty(batch, (head,), (width,), like)

    def step(self, x: Tensor, rotary: Rotary, state: ChunkState | CacheState) -> Tensor:
        """Output (B, d) for one more token x (B, d) a row; changes `state`."""
        u, v, copies = self.project(x[:, None], rotary, Recompute(False))
        q, k, *linear = (copy[:, 0] for copy in copies)
        if isinstance(state, ChunkState):
            q_lin, k_lin = linear
            token = (q, k, q_lin, k_lin, v[:, 0])
            bias, per_chunk = self._row_bias(state), self.config.global_norm == "chunk"
            y = chunk_state.step(*token, state, score=self.score, bias=bias, per_chunk=per_chunk)
        else:
            y = quadratic.step(q, k, v[:, 0], state, score=self.score, bias=self.position_bias)
        return self.to_out(u[:, 0] * y)


class CrossGatedAttentionUnit(nn.Module):
    """A gated attention unit whose keys and values are of another sequence.

    Which the post misses in the paper. Only attention to all has a meaning here: the chunks of two
    sequences do not go together.

    Args:
        dim: Width of the queries' sequence.
        expanded: Width e of U and V.
        head: Size s of queries and keys.
        context_dim: Width of the other sequence; `dim` if not given.
        score: The weights; relu2 and relu2_paper divide by its size, whatever the other's length.
        bias: Dense layers have a bias.
    """

    def __init__(
        self,
        dim: int,
        expanded: int,
        head: int,
        *,
        context_dim: int | None = None,
        score: Score | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.expanded, self.head = expanded, head
        self.score = score or Score("softmax_plus")
        self.to_query = nn.Linear(dim, expanded + head, bias=bias)
        self.to_key_value = nn.Linear(context_dim or dim, expanded + head, bias=bias)
        self.to_out = nn.Linear(expanded, dim, bias=bias)
        self.gamma = nn.Parameter(torch.ones(2, head))
        self.beta = nn.Parameter(torch.zeros(2, head))

    def forward(self, x: Tensor, context: Tensor, context_mask: Tensor | None = None) -> Tensor:
        """Output (B, n, d) of x (B, n, d) that looks at context (B, m, d'), masked (B, m)."""
        sizes = [self.expanded, self.head]
        u, q = torch.split(F.silu(self.to_query(x)), sizes, -1)
        v, k = torch.split(F.silu(self.to_key_value(context)), sizes, -1)
        q, k = (copy * g + b for copy, g, b in zip((q, k), self.gamma, self.beta, strict=True))
        mask = None if context_mask is None else context_mask[:, None]
        y = attend(q.to(v.dtype), k.to(v.dtype), v, score=self.score, mask=mask)
        return self.to_out(u * y)
