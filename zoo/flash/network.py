"""Tokens in, logits out: embedding, blocks of one of three kinds, head."""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.flash.attention import GEMM_CHUNKS
from zoo.flash.block import GAUBlock
from zoo.flash.config import FlashConfig
from zoo.flash.norms import make_norm
from zoo.flash.transformer import TransformerBlock
from zoo.layers.rotary import RotaryEmbedding


@dataclass
class DecodeState:
    """What a model keeps of the tokens it has seen."""

    layers: list[Any]

    @property
    def lengths(self) -> list[int]:
        """Tokens each row has seen."""
        return self.layers[0].lengths

    def nbytes(self) -> int:
        """Memory of all tensors."""
        tensors = [t for layer in self.layers for t in layer.tensors()]
        return sum(t.numel() * t.element_size() for t in tensors)


class Network(nn.Module):
    """Logits of each token.

    >>> network = Network(FlashConfig(dim=8, depth=2, head_size=4), vocabulary=5, causal=True)
    >>> network(torch.tensor([[3, 1, 4]])).shape
    torch.Size([1, 3, 5])

    Args:
        config: What it is made of; half as many blocks as units if it is a transformer, which have
            as many parameters.
        vocabulary: Number of symbols.
        causal: No token sees a later one.
        segments: Number of token types with an embedding, 0 for none.
    """

    def __init__(
        self, config: FlashConfig, *, vocabulary: int, causal: bool, segments: int = 0
    ) -> None:
        super().__init__()
        dim, eps = config.dim, config.norm_eps
        self.config, self.compiled = config, False
        self.embedding = nn.Embedding(vocabulary, dim)
        self.segments = nn.Embedding(segments, dim) if segments else None
        sines = config.sinusoidal
        self.position_scale = nn.Parameter(torch.tensor(dim**-0.5)) if sines else None
        self.dropout = nn.Dropout(config.dropout)
        self.embedding_norm = make_norm(config.norm, dim, eps) if config.post_norm else None
        of_units = config.kind != "transformer"
        block, depth = (
            (GAUBlock, config.depth) if of_units else (TransformerBlock, config.depth // 2)
        )
        self.layers = nn.ModuleList(block(config, causal=causal) for _ in range(depth))
        self.rotary = RotaryEmbedding(config.rotary_dim or config.features, pairing=config.pairing)
        self.final_norm = None if config.post_norm else make_norm(config.final_norm, dim, eps)
        self.head = None if config.tied else nn.Linear(dim, vocabulary, bias=config.head_bias)
        own_bias = config.tied and config.head_bias
        self.head_bias = nn.Parameter(torch.zeros(vocabulary)) if own_bias else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=config.init_std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def check_same_function(self, other: "Network") -> None:
        """Raises ValueError if equal weights would compute another function, naming an argument."""
        self.config.check_same_function(other.config)
        here, there = (0 if s is None else len(s.weight) for s in (self.segments, other.segments))
        if here != there:
            raise ValueError(f"the network is another: segments={there} there, {here} here")

    def compile_layers(self, *, lengths_vary: bool = False) -> None:
        """Compiles each layer for training, all into one program, as they are alike.

        It is one for all lengths if these vary, else one for each.
        """
        self.compiled = True
        for layer in self.layers:
            layer.compile(dynamic=lengths_vary)

    def embed(
        self, tokens: Tensor, segments: Tensor | None, starts: list[int], docs: Tensor | None = None
    ) -> Tensor:
        """Embeddings (B, n, d) of tokens (B, n) that begin at `starts`, one or one a row.

        Documents count their positions from 0 each.
        """
        x: Tensor = self.embedding(tokens)
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(tokens) if segments is None else segments)
        if self.position_scale is not None:
            n, dim = tokens.shape[1], x.shape[-1]
            i = torch.arange(0, dim, 2, dtype=torch.float64)
            positions = torch.tensor(starts)[:, None] + torch.arange(n)
            if docs is not None:
                new = F.pad(docs[:, 1:] != docs[:, :-1], (1, 0)).cpu()
                positions = positions - positions.where(new, 0).cummax(1).values
            angles = positions.double()[..., None] * 10000 ** (-i / dim)
            waves = torch.cat([angles.sin(), angles.cos()], -1)[..., :dim]
            x = x + waves.to(x.device, x.dtype) * self.position_scale.to(x.dtype)
        x = self.dropout(x)
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def features(
        self,
        tokens: Tensor,
        key_mask: Tensor | None = None,
        doc_ids: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """The last block's normalised output, (B, n, d)."""
        x = self.embed(tokens, segments, [0], doc_ids)
        rotary = self.rotary.tables(tokens.shape[1])
        # Evaluation meets batches of many shapes: compiling for each would take longer.
        eager = self.compiled and not self.training
        with torch.compiler.set_stance("force_eager") if eager else contextlib.nullcontext():
            for layer in self.layers:
                if self.config.checkpointing and torch.is_grad_enabled():
                    x, _ = checkpoint(layer, x, rotary, key_mask, doc_ids, use_reentrant=False)
                else:
                    x, _ = layer(x, rotary, key_mask, doc_ids)
        return x if self.final_norm is None else self.final_norm(x)

    def logits(self, x: Tensor) -> Tensor:
        """Logits (..., vocabulary) of features (..., d)."""
        if self.head is not None:
            return self.head(x)
        return F.linear(x, self.embedding.weight, self.head_bias)

    def forward(
        self,
        tokens: Tensor,
        key_mask: Tensor | None = None,
        doc_ids: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, n, vocabulary) of tokens (B, n), int64.

        `key_mask` (B, n) is True where there is a token; `doc_ids` and `segments` (B, n) are the
        document and the type of each.
        """
        return self.logits(self.features(tokens, key_mask, doc_ids, segments))

    # Decoding

    def init_state(self, batch: int) -> DecodeState:
        """The state before the first token."""
        like = self.embedding.weight.detach()
        layers: Any = self.layers
        return DecodeState([layer.init_state(batch, like) for layer in layers])

    def prefill(
        self, tokens: Tensor, state: DecodeState, lengths: list[int] | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Features (B, n, d) of many tokens at once, and the state after them.

        Args:
            tokens: int64, shape (B, n), rows of fewer tokens padded on the right.
            state: What came before, all rows equally long.
            lengths: Tokens each row really has, n if not given.
        """
        start, n = state.lengths[0], tokens.shape[1]
        lengths = [n] * len(tokens) if lengths is None else lengths
        x = self.embed(tokens, None, [start])
        rotary = self.rotary.tables(start + n, start)
        layers = []
        for layer, before in zip(self.layers, state.layers, strict=True):
            x, after = layer.forward(x, rotary, state=before, lengths=lengths)
            layers.append(after)
        return x if self.final_norm is None else self.final_norm(x), DecodeState(layers)

    def step(self, tokens: Tensor, state: DecodeState) -> Tensor:
        """Logits (B, vocabulary) after one more token (B,) a row; changes `state`."""
        seen = state.lengths
        x = self.embed(tokens[:, None], None, seen)[:, 0]
        if len(set(seen)) == 1:
            rotary = self.rotary.tables(seen[0] + 1, seen[0])
        else:
            positions = torch.tensor(seen, device=tokens.device)[:, None]
            rotary = self.rotary.at(positions, max(seen) + 1)
        layers: Any = self.layers
        for layer, own in zip(layers, state.layers, strict=True):
            x = layer.step(x, rotary, own)
        return self.logits(x if self.final_norm is None else self.final_norm(x))


def macs_per_token(network: Network, n: int) -> float:
    """Multiplications a token of the forward pass at length n, without the head.

    The weights' once, and those of attention: c (s + e) + 2 s e for flash, and where its states are
    a product with a triangle of the chunks n s e / c^2 more; n (s + e) for flash_quad, 2 n d for a
    transformer, half of these two where no token sees a later one.
    """
    linears = (m for m in network.layers.modules() if isinstance(m, nn.Linear))
    total = float(sum(m.weight.numel() for m in linears))
    for layer in network.layers:
        if isinstance(layer, TransformerBlock):
            total += 2 * n * layer.attention.to_out.in_features / (1 + layer.attention.causal)
            continue
        assert isinstance(layer, GAUBlock)
        config, causal = layer.gau.config, layer.gau.causal
        s, e = config.head_size, config.width
        if config.kind == "flash":
            c = min(config.chunk, n)
            chunks = math.ceil(n / c)
            total += c * (s + e) + 2 * s * e
            if causal and chunks <= GEMM_CHUNKS:
                total += chunks * s * e / c
        else:
            total += n * (s + e) / (1 + causal)
    return total
