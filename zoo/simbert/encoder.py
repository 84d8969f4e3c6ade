"""One transformer encoder for BERT and RoFormer: they differ in how positions come in.

Shapes: B rows, L tokens, H hidden features, h heads, d features a head, E embedding features.
"""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.layers.attention import attention
from zoo.layers.rotary import RotaryEmbedding, rotate
from zoo.ranges import check_ranges
from zoo.simbert.cache import KeyValueCache

Positions = Literal["learned", "rotary"]
Pooler = Literal["cls_linear", "cls", "mean"]
_EPS = 1e-12  # of BERT's layer norms
Rotation = Callable[[Tensor], Tensor]


def padding_mask(lengths: Tensor, L: int) -> Tensor:
    """Who may attend whom where only padding is hidden: in rows of L the first `lengths` (B,).

    Bool, (B, 1, 1, L).
    """
    return (torch.arange(L, device=lengths.device) < lengths[:, None])[:, None, None]


def unilm_mask(segments: Tensor, lengths: Tensor) -> Tensor:
    """Who may attend whom in UniLM (arXiv 1905.03197; kexue.fm/archives/6933), bool (B, 1, L, L).

    With c the cumulative sum of the segments, token i sees token j if c_j <= c_i: the source
    (segment 0) sees itself in both directions and never the target, the target (segment 1) sees
    the source and its own past. Segments (B, L) that are all 0 give plain attention; `lengths` (B,)
    are the tokens before the padding.
    """
    c = segments.cumsum(1)
    seen = c[:, None, None, :] <= c[:, None, :, None]
    return seen & padding_mask(lengths, segments.shape[1])


class Layer(nn.Module):
    """Post-norm transformer layer: x = LN(x + Attn(x)), then x = LN(x + FFN(x)).

    The arguments are those of `Encoder`.
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        intermediate: int,
        dropout: float,
        attention_dropout: float,
        rotary_value: bool,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.attention_dropout = heads, dropout, attention_dropout
        self.rotary_value = rotary_value
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attention_out = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=_EPS)
        self.up = nn.Linear(hidden, intermediate)
        self.down = nn.Linear(intermediate, hidden)
        self.norm = nn.LayerNorm(hidden, eps=_EPS)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        rotation: Rotation | None,
        cache: KeyValueCache | None,
        number: int,
    ) -> Tensor:
        """X (B, L, H) -> (B, L, H); `number` is the layer's place in the cache."""
        qkv = self._by_head(self.qkv(x), 3)
        if rotation is None:
            q, k, v = qkv.unbind()
        elif self.rotary_value:
            q, k, v = rotation(qkv).unbind()
        else:
            (q, k), v = rotation(qkv[:2]).unbind(), qkv[2]
        if cache is not None:
            k, v = cache.add(number, k, v)
        return self._attend(x, q, k, v, mask)

    def first(self, x: Tensor, mask: Tensor | None, rotation: Rotation | None) -> Tensor:
        """The first token's output alone, (B, L, H) -> (B, 1, H): all that its vector needs.

        It is at position 0, where a rotation is none.
        """
        H = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        (q,) = self._by_head(F.linear(x[:, :1], weight[:H], bias[:H]), 1)
        kv = self._by_head(F.linear(x, weight[H:], bias[H:]), 2)
        if rotation is None:
            k, v = kv.unbind()
        elif self.rotary_value:
            k, v = rotation(kv).unbind()
        else:
            k, v = rotation(kv[0]), kv[1]
        return self._attend(x[:, :1], q, k, v, mask)

    def _by_head(self, x: Tensor, parts: int) -> Tensor:
        """(B, L, parts * H) -> (parts, B, h, L, d)."""
        B, L, _ = x.shape
        return x.view(B, L, parts, self.heads, -1).permute(2, 0, 3, 1, 4)

    def _attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        p = self.attention_dropout if self.training else 0.0
        v = v.to(q.dtype)
        a = attention(q, k, v, mask, p)
        a = self.attention_out(a.transpose(1, 2).reshape(x.shape))
        x = self.attention_norm(x + F.dropout(a, self.dropout, self.training))
        y = self.down(F.gelu(self.up(x)))
        return self.norm(x + F.dropout(y, self.dropout, self.training))


