"""What all parts of a FLASH network are made of, said once and passed down."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from zoo.flash.attention import GlobalNorm
from zoo.flash.norms import NormName
from zoo.flash.scores import Score, ScoreName
from zoo.layers.rotary import Pairing
from zoo.ranges import (
    AtLeastTwo,
    BelowOne,
    Count,
    Depth,
    NonNegative,
    Positive,
    Range,
    check_ranges,
)

Kind = Literal["flash", "flash_quad", "transformer"]

# What a kind has not, with the values at which it says nothing. The recipes' chunk and position
# bias mean nothing to a transformer, so that `--model.kind` alone changes it.
_MEANINGLESS: dict[str, dict[str, Any]] = {
    "flash": {"heads": None, "norm_length": 512},
    "flash_quad": {"heads": None, "global_norm": "tokens", "global_part": True},
    "transformer": {
        "norm_length": 512,
        "min_length": 16,
        "score": "relu2_paper",
        "norm": "rms",
        "bias": False,
        "offsets": True,
        "global_norm": "tokens",
        "global_part": True,
    },
}
_UNUSED: dict[Kind, set[str]] = {
    "flash": {"heads", "norm_length"},
    "flash_quad": {"heads", "chunk"},
    "transformer": {"chunk", "norm_length", "min_length", "position_bias"},
}
_TRAINING = {"dropout", "init_std", "checkpointing"}
_ONCE_TAKEN = ("heads", "norm_length", "min_length")  # by every kind, whatever their values


@dataclass(frozen=True)
class FlashConfig:
    """A network of gated attention units, or the Transformer beside it.

    >>> FlashConfig(dim=64, expansion=1.5).width
    96

    Args:
        dim: Width d of the model.
        depth: Number of gated attention units; two have the weights of a Transformer's block.
        kind: flash (linear), flash_quad (attention to all), or transformer (RoPE, RMSNorm,
            SwiGLU, PyTorch's fused attention).
        expansion: Width e of the units in multiples of dim.
        head_size: Size s of the units' queries and keys.
        heads: Heads of a transformer; one for each 64 features if not given.
        chunk: Tokens of a chunk of flash.
        score: Attention weights: relu2_paper, relu2 (the post's), relu2_row, softmax, softmax_plus
            or laplace.
        norm_length: What stands for the length of the text in the scores of flash_quad.
        min_length: Least number of keys in softmax_plus.
        position_bias: Learn a bias of the distance between tokens of a chunk; not of a transformer.
        sinusoidal: Add sines of the position to the embedding, as the paper.
        rotary_dim: Features of a head that rotate; all if not given.
        pairing: Which of them rotate together: interleaved or half.
        token_shift: Half of a unit's input is the previous token's.
        norm: rms, rms_plain (without weights, GAU-alpha's), scale (one weight, the paper's) or
            layer.
        final_norm: The norm before the head; none after post_norm.
        norm_eps: Epsilon of the norms.
        post_norm: Normalise after the residual, as GAU-alpha.
        bias: Dense layers have a bias, as the paper's.
        offsets: Queries and keys have an offset beta beside the factor gamma.
        global_norm: tokens divides the state by the number of its tokens; chunk, as FLASH-pytorch,
            by the chunk's length, or where tokens look to both sides by the padded text's.
        global_part: Without it, tokens see their own chunk only.
        tied: The head's weights are the embedding's.
        head_bias: The head has a bias.
        dropout: Dropout of the embedding and of each layer's output.
        init_std: Deviation of the first weights.
        checkpointing: Recompute a layer's activations in the backward pass, to save memory.
    """

    dim: Count = 512
    depth: Depth = 12
    kind: Kind = "flash"
    expansion: Annotated[float, Range(0, 64, without_low=True)] = 2.0
    head_size: Count = 128
    heads: Count | None = None
    chunk: Count = 256
    score: ScoreName = "relu2_paper"
    norm_length: Count = 512
    min_length: Count = 16
    position_bias: bool = False
    sinusoidal: bool = False
    rotary_dim: AtLeastTwo | None = None
    pairing: Pairing = "half"
    token_shift: bool = False
    norm: NormName = "rms"
    final_norm: NormName = "rms"
    norm_eps: Positive = 1e-6
    post_norm: bool = False
    bias: bool = False
    offsets: bool = True
    global_norm: GlobalNorm = "tokens"
    global_part: bool = True
    tied: bool = True
    head_bias: bool = False
    dropout: BelowOne = 0.0
    init_std: NonNegative = 0.02
    checkpointing: bool = False

    def __post_init__(self) -> None:
        check_ranges(type(self), vars(self))
        if self.width < 1:
            raise ValueError(
                f"expansion={self.expansion}: the width e of a unit, a multiple of dim={self.dim}, "
                "would be 0"
            )
        for name, value in _MEANINGLESS[self.kind].items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"{name}={getattr(self, name)} means nothing with kind={self.kind}: leave it "
                    "out"
                )
        if self.kind == "transformer":
            if self.depth % 2 or self.dim % self.head_count or self.token_shift or self.post_norm:
                raise ValueError(
                    f"kind=transformer: depth={self.depth} must be even (a block is worth two "
                    f"units), dim={self.dim} a multiple of heads={self.head_count}, without "
                    "token_shift and post_norm"
                )
        elif self.token_shift and self.dim % 2:
            raise ValueError(f"token_shift halves the features: dim={self.dim} must be even")
        if self.rotary_dim is not None and self.rotary_dim > self.features:
            raise ValueError(
                f"rotary_dim={self.rotary_dim} is more than the {self.features} features of a head"
            )

    @property
    def width(self) -> int:
        """Width e of the units."""
        return round(self.expansion * self.dim)

    @property
    def head_count(self) -> int:
        """Heads of a transformer."""
        return self.heads or max(self.dim // 64, 1)

    @property
    def features(self) -> int:
        """Features of a query."""
        return self.dim // self.head_count if self.kind == "transformer" else self.head_size

    @property
    def weights(self) -> Score:
        """The function from products of queries and keys to attention weights."""
        size = self.norm_length if self.kind == "flash_quad" else self.chunk
        return Score(self.score, size, self.min_length)

    def check_same_function(self, other: "FlashConfig") -> None:
        """Raises ValueError if equal weights would compute another function, naming an argument.

        Weights that fit are not enough: the score, the chunk or the pairing have none.
        """
        for name in [field.name for field in fields(self)]:
            here, there = getattr(self, name), getattr(other, name)
            if name not in _UNUSED[self.kind] | _TRAINING and here != there:
                raise ValueError(f"the network is another: {name}={there} there, {here} here")


def without_meaningless(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a stored model without those that its kind had, and that did nothing."""
    void = _MEANINGLESS.get(str(arguments.get("kind", FlashConfig.kind)), {})
    return {k: v for k, v in arguments.items() if k not in _ONCE_TAKEN or k not in void}
