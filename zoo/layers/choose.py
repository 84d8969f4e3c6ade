"""The choice of a token by the inverse of its distribution function: one for every sampler."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.layers.precision import at_least_float32

_FIRST_TRY = 64  # most likely tokens that nearly always hold the nucleus
_SLACK = 8.5  # epsilons of the type that rounding may add to a sum


@dataclass(frozen=True)
class TokenSampling:
    """How tokens are drawn; checked once, where a user's numbers come in.

    >>> TokenSampling(top_p=0.95).temperature
    1.0

    Args:
        top_p: Choose among the fewest likeliest that have this probability together (arXiv
            1904.09751; the token that crosses it is one of them); all if not given.
        top_k: Choose among so many of the likeliest; all if not given.
        temperature: Divides the logits; 0 takes the likeliest token.
        seed: Seed of the draws.

    Raises:
        ValueError: No token could be chosen.
    """

    top_p: float | None = None
    top_k: int | None = None
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(
                f"temperature={self.temperature}: 0 takes the likeliest token, 1 samples"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: keep at least one token")
        if self.top_k is not None and self.top_k != int(self.top_k):
            raise ValueError(f"top_k={self.top_k}: keep a whole number of tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: need 0 < top_p <= 1")


def choose(
    logits: Tensor,
    u: Tensor,
    sampling: TokenSampling,
    *,
    row: Tensor | None = None,
    ordered: bool = False,
) -> Tensor:
    """A token for each number, in the precision of the logits.

    >>> logits = torch.tensor([[0.1, 0.6, 0.3]]).log()
    >>> choose(logits, torch.tensor([0.05]), TokenSampling())
    tensor([0])
    >>> choose(logits, torch.tensor([0.05]), TokenSampling(top_k=2))
    tensor([1])

    Args:
        logits: Float (S, V).
        u: Uniform numbers in [0, 1), (R,).
        sampling: Which tokens are chosen among; its seed is the caller's to use.
        row: The row that each draws from, int64 (R,); if not given R = S, and each has its own.
        ordered: Lay the tokens out from the likeliest, ties by number, also where none is left out,
            and take `top_p` of what `top_k` keeps. Slow for a large vocabulary.

    Returns:
        int64 (R,).
    """
    row = torch.arange(len(u), device=u.device) if row is None else row
    if sampling.temperature == 0:
        return logits.argmax(-1)[row]
    top_p, top_k = sampling.top_p or 1.0, sampling.top_k
    scaled = at_least_float32(logits) / sampling.temperature
    if ordered:
        scaled, token = torch.sort(scaled, stable=True, descending=True)
        p = _nucleus(scaled[:, :top_k].softmax(-1), top_p)
        return token[row, _invert(p.cumsum(-1)[row], u)]
    probability = scaled.softmax(-1)
    if top_p >= 1 and top_k is None:
        return _invert(probability.cumsum(-1)[row], u)
    p, token = probability.topk(min(top_k or _FIRST_TRY, probability.shape[1]), -1)
    chosen = token[row, _invert(_nucleus(p, top_p).cumsum(-1)[row], u)]
    if top_k is None:
        # The whole vocabulary is slow to sort: only for rows whose nucleus is larger.
        small = p.sum(-1) < top_p
        wide, drawn = small.nonzero().squeeze(1), small[row].nonzero().squeeze(1)
        if len(wide):
            p, token = probability[wide].sort(-1, descending=True)
            at = torch.searchsorted(wide, row[drawn])
            chosen[drawn] = token[at, _invert(_nucleus(p, top_p).cumsum(-1)[at], u[drawn])]
    return chosen


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """Falling probabilities, those that begin beyond `top_p` set to 0."""
    return p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)


def _invert(total: Tensor, u: Tensor) -> Tensor:
    """The first place of each row of rising sums (R, K) that is beyond u of the last, int64."""
    whole = total[:, -1:]
    # Rounding must not go beyond the last that has a probability.
    most = whole * (1 - _SLACK * torch.finfo(total.dtype).eps)
    return (total <= (u[:, None] * whole).minimum(most)).sum(-1)
