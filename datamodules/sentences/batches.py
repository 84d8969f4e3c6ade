"""Batches of texts: rows of tokens, padded to the longest."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TASKS = ("yes/no", "NLI", "graded")  # kinds of labels of a pair


class TextBatch(NamedTuple):
    """Rows to train on, with the tokens to predict.

    Rows 2 i and 2 i + 1 are a pair: in seq2seq rows [CLS] a [SEP] b [SEP] and [CLS] b [SEP] a
    [SEP], in other batches the same text twice or two texts that have nothing to do with another.
    """

    tokens: Tensor
    """int64 (B, L)."""
    segments: Tensor
    """0 for the source, 1 for the target, int64 (B, L)."""
    lengths: Tensor
    """Tokens before the padding, int64 (B,)."""
    places: Tensor
    """Where tokens are predicted, in the flattened (B * L), int64 (N,)."""
    labels: Tensor
    """The tokens to predict there, int64 (N,)."""
    counts: list[int]
    """How many of them each row has."""
    group: Tensor
    """Group of similar texts that the row is from, int64 (B,)."""
    texts: list[str]
    """The source texts without noise."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """Number of the item, int64 (B,)."""


class LabelledBatch(NamedTuple):
    """Pairs with labels: rows 2 i and 2 i + 1 are pair i."""

    tokens: Tensor
    """int64 (2 B, L)."""
    lengths: Tensor
    """int64 (2 B,)."""
    label: Tensor
    """yes/no: 0 or 1; NLI: 0 contradiction, 1 neutral, 2 entailment; or a grade; float32 (B,)."""
    task: Tensor
    """Number of the kind of label in `TASKS`, int64 (B,)."""
    source: Tensor
    """Number of the file that the pair is from, int64 (B,)."""
    texts: list[str]
    """The 2 B texts."""
    index: Tensor  # type: ignore[assignment]
    """Number of the pair in its split, int64 (B,)."""


AnyBatch = TextBatch | LabelledBatch


def padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[Tensor, Tensor]:
    """Rows (B, L) filled to the longest, and their lengths (B,); both int64."""
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    table = [[*row, *[fill] * (longest - len(row))] for row in rows]
    return torch.tensor(table), torch.tensor(lengths)


def seq2seq_batch(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    pad: int,
    group: Sequence[int],
    texts: Sequence[str],
    index: Sequence[int],
) -> TextBatch:
    """UniLM rows: the token after each place is predicted if it is the target's.

    So the source's last [SEP] predicts the target's first token, and the target's last token the
    closing [SEP].

    Args:
        sources: [CLS] ... [SEP] of each row.
        targets: ... [SEP] of each row, without [CLS].
        pad: Token that fills.
        group: Group of each row.
        texts: Source text of each row.
        index: Number of each row's item.
    """
    rows = [[*s, *t] for s, t in zip(sources, targets, strict=True)]
    tokens, lengths = padded(rows, pad)
    L = tokens.shape[1]
    segments = torch.zeros_like(tokens)
    places: list[int] = []
    for i, (s, row) in enumerate(zip(sources, rows, strict=True)):
        segments[i, len(s) : len(row)] = 1
        places += range(i * L + len(s) - 1, i * L + len(row) - 1)
    where = torch.tensor(places)
    return TextBatch(
        tokens,
        segments,
        lengths,
        where,
        tokens.flatten()[where + 1],
        [len(t) for t in targets],
        torch.tensor(group),
        list(texts),
        torch.tensor(index),
    )


def masked_batch(
    rows: Sequence[Sequence[int]],
    predicted: Sequence[Sequence[int]],
    *,
    pad: int,
    texts: Sequence[str],
    index: Sequence[int],
) -> TextBatch:
    """Rows whose tokens see each other, with some to predict where they stand.

    Args:
        rows: [CLS] ... [SEP].
        predicted: The original token of each place to predict, -1 elsewhere; as long as the rows.
        pad: Token that fills.
        texts: Text of each row.
        index: Number of each row's item.
    """
    tokens, lengths = padded(rows, pad)
    original, _ = padded(predicted, -1)
    places = (original.flatten() >= 0).nonzero().squeeze(1)
    number = torch.tensor(index)
    return TextBatch(
        tokens,
        torch.zeros_like(tokens),
        lengths,
        places,
        original.flatten()[places],
        (original >= 0).sum(1).tolist(),
        number,
        list(texts),
        number,
    )
