"""Numbers of a sentence model: rank correlation with labels, retrieval, and TF-IDF's of both."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import spearman_corrcoef

from zoo.simbert.batches import LabelledBatch, TextBatch
from zoo.simbert.encoder import Encoder
from zoo.simbert.index import jaccard
from zoo.simbert.losses import paired_cosines

CANDIDATES = 2000  # groups among which retrieval searches
LOW_OVERLAP = 0.35  # character Jaccard below which a pair is hard for methods by characters


def spearman(score: Tensor, label: Tensor) -> float:
    """Spearman's rank correlation times 100, ties averaged; 0 where one side is constant."""
    return 100 * float(spearman_corrcoef(score.double(), label.double()))


def top1(queries: Tensor, candidates: Tensor, family: Tensor) -> Tensor:
    """Whether the nearest candidate of each query is of its family, bool (N,).

    Args:
        queries: Unit vectors, (N, H).
        candidates: Unit vectors, (N, H); number i belongs to query i.
        family: Families, (N,).
    """
    return family[(queries @ candidates.T).argmax(1)] == family


class Gathered:
    """Rows of tensors over an evaluation, put in the order of their numbers on every process."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, ...]] = []

    def add(self, index: Tensor, *columns: Tensor) -> None:
        """Adds rows: their numbers (B,), and columns (B, ...)."""
        self._rows.append((index, *columns))

    def collect(self, module: LightningModule) -> tuple[Tensor, ...] | None:
        """All processes' rows on the CPU, and starts again; None if there are none."""
        rows = [[c.detach().cpu() for c in columns] for columns in self._rows]
        self._rows = []
        if module.trainer.world_size > 1:
            parts: list[Any] = [None] * module.trainer.world_size
            dist.all_gather_object(parts, rows)
            rows = [columns for part in parts for columns in part]
        if not rows:
            return None
        index, *columns = (torch.cat(column) for column in zip(*rows, strict=True))
        order = index.argsort()
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


class SentenceNumbers:
    """Cosines of labelled pairs and retrieval of groups, over an evaluation."""

    def __init__(self) -> None:
        self._cosines, self._groups = Gathered(), Gathered()
        self.pairs = self.groups = 0

    def add_labelled(self, net: Encoder, batch: LabelledBatch) -> None:
        """Adds labelled pairs."""
        vectors = net.vectors(batch.tokens, batch.lengths)
        cosine = paired_cosines(vectors[::2], vectors[1::2])
        self._cosines.add(batch.index, cosine, batch.label, batch.source)

    def add_groups(self, vectors: Tensor, batch: TextBatch) -> None:
        """Adds pairs of similar sentences with their vectors (2 B, H), not normalised."""
        unit = F.normalize(vectors.float(), dim=-1)
        self._groups.add(batch.index[::2], unit[::2], unit[1::2], batch.group[::2])

    def collect(self, module: LightningModule, stage: Literal["val", "test"]) -> dict[str, float]:
        """The numbers: spearman of each set and their mean, top1; and starts again."""
        data: Any = getattr(module.trainer, "datamodule", None)
        groups, cosines = self._groups.collect(module), self._cosines.collect(module)
        values: dict[str, float] = {}
        if groups is not None and hasattr(data, "groups"):
            texts = data.groups(stage)[:CANDIDATES]
            a, b, family = (column[:CANDIDATES] for column in groups)
            values |= retrieval_numbers(a, b, family, texts)
            self.groups = len(texts)
        if cosines is not None and hasattr(data, "labelled"):
            cosine, label, source = cosines
            own = {
                f"spearman_{name}": spearman(cosine[source == number], label[source == number])
                for number, name in enumerate(data.labelled(stage))
            }
            values |= {**own, "spearman": sum(own.values()) / len(own)}
            self.pairs = len(cosine)
        return values

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
                f"groups; low_overlap: those with a character Jaccard below {LOW_OVERLAP}"
            )
        lines["baseline"] = "cosine of TF-IDF vectors of characters, fitted on the same sentences"
        return lines


def tfidf_numbers(module: LightningModule, stage: Literal["val", "test"]) -> dict[str, float]:
    """The same numbers of TF-IDF on characters, fitted on each set, as baseline/..."""
    data: Any = getattr(module.trainer, "datamodule", None)
    values: dict[str, float] = {}
    if not hasattr(data, "labelled"):
        return values
    for name, pairs in data.labelled(stage).items():
        a, b = tfidf([pair.a for pair in pairs], [pair.b for pair in pairs])
        cosine = torch.from_numpy(np.asarray(a.multiply(b).sum(1)).ravel())
        values[f"spearman_{name}"] = spearman(cosine, torch.tensor([p.label for p in pairs]))
    if values:
        values["spearman"] = sum(values.values()) / len(values)
    groups = data.groups(stage)[:CANDIDATES] if hasattr(data, "groups") else []
    if groups:
        table = tfidf([g[0] for g in groups], [g[1] for g in groups])
        a, b = (torch.from_numpy(part.toarray()) for part in table)
        values |= retrieval_numbers(a, b, torch.arange(len(groups)), groups)
    return {f"baseline/{key}": value for key, value in values.items()}


def tfidf(a: Sequence[str], b: Sequence[str]) -> tuple[Any, Any]:
    """Sparse unit vectors of texts, characters weighted by rarity among all of these texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = TfidfVectorizer(analyzer="char").fit_transform([*a, *b])
    return table[: len(a)], table[len(a) :]
