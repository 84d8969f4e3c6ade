"""Similar sentences token by token: the source once, then steps with cached keys and values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.sentences.batches import padded
from zoo.data.sentences.tokenizer import MAX_LENGTH
from zoo.layers.choose import TokenSampling, choose
from zoo.layers.counter_rng import uniform
from zoo.simbert.base import SentenceModel
from zoo.simbert.cache import KeyValueCache
from zoo.simbert.encoder import padding_mask
from zoo.training.module import evaluating

_NUMBERS = 2**20  # samples that a text can have: sample j of text i draws as item i * 2^20 + j
NUCLEUS = TokenSampling(top_p=0.95)


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


class Decoder:
    """The sources of some texts, computed once, from which rows of targets are continued.

    Rows that begin with the same target tokens are one row here until they part, so that nothing
    is computed twice, and keys and values move only when a row parts or another takes its place.

    Args:
        model: The model.
        sources: [CLS] ... [SEP] of each text.
        max_new: Most tokens of a target, [SEP] included; fewer for a text whose target would go
            beyond the learned positions.
    """

    def __init__(
        self, model: SentenceModel, sources: Sequence[Sequence[int]], max_new: int
    ) -> None:
        self.net, tokenizer = model.net, model.tokenizer
        tokens, lengths = (t.to(model.device) for t in padded(sources, tokenizer.pad))
        longest = tokens.shape[1]
        self.limits = [max_new] * len(sources)
        if self.net.position_embeddings is not None:
            room = self.net.max_positions
            self.limits = [min(max_new, room - len(source)) for source in sources]
        if min(self.limits) < 1:
            raise ValueError(
                f"a source of {longest} tokens leaves no room in "
                f"max_positions={self.net.max_positions}"
            )
        self.max_new = max_new = max(self.limits)
        forbidden = [i for i, t in enumerate(tokenizer.tokens) if t[0] == "[" and t[-1] == "]"]
        forbidden = [i for i in forbidden if i != tokenizer.sep and len(tokenizer.tokens[i]) > 2]
        self.bias = self.net.head_bias.detach().clone()
        self.bias[forbidden] = -torch.inf
        weight = self.net.word_embeddings.weight
        kind, dtype = weight.device.type, weight.dtype
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
        like = {"device": weight.device, "dtype": dtype}
        self.cache = KeyValueCache(self.net.shape, len(tokens), longest + max_new, **like)
        self.lengths = lengths
        ragged = len({len(source) for source in sources}) > 1
        self.seen: Tensor | None = None  # no mask where none is needed
        if ragged:
            self.seen = tokens.new_ones(len(tokens), 1, 1, self.cache.capacity, dtype=torch.bool)
            self.seen[..., :longest] = padding_mask(lengths, longest)
        hidden = self.net(tokens, mask=self._mask(longest), cache=self.cache)
        last = hidden[torch.arange(len(tokens), device=hidden.device), lengths - 1]
        self.logits = self._scores(last)

    def _scores(self, hidden: Tensor) -> Tensor:
        return self.net.logits(hidden, self.bias).float()

    def _mask(self, end: int) -> Tensor | None:
        return None if self.seen is None else self.seen[..., :end]

    def select(self, rows: Tensor, room: int) -> Decoder:
        """These rows alone, int64, which may come to `room` rows by `branch`."""
        chosen = Decoder.__new__(Decoder)
        chosen.net, chosen.max_new, chosen.bias = self.net, self.max_new, self.bias
        chosen.cache = self.cache.select(rows, room)
        chosen.lengths = self.lengths[rows]
        chosen.seen = None if self.seen is None else self.seen[rows]
        chosen.logits = self.logits[rows]
        return chosen

    def branch(self, rows: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """Continues rows, each any number of times; `logits` are then those of the next tokens.

        Args:
            rows: The row that each new one continues.
            tokens: Its token.

        Returns:
            Where each new row is, a permutation: a row stays in its place if it can.
        """
        place: dict[int, int] = {}  # new row by its place
        for new, row in enumerate(rows):
            if row < len(rows):
                place.setdefault(row, new)
        settled = set(place.values())
        free = (i for i in range(len(rows)) if i not in place)
        moved = {next(free): new for new in range(len(rows)) if new not in settled}
        device = self.logits.device
        order = [new for _, new in sorted((place | moved).items())]
        self.cache.copy([rows[new] for new in moved.values()], list(moved))
        parents = torch.tensor([rows[new] for new in order], device=device)
        now = self.lengths[parents][:, None]
        self.lengths = now[:, 0] + 1
        self.seen = None if self.seen is None else self.seen[parents]
        written = torch.tensor([tokens[new] for new in order], device=device)[:, None]
        mask = self._mask(self.cache.length + 1)
        hidden = self.net(written, torch.ones_like(now), mask, now, self.cache)
        self.logits = self._scores(hidden[:, 0])
        where = [0] * len(rows)
        for i, new in enumerate(order):
            where[new] = i
        return where


def _sample_rows(
    start: Decoder, rows: Tensor, numbers: Tensor, sep: int, sampling: TokenSampling
) -> list[Generated]:
    """One target for each number; `rows` are those of `start` that they begin from."""
    begun = rows.tolist()
    first = sorted(set(begun))
    decoder = start.select(torch.tensor(first, device=rows.device), len(begun))
    limits = [start.limits[row] for row in begun]
    live = list(range(len(begun)))
    of = [first.index(row) for row in begun]  # the decoder's row of each live target
    written: list[list[int]] = [[] for _ in live]
    device = rows.device
    for t in range(decoder.max_new):
        u = uniform(sampling.seed, numbers[torch.tensor(live, device=device)], t)
        drawn_from = torch.tensor(of, device=device)
        tokens = choose(decoder.logits, u, sampling, row=drawn_from).tolist()
        for target, token in zip(live, tokens, strict=True):
            written[target].append(token)
        going = [
            (i, (o, k))
            for i, o, k in zip(live, of, tokens, strict=True)
            if k != sep and t + 1 < limits[i]
        ]
        if not going:
            break
        live = [i for i, _ in going]
        distinct = list(dict.fromkeys(pair for _, pair in going))
        where = decoder.branch([o for o, _ in distinct], [k for _, k in distinct])
        place = dict(zip(distinct, where, strict=True))
        of = [place[pair] for _, pair in going]
    return [Generated([i for i in w if i != sep], w[-1] == sep) for w in written]


def sample(
    model: SentenceModel,
    sources: Sequence[Sequence[int]],
    n: int,
    *,
    sampling: TokenSampling = NUCLEUS,
    max_new: int = MAX_LENGTH,
    batch_size: int = 256,
) -> list[list[Generated]]:
    """N targets of each source; target j of source i is a function of the seed, i and j alone.

    Args:
        model: The model.
        sources: [CLS] ... [SEP] of each text.
        n: Targets a text.
        sampling: How the tokens are chosen.
        max_new: Most tokens of a target, [SEP] included.
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
                made = _sample_rows(start, rows, numbers, model.tokenizer.sep, sampling)
                for (i, _), target in zip(chosen, made, strict=True):
                    out[i].append(target)
    return out