class Encoder(nn.Module):
    """BERT (arXiv 1810.04805) or RoFormer (arXiv 2104.09864) with pooler and language-model head.

    The arguments are those of `SentenceModel`. Of the poolers, cls_linear is the first token
    through a linear map without an activation, cls the first token, mean the mean of all tokens.

    Raises:
        ValueError: Sizes do not fit together, or a choice is none.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden: int,
        layers: int,
        heads: int,
        intermediate: int | None = None,
        embedding_size: int | None = None,
        positions: Positions = "rotary",
        max_positions: int = 512,
        rotary_value: bool = False,
        pooler: Pooler = "cls_linear",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if hidden % heads or (positions == "rotary" and hidden // heads % 2):
            raise ValueError(f"hidden={hidden} does not divide into {heads} heads of even size")
        check_ranges(Encoder, {"positions": positions, "pooler": pooler})
        E = embedding_size or hidden
        self.pooling, self.dropout, self.max_positions = pooler, dropout, max_positions
        self.width, self.shape = hidden, (layers, heads, hidden // heads)
        self.word_embeddings = nn.Embedding(vocab_size, E, padding_idx=None)
        self.type_embeddings = nn.Embedding(2, E)
        self.embedding_norm = nn.LayerNorm(E, eps=_EPS)
        learned = positions == "learned"
        self.position_embeddings = nn.Embedding(max_positions, E) if learned else None
        self.rotary = RotaryEmbedding(hidden // heads) if positions == "rotary" else None
        self.embedding_project = nn.Linear(E, hidden) if hidden != E else None
        sizes = (hidden, heads, intermediate or 4 * hidden, dropout, attention_dropout)
        self.layers = nn.ModuleList(Layer(*sizes, rotary_value) for _ in range(layers))
        self.pooler = nn.Linear(hidden, hidden) if pooler == "cls_linear" else None
        self.head = nn.Linear(hidden, E)
        self.head_norm = nn.LayerNorm(E, eps=_EPS)
        self.head_bias = nn.Parameter(torch.zeros(vocab_size))
        self.apply(_initialise)

    def forward(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """Last hidden states.

        Args:
            tokens: int64 (B, L).
            segments: 0 or 1, int64 (B, L); all 0 if not given.
            mask: True where a query sees a key, bool, broadcast to (B, h, L, keys); all if none.
            positions: int64 (B, L); 0 ... L - 1 if not given.
            cache: Keys and values of earlier tokens, which these are added to.

        Returns:
            float (B, L, H).
        """
        x, rotation = self._embed(tokens, segments, positions, cache)
        for number, layer in enumerate(self.layers):
            x = layer(x, mask, rotation, cache, number)
        if cache is not None:
            cache.advance(tokens.shape[1])
        return x

    def _embed(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> tuple[Tensor, Rotation | None]:
        """What goes into the first layer, (B, L, H), and how the layers rotate."""
        L = tokens.shape[1]
        x: Tensor = self.word_embeddings(tokens)
        types = self.type_embeddings
        x = x + (types.weight[0] if segments is None else types(segments))
        rotation: Rotation | None = None
        if self.position_embeddings is not None:
            if self.max_positions < L:
                raise ValueError(
                    f"a row of {L} tokens for a model of max_positions={self.max_positions}: "
                    "shorten the texts (max_length)"
                )
            table = self.position_embeddings
            x = x + (table.weight[:L] if positions is None else table(positions))
        else:
            rotation = self._rotation(L, positions, cache)
        x = F.dropout(self.embedding_norm(x), self.dropout, self.training)
        if self.embedding_project is not None:
            x = self.embedding_project(x)
        return x, rotation

    def _rotation(self, L: int, positions: Tensor | None, cache: KeyValueCache | None) -> Rotation:
        """Queries and keys (..., B, h, L, d) rotated at their positions, at least in float32.

        By tables of the model's precision, which a model that is bfloat16 throughout rounds.
        """
        assert self.rotary is not None
        if positions is None:
            cos, sin = self.rotary.tables(L)
        else:
            end = cache.capacity if cache else self.max_positions
            cos, sin = (table[:, None] for table in self.rotary.at(positions, end))
        if torch.compiler.is_compiling():  # which fuses real numbers and not complex ones
            return lambda x: rotate(x, cos, sin, "interleaved").to(x.dtype)
        wide = torch.promote_types(cos.dtype, torch.float32)
        turn = torch.complex(cos.to(wide), sin.to(wide))
        return lambda x: _turned(x, turn)

    def pool(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sentence vectors (B, H) of hidden states (B, L, H), not normalised."""
        if self.pooling == "mean":
            if lengths is None:
                return hidden.mean(1)
            valid = padding_mask(lengths, hidden.shape[1])[:, 0, 0, :, None]
            return (hidden * valid).sum(1) / lengths[:, None]
        first = hidden[:, 0]
        return first if self.pooler is None else self.pooler(first)

    def logits(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """Scores (..., vocab_size) of hidden states (..., H), by the tied embedding.

        `bias` (vocab_size,) takes the place of the model's.
        """
        x = self.head_norm(F.gelu(self.head(hidden)))
        bias = self.head_bias if bias is None else bias
        return F.linear(x, self.word_embeddings.weight, bias)

    def vectors(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sentence vectors (B, H) of padded rows (B, L); without lengths there is no padding."""
        mask = None if lengths is None else padding_mask(lengths, tokens.shape[1])
        if self.pooling == "mean":
            return self.pool(self(tokens, mask=mask), lengths)
        x, rotation = self._embed(tokens)
        *lower, last = self.layers
        for layer in lower:
            x = layer(x, mask, rotation, None, 0)
        return self.pool(last.first(x, mask, rotation))  # type: ignore[operator]


def encoder_of(hparams: Mapping[str, Any]) -> Encoder:
    """The encoder of a model's hyper-parameters; of those that are not there, its defaults."""
    given = {name: hparams[name] for name in signature(Encoder).parameters if name in hparams}
    return Encoder(**given)


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Features (..., d) rotated in pairs by unit numbers (..., d / 2): one pass instead of six."""
    pairs = torch.view_as_complex(x.to(turn.real.dtype).reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def _initialise(module: nn.Module) -> None:
    """BERT's initialisation."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
