"""Similar sentences token by token: the source once, then steps with cached keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.layers.counter_rng import uniform
from zoo.simbert.batches import padded
from zoo.simbert.cache import KeyValueCache
from zoo.simbert.encoder import padding_mask
from zoo.simbert.sentences import MAX_LENGTH, evaluating

if TYPE_CHECKING:
    from zoo.simbert.module import SimBERT

_NUMBERS = 2**20  # samples that a text can have: sample j of text i draws as item i * 2^20 + j
_FIRST_TRY = 64  # most likely tokens that nearly always hold the nucleus


@dataclass(frozen=True)
class Generated:
    """A generated sentence.

    Args:
        tokens: Without special tokens.
        finished: Whether [SEP] ended it, and not the limit.
        log_probability: Sum over its tokens and [SEP], for beams; else 0.
    """

    tokens: list[int]
    finished: bool
    log_probability: float = 0.0


def choose(
    logits: Tensor, u: Tensor, *, top_p: float = 1.0, top_k: int = 0, temperature: float = 1.0
) -> Tensor:
    """A token of each row by the inverse of its cumulative probability.

    Tokens are ordered by probability, and kept while the probability before them is below `top_p`
    (arXiv 1904.09751; the token that crosses it is in) and they are among the `top_k`.

    Args:
        logits: Float (R, V).
        u: Uniform numbers in [0, 1), (R,).
        top_p: Of nucleus sampling; 1 keeps all.
        top_k: Most tokens to keep; 0 for all.
        temperature: Divides the logits; 0 takes the most likely token.

    Returns:
        int64 (R,).
    """
    if temperature == 0:
        return logits.argmax(-1)
    probability = (logits.float() / temperature).softmax(-1)
    if top_p >= 1 and not top_k:
        return _invert(probability, u)
    p, token = probability.topk(min(top_k or _FIRST_TRY, probability.shape[1]), -1)
    chosen = token.gather(1, _invert(_nucleus(p, top_p), u)[:, None]).squeeze(1)
    if not top_k:
        # The whole vocabulary is slow to sort: only for rows whose nucleus is larger.
        wide = (p.sum(-1) < top_p).nonzero().squeeze(1)
        if len(wide):
            p, token = probability[wide].sort(-1, descending=True)
            at = _invert(_nucleus(p, top_p), u[wide])
            chosen[wide] = token.gather(1, at[:, None]).squeeze(1)
    return chosen


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    """Falling probabilities, those that begin beyond `top_p` set to 0."""
    return p.masked_fill(p.cumsum(-1) - p >= top_p, 0.0)


def _invert(p: Tensor, u: Tensor) -> Tensor:
    """The first place of each row (R, K) where the sum so far goes beyond u of the whole sum."""
    kept = p.cumsum(-1)
    whole = kept[:, -1:]
    # Rounding must not go beyond the last that has a probability.
    return (kept <= (u[:, None] * whole).minimum(whole * (1 - 1e-6))).sum(-1)


class Decoder:
    """The sources of some texts, computed once, from which rows of targets are continued.

    Args:
        model: The model.
        sources: [CLS] ... [SEP] of each text.
        max_new: Most tokens of a target, [SEP] included.

    Raises:
        ValueError: Learned positions leave no room for a target.
    """

    def __init__(self, model: SimBERT, sources: Sequence[Sequence[int]], max_new: int) -> None:
        self.net, tokenizer = model.net, model.tokenizer
        tokens, lengths = (t.to(model.device) for t in padded(sources, tokenizer.pad))
        longest = tokens.shape[1]
        if self.net.position_embeddings is not None:
            max_new = min(max_new, self.net.max_positions - longest)
        if max_new < 1:
            raise ValueError(
                f"a source of {longest} tokens leaves no room in "
                f"max_positions={self.net.max_positions}"
            )
        self.max_new = max_new
        forbidden = [i for i, t in enumerate(tokenizer.tokens) if t[0] == "[" and t[-1] == "]"]
        forbidden = [i for i in forbidden if i != tokenizer.sep and len(tokenizer.tokens[i]) > 2]
        self.forbidden = torch.tensor(forbidden, device=model.device)
        weight = self.net.word_embeddings.weight
        self.cache = KeyValueCache(
            self.net.shape, len(tokens), longest + max_new, weight.device, self._dtype(weight)
        )
        self.lengths = lengths
        self.seen = tokens.new_ones(len(tokens), 1, 1, self.cache.capacity, dtype=torch.bool)
        self.seen[..., :longest] = padding_mask(lengths, longest)
        hidden = self.net(tokens, mask=self.seen[..., :longest], cache=self.cache)
        last = hidden[torch.arange(len(tokens), device=hidden.device), lengths - 1]
        self.logits = self._scores(last)

    @staticmethod
    def _dtype(weight: Tensor) -> torch.dtype:
        kind = weight.device.type
        under: torch.dtype = torch.get_autocast_dtype(kind)
        return under if torch.is_autocast_enabled(kind) else weight.dtype

    def _scores(self, hidden: Tensor) -> Tensor:
        logits = self.net.logits(hidden).float()
        return logits.index_fill(1, self.forbidden, -torch.inf)

    def select(self, rows: Tensor) -> Decoder:
        """These rows alone, repeated if asked; int64."""
        chosen = Decoder.__new__(Decoder)
        chosen.net, chosen.max_new, chosen.forbidden = self.net, self.max_new, self.forbidden
        chosen.cache = self.cache.select(rows)
        chosen.lengths, chosen.seen = self.lengths[rows], self.seen[rows]
        chosen.logits = self.logits[rows]
        return chosen

    def step(self, tokens: Tensor) -> None:
        """Continues each row with a token (R,); `logits` (R, V) are then those of the next."""
        end = self.cache.length + 1
        now = self.lengths[:, None]
        hidden = self.net(
            tokens[:, None], torch.ones_like(now), self.seen[..., :end], now, self.cache
        )
        self.lengths = self.lengths + 1
        self.logits = self._scores(hidden[:, 0])


def _sample_rows(
    start: Decoder,
    rows: Tensor,
    numbers: Tensor,
    sep: int,
    seed: int,
    top_p: float,
    top_k: int,
    temperature: float,
) -> list[Generated]:
    """One target a row; rows that are finished leave the batch when half of it is."""
    decoder = start.select(rows)
    live = torch.arange(len(rows), device=rows.device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    written: list[list[int]] = [[] for _ in rows]
    for t in range(decoder.max_new):
        u = uniform(seed, numbers[live], t)
        token = choose(decoder.logits, u, top_p=top_p, top_k=top_k, temperature=temperature)
        for row, i in zip(live.tolist(), token.tolist(), strict=True):
            if not written[row] or written[row][-1] != sep:
                written[row].append(i)
        done = done | (token == sep)
        left = int((~done).sum())
        if left == 0 or t + 1 == decoder.max_new:
            break
        if left <= len(live) // 2:
            kept = (~done).nonzero().squeeze(1)
            decoder, live, token = decoder.select(kept), live[kept], token[kept]
            done = done[kept]
        decoder.step(token)
    return [Generated([i for i in w if i != sep], w[-1] == sep) for w in written]


def sample(
    model: SimBERT,
    sources: Sequence[Sequence[int]],
    n: int,
    *,
    max_new: int = MAX_LENGTH,
    top_p: float = 0.95,
    top_k: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 256,
) -> list[list[Generated]]:
    """N targets of each source; target j of source i is a function of (seed, i, j) alone.

    Args:
        model: The model.
        sources: [CLS] ... [SEP] of each text.
        n: Targets a text.
        max_new: Most tokens of a target, [SEP] included.
        top_p: As for `choose`.
        top_k: As for `choose`.
        temperature: As for `choose`.
        seed: Of the draws.
        batch_size: Rows at a time.
    """
    out: list[list[Generated]] = [[] for _ in sources]
    with evaluating(model):
        for texts in _blocks(len(sources), max(batch_size // n, 1)):
            start = Decoder(model, sources[texts.start : texts.stop], max_new)
            pairs = [(i, j) for i in texts for j in range(n)]
            for block in _blocks(len(pairs), batch_size):
                chosen = pairs[block.start : block.stop]
                device = start.logits.device
                rows = torch.tensor([i - texts.start for i, _ in chosen], device=device)
                numbers = torch.tensor([i * _NUMBERS + j for i, j in chosen], device=device)
                made = _sample_rows(
                    start, rows, numbers, model.tokenizer.sep, seed, top_p, top_k, temperature
                )
                for (i, _), target in zip(chosen, made, strict=True):
                    out[i].append(target)
    return out


def _blocks(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def beam_search(
    model: SimBERT,
    sources: Sequence[Sequence[int]],
    n: int,
    *,
    beams: int,
    max_new: int = MAX_LENGTH,
    length_penalty: float = 1.0,
) -> list[list[Generated]]:
    """The n best finished targets that a beam search finds, by log p / length^penalty.

    Args:
        model: The model.
        sources: [CLS] ... [SEP] of each text.
        n: Targets a text, at most `beams`.
        beams: Unfinished targets kept at each step.
        max_new: Most tokens of a target, [SEP] included.
        length_penalty: Exponent of the length; 0 compares log p itself.
    """
    with evaluating(model):
        return [
            _beams(Decoder(model, [source], max_new), model, n, beams, length_penalty)
            for source in sources
        ]


def _beams(decoder: Decoder, model: SimBERT, n: int, beams: int, penalty: float) -> list[Generated]:
    sep, max_new = model.tokenizer.sep, decoder.max_new
    written: list[list[int]] = [[]]
    scores = torch.zeros(1, device=decoder.logits.device)
    finished: list[tuple[float, Generated]] = []
    for t in range(max_new):
        total = scores[:, None] + decoder.logits.log_softmax(-1)
        V = total.shape[1]
        best, at = total.flatten().topk(min(2 * beams, total.numel()))
        rows: list[int] = []
        tokens: list[int] = []
        kept: list[float] = []
        for score, place in zip(best.tolist(), at.tolist(), strict=True):
            row, token = divmod(place, V)
            if score == -float("inf"):
                continue
            if token == sep:
                target = Generated(written[row], True, score)
                finished.append((score / (t + 1) ** penalty, target))
            elif len(rows) < beams:
                rows.append(row)
                tokens.append(token)
                kept.append(score)
        finished = sorted(finished, key=lambda pair: -pair[0])[:n]
        if not rows or t + 1 == max_new:
            break
        # log p only falls, so this is the most that an unfinished target can come to.
        bound = kept[0] / (max_new if kept[0] < 0 else 1) ** penalty
        if len(finished) == n and finished[-1][0] >= bound:
            break
        device = scores.device
        written = [[*written[row], token] for row, token in zip(rows, tokens, strict=True)]
        scores = torch.tensor(kept, device=device)
        decoder = decoder.select(torch.tensor(rows, device=device))
        decoder.step(torch.tensor(tokens, device=device))
    return [target for _, target in finished]
