"""Losses of sentence vectors: contrastive, ranking, classification, distillation.

Where a loss compares a process's rows with the columns of all processes, the mean of the
processes' losses is the loss of one process with all rows, and so is its gradient if the columns
were gathered differentiably (`zoo.training.distributed.gather_with_grad`).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.sentences.batches import TASKS
from zoo.layers.precision import at_least_float32, product

Contrast = Literal["infonce", "flatnce"]
PairLoss = Literal["cosent", "sbert", "cosine_zero", "cosine_minus", "hinge"]
# Smaller than any scaled cosine, and finite: with -inf the gradient of logcumsumexp is NaN.
_NOTHING = -1e4


def cosines(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosine of each row (n, d) with each column (m, d), (n, m), in float32 also under autocast."""
    a, b = (F.normalize(at_least_float32(x), dim=-1) for x in (rows, columns))
    return product(a, b.T)


def paired_cosines(u: Tensor, v: Tensor) -> Tensor:
    """Cosine of each row of u (n, d) with the same row of v, (n,), at least in float32."""
    return F.cosine_similarity(at_least_float32(u), at_least_float32(v), dim=-1)


def over_prefixes(loss: Callable[..., Tensor], dims: Sequence[int], *vectors: Tensor) -> Tensor:
    """Mean of a loss over the first d features of the vectors, for d in dims (arXiv 2205.13147).

    Args:
        loss: Takes the shortened vectors.
        dims: Numbers of features; none means the whole vectors alone.
        *vectors: Not normalised, (n, d) each.
    """
    if not dims:
        return loss(*vectors)
    return torch.stack([loss(*(v[:, :d] for v in vectors)) for d in dims]).mean()


def contrastive(
    rows: Tensor,
    columns: Tensor,
    *,
    scale: float,
    offset: int = 0,
    kind: Contrast = "infonce",
    excluded: Tensor | None = None,
) -> Tensor:
    """In-batch contrastive loss of vectors in pairs (kexue.fm/archives/7427): 2 i with 2 i + 1.

    infonce is -log of the softmax of s = scale cos over all other vectors; flatnce leaves the
    positive out of the denominator (kexue.fm/archives/8586), log sum_{j != t} exp s_j - s_t, and
    may be negative. Rows without negatives have loss 0.

    Args:
        rows: Vectors of this process, not normalised, (n, d), n even.
        columns: Vectors of all processes, (N, d).
        scale: Inverse temperature.
        offset: Column of row 0.
        kind: infonce or flatnce.
        excluded: True for columns that are no negatives of a row, bool (n, N); a row's positive is
            kept whatever it says.
    """
    own = torch.arange(offset, offset + len(rows), device=rows.device)
    target = own ^ 1  # offset is even, so pairs stay pairs
    s = scale * cosines(rows, columns)
    drop = torch.zeros_like(s, dtype=torch.bool) if excluded is None else excluded.clone()
    drop.scatter_(1, own[:, None], True)
    drop.scatter_(1, target[:, None], kind == "flatnce")
    # With no negative at all the positive stays: the loss is 0 then, as infonce's.
    alone = drop.all(1, keepdim=True)
    drop.scatter_(1, target[:, None], drop.gather(1, target[:, None]) & ~alone)
    positive = s.gather(1, target[:, None]).squeeze(1)
    return (s.masked_fill(drop, -torch.inf).logsumexp(1) - positive).mean()


def cosent(cosine: Tensor, label: Tensor, task: Tensor, *, scale: float) -> Tensor:
    """CoSENT (kexue.fm/archives/8847) in O(B log B).

    log(1 + sum of exp(scale (cos_j - cos_i)) over all i, j of one task with label_i > label_j).

    Args:
        cosine: Of each pair, (B,).
        label: The higher the more similar, (B,); only the order matters.
        task: Number in `TASKS`, int64 (B,): labels of two tasks are never compared.
        scale: The lambda of the post.
    """
    order = label.argsort()
    label, task = label[order].contiguous(), task[order]
    s = scale * at_least_float32(cosine)[order]
    below = torch.searchsorted(label, label)  # how many labels are strictly smaller
    terms = [s.new_zeros(1)]
    for number in range(len(TASKS)):
        member = task == number
        sums = torch.where(member, s, _NOTHING).logcumsumexp(0)
        smaller = torch.where(below > 0, sums[(below - 1).clamp(min=0)], _NOTHING)
        terms.append(torch.where(member, smaller - s, _NOTHING))
    return torch.cat(terms).logsumexp(0)


def sbert(logits: Tensor, label: Tensor, task: Tensor, *, threshold: float) -> Tensor:
    """Sentence-BERT's classifier with a softmax within the task (kexue.fm/archives/8541).

    Classes 0, 1 are not similar and similar, 2, 3, 4 contradiction, entailment and neutral. Graded
    pairs are similar if their grade is above the threshold.

    Args:
        logits: Of the five classes, (B, 5).
        label: 0 or 1; for NLI 0 contradiction, 1 neutral, 2 entailment; or a grade, (B,).
        task: Number in `TASKS`, int64 (B,).
        threshold: Of graded pairs.
    """
    nli = task == TASKS.index("NLI")
    grade = task == TASKS.index("graded")
    similar = torch.where(grade, label > threshold, label > 0.5).long()
    of_nli = torch.tensor([2, 4, 3], device=label.device)[label.long().clamp(0, 2)]
    yes_no_class = torch.arange(5, device=label.device) < 2
    restricted = at_least_float32(logits).masked_fill(yes_no_class == nli[:, None], -torch.inf)
    return F.cross_entropy(restricted, torch.where(nli, of_nli, similar))


def cosine_loss(
    cosine: Tensor,
    label: Tensor,
    task: Tensor,
    *,
    kind: Literal["cosine_zero", "cosine_minus", "hinge"],
    threshold: float,
) -> Tensor:
    """Losses of the cosine itself, which the post finds worse than a classifier (8541).

    With t = 1 for similar pairs: t (1 - cos)^2 + (1 - t) cos^2; t (1 - cos)^2 + (1 - t) (1 +
    cos)^2; or t max(0.9 - cos, 0) + (1 - t) max(cos - 0.1, 0). Neutral NLI pairs say neither and
    are left out.

    `cosine` (B,) is that of each pair; the others are as for `sbert`.
    """
    nli = task == TASKS.index("NLI")
    grade = task == TASKS.index("graded")
    t = torch.where(nli, label > 1.5, torch.where(grade, label > threshold, label > 0.5)).float()
    if kind == "cosine_zero":
        losses = t * (1 - cosine) ** 2 + (1 - t) * cosine**2
    elif kind == "cosine_minus":
        losses = t * (1 - cosine) ** 2 + (1 - t) * (1 + cosine) ** 2
    else:
        losses = t * (0.9 - cosine).relu() + (1 - t) * (cosine - 0.1).relu()
    told = ~(nli & (label == 1))
    return (losses * told).sum() / told.sum().clamp(min=1)


def cosine_matching(
    rows: Tensor, columns: Tensor, teacher_rows: Tensor, teacher_columns: Tensor
) -> Tensor:
    """Mean squared difference of two cosine matrices (kexue.fm/archives/8454, distillation).

    Over all pairs, the diagonal too; the post multiplies it by 100.

    Rows (n, d) are of this process, columns (N, d) of all; the teacher's are of the same texts.
    """
    difference = cosines(rows, columns) - cosines(teacher_rows, teacher_columns)
    return difference.square().mean()