def _blocks(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def beam_search(
    model: SentenceModel,
    sources: Sequence[Sequence[int]],
    n: int,
    *,
    beams: int,
    max_new: int = MAX_LENGTH,
    length_penalty: float = 1.0,
    batch_size: int = 256,
) -> list[list[Generated]]:
    """The n best targets that a beam search finds, by log p / length^penalty.

    Finished ones first; if there are fewer than n, those that reached the limit after them.

    Args:
        model: The model.
        sources: [CLS] ... [SEP] of each text.
        n: Targets a text, at most `beams`.
        beams: Unfinished targets kept at each step.
        max_new: Most tokens of a target, [SEP] included.
        length_penalty: Exponent of the length; 0 compares log p itself.
        batch_size: Rows at a time.
    """
    out: list[list[Generated]] = []
    with evaluating(model):
        for texts in _blocks(len(sources), max(batch_size // beams, 1)):
            start = Decoder(model, sources[texts.start : texts.stop], max_new)
            rows = torch.arange(len(texts), device=start.logits.device)
            decoder = start.select(rows, len(texts) * beams)
            searches = [
                _Search(row, limit, n, beams, length_penalty, model.tokenizer.sep)
                for row, limit in enumerate(start.limits)
            ]
            live = searches
            while live := [one for one in live if one.extend(decoder.logits)]:
                parents = [row for one in live for row in one.rows]
                tokens = [written[-1] for one in live for written in one.written]
                where = iter(decoder.branch(parents, tokens))
                for one in live:
                    one.rows = [next(where) for _ in one.rows]
            out += [one.best() for one in searches]
    return out


class _Search:
    """The targets, of at most `limit` tokens, of the text in a decoder's row in a beam search."""

    def __init__(self, row: int, limit: int, n: int, beams: int, penalty: float, sep: int) -> None:
        self.limit, self.n, self.beams, self.penalty, self.sep = limit, n, beams, penalty, sep
        # The unfinished targets, the best first: rows of the decoder, tokens, log p.
        self.rows = [row]
        self.written: list[list[int]] = [[]]
        self.scores = [0.0]
        self.finished: list[tuple[float, Generated]] = []

    def extend(self, logits: Tensor) -> bool:
        """Takes the best next tokens by the decoder's logits (R, V); whether the search goes on."""
        length = len(self.written[0]) + 1
        so_far = torch.tensor(self.scores, device=logits.device)[:, None]
        total = so_far + logits[self.rows].log_softmax(-1)
        best, at = total.flatten().topk(min(2 * self.beams, total.numel()))
        grown: list[tuple[float, int, int]] = []
        for score, place in zip(best.tolist(), at.tolist(), strict=True):
            parent, token = divmod(place, total.shape[1])
            if score == -float("inf"):
                continue
            if token == self.sep:
                target = Generated(self.written[parent], True, score)
                self.finished.append((score / length**self.penalty, target))
            elif len(grown) < self.beams:
                grown.append((score, parent, token))
        self.finished = sorted(self.finished, key=lambda pair: -pair[0])[: self.n]
        self.scores = [score for score, _, _ in grown]
        self.rows = [self.rows[parent] for _, parent, _ in grown]
        self.written = [[*self.written[parent], token] for _, parent, token in grown]
        if not grown or length == self.limit:
            return False
        # log p only falls, so this is the most that an unfinished target can come to.
        bound = self.scores[0] / (self.limit if self.scores[0] < 0 else 1) ** self.penalty
        return len(self.finished) < self.n or self.finished[-1][0] < bound

    def best(self) -> list[Generated]:
        """The finished targets, and after them those that reached the limit."""
        targets = [target for _, target in self.finished]
        for written, score in zip(self.written, self.scores, strict=True):
            if len(written) == self.limit:
                targets.append(Generated(written, False, score))
        return targets[: self.n]
