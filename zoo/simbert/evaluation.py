"""Numbers of a sentence model: rank correlation with labels, retrieval, and TF-IDF's of both."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn import functional as F

from zoo.data.sentences.batches import LabelledBatch, TextBatch
from zoo.layers.precision import product
from zoo.simbert.encoder import Encoder
from zoo.simbert.losses import paired_cosines

CANDIDATES = 2000  # groups among which retrieval searches
LOW_OVERLAP = 0.35  # character Jaccard below which a pair is hard for methods by characters


def jaccard(a: Sequence[str] | str, b: Sequence[str] | str) -> float:
    """Characters in common of all characters, as sets."""
    first, second = set(a), set(b)
    return len(first & second) / max(len(first | second), 1)


def spearman(score: Tensor, label: Tensor) -> float:
    """Spearman's rank correlation times 100, ties averaged, in float64.

    NaN with a warning where it is not defined: for a single pair, scores or labels that are all the
    same, or such that are not finite.
    """
    from scipy.stats import rankdata

    score, label = torch.as_tensor(score), torch.as_tensor(label)
    if score.shape != label.shape:
        raise ValueError(f"{score.numel()} scores for {label.numel()} labels: give one for each")
    for name, values in (("scores", score), ("labels", label)):
        finite = bool(values.isfinite().all())
        if not finite or bool((values == values[:1]).all()):
            reason = "all the same" if finite else "not all finite"
            rank_zero_warn(
                f"the {name} of {len(values)} pairs are {reason}: their rank correlation is NaN"
            )
            return math.nan
    a, b = (rankdata(x.double().cpu().numpy()) for x in (score, label))
    a, b = a - a.mean(), b - b.mean()  # halves of whole numbers: sums of products are exact
    return 100 * float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def top1(queries: Tensor, candidates: Tensor, family: Tensor) -> Tensor:
    """Whether the nearest candidate of each query is of its family, bool (N,).

    Args:
        queries: Unit vectors, (N, H).
        candidates: Unit vectors, (N, H); number i belongs to query i.
        family: Families, (N,).
    """
    return family[product(queries, candidates.T).argmax(1)] == family


class Gathered:
    """Rows of tensors over an evaluation, put in the order of their numbers on every process."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, ...]] = []

    def add(self, index: Tensor, *columns: Tensor) -> None:
        """Adds rows: their numbers (B,), and columns (B, ...)."""
        self._rows.append((index, *columns))

    def collect(self, module: LightningModule) -> tuple[Tensor, ...] | None:
        """All processes' rows on the CPU, their numbers first, and starts again; None if none."""
        rows = [[c.detach().cpu() for c in columns] for columns in self._rows]
        self._rows = []
        if module.trainer.world_size > 1:
            parts: list[Any] = [None] * module.trainer.world_size
            dist.all_gather_object(parts, rows)
            rows = [columns for part in parts for columns in part]
        if not rows:
            return None
        columns = [torch.cat(column) for column in zip(*rows, strict=True)]
        order = columns[0].argsort()
        return tuple(column[order] for column in columns)


def retrieval_numbers(
    queries: Tensor, candidates: Tensor, family: Tensor, texts: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Top-1 of finding a group's second sentence by its first, also where both look different.

    Args:
        queries: Unit vectors of the first sentences, (N, H).
        candidates: Unit vectors of the second ones.
        family: Families of the groups, (N,).
        texts: The groups' sentences.
    """
    right = top1(queries, candidates, family).float()
    low = torch.tensor([jaccard(g[0], g[1]) < LOW_OVERLAP for g in texts])
    values = {"top1": float(right.mean())}
    if low.any():
        values["top1_low_overlap"] = float(right[low].mean())
    return values


class Shown(NamedTuple):
    """What an evaluation leaves for pictures, of the first items."""

    texts: list[Sequence[str]]
    """The sentences of each group."""
    a: Tensor
    """Unit vectors of the first ones, (N, H)."""
    b: Tensor
    """And of the second ones."""
    family: Tensor
    cosine: Tensor
    """Of labelled pairs, (M,)."""
    label: Tensor
    task: Tensor
    """Number of the kind of label in `TASKS`."""


class SentenceNumbers:
    """Cosines of labelled pairs and retrieval of groups, over an evaluation."""

    shown: Shown | None = None

    def __init__(self) -> None:
        self._cosines, self._groups = Gathered(), Gathered()
        self.pairs = self.groups = 0

    def add_labelled(self, net: Encoder, batch: LabelledBatch) -> None:
        """Adds labelled pairs."""
        vectors = net.vectors(batch.tokens, batch.lengths)
        cosine = paired_cosines(vectors[::2], vectors[1::2])
        self._cosines.add(batch.index, cosine, batch.label, batch.source, batch.task)

    def add_groups(self, vectors: Tensor, batch: TextBatch) -> None:
        """Adds pairs of similar sentences with their vectors (2 B, H), not normalised."""
        unit = F.normalize(vectors.float(), dim=-1)
        self._groups.add(batch.index[::2], unit[::2], unit[1::2], batch.group[::2])

    def collect(self, module: LightningModule, stage: Literal["val", "test"]) -> dict[str, float]:
        """The numbers of what was evaluated, which may be a part of the split; and starts again.

        Returns:
            STAGE/spearman of each set and their mean, STAGE/top1; of a test also those of TF-IDF,
            as baseline/...
        """
        data: Any = getattr(module.trainer, "datamodule", None)
        groups, cosines = self._groups.collect(module), self._cosines.collect(module)
        values: dict[str, float] = {}
        baseline: dict[str, float] = {}
        none = torch.empty(0)
        shown = Shown([], none, none, none, none, none, none)
        if groups is not None and hasattr(data, "groups"):
            index, a, b, family = (column[:CANDIDATES] for column in groups)
            # Both rows of a group have a number.
            texts = [data.groups(stage)[i // 2] for i in index.tolist()]
            values |= retrieval_numbers(a, b, family, texts)
            shown = shown._replace(texts=texts, a=a, b=b, family=family)
            if stage == "test":
                baseline |= retrieval_numbers(*tfidf_vectors(texts), family, texts)
            self.groups = len(texts)
        if cosines is not None and hasattr(data, "labelled"):
            index, cosine, label, source, task = cosines
            shown = shown._replace(cosine=cosine, label=label, task=task)
            sets = data.labelled(stage)
            pairs = [pair for part in sets.values() for pair in part]
            members = {name: source == number for number, name in enumerate(sets)}
            members = {name: member for name, member in members.items() if member.any()}
            own = {name: spearman(cosine[m], label[m]) for name, m in members.items()}
            values |= _with_mean(own)
            if stage == "test":
                judged = {
                    name: tfidf_cosines([pairs[i] for i in index[m].tolist()])
                    for name, m in members.items()
                }
                own = {name: spearman(judged[name], label[m]) for name, m in members.items()}
                baseline |= _with_mean(own)
            self.pairs = len(cosine)
        self.shown = shown
        values = {f"{stage}/{key}": value for key, value in values.items()}
        return values | {f"baseline/{key}": value for key, value in baseline.items()}

    def protocol(self) -> dict[str, str]:
        """How the numbers were made."""
        lines = {}
        if self.pairs:
            lines["test/spearman"] = (
                f"x 100, of the cosine in float32 with the label, {self.pairs} pairs; the mean "
                "over the sets, and each set"
            )
        if self.groups:
            lines["test/top1"] = (
                f"second sentence of a group found by its first among {self.groups} held-out "
                "groups, or that of a group with a sentence in common; low_overlap: those with a "
                f"character Jaccard below {LOW_OVERLAP}"
            )
        lines["baseline"] = "cosine of TF-IDF vectors of characters, fitted on the same sentences"
        return lines


def _with_mean(own: dict[str, float]) -> dict[str, float]:
    """Each set's rank correlation, and their mean."""
    named = {f"spearman_{name}": value for name, value in own.items()}
    return {**named, "spearman": sum(own.values()) / len(own)}


def tfidf_vectors(groups: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor]:
    """TF-IDF's unit vectors of the first and of the second sentences of groups, float64 (N, V)."""
    a, b = tfidf([g[0] for g in groups], [g[1] for g in groups])
    return torch.from_numpy(a.toarray()), torch.from_numpy(b.toarray())


def tfidf_cosines(pairs: Sequence[Any]) -> Tensor:
    """TF-IDF's cosines of labelled pairs, float64 (N,)."""
    a, b = tfidf([pair.a for pair in pairs], [pair.b for pair in pairs])
    return torch.from_numpy(np.asarray(a.multiply(b).sum(1)).ravel())


def tfidf(a: Sequence[str], b: Sequence[str]) -> tuple[Any, Any]:
    """Sparse unit vectors of texts, characters weighted by rarity among all of these texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = TfidfVectorizer(analyzer="char").fit_transform([*a, *b])
    return table[: len(a)], table[len(a) :]
