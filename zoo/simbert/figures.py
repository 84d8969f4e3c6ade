"""What a sentence model shows: cosines of a batch and of pairs, and a map of sentences."""

import numpy as np
import torch
from torch import Tensor

from zoo.data.protocols import Moment
from zoo.data.sentences.batches import TASKS
from zoo.figures import Figure
from zoo.layers.precision import product
from zoo.simbert.base import SentenceModel
from zoo.simbert.evaluation import SentenceNumbers, Shown

_BATCH, _MAPPED, _LETTERS = 32, 400, 60


class Figures(SentenceModel):
    """Pictures for the page of a run."""

    _numbers: SentenceNumbers

    def figures(self, moment: Moment) -> dict[str, Figure]:
        """Cosines of a validation or a test, and of a test the map."""
        shown, self._numbers.shown = self._numbers.shown, None  # another step's at the end
        if shown is None:
            return {}
        figures = {}
        if len(shown.a) > 1:
            figures["batch"] = _batch(shown)
        similar, other = pairs_of(shown)
        if len(similar) and len(other):
            figures["pairs"] = _pairs(similar, other, "labels" if len(shown.cosine) else "groups")
        if moment == "test" and len(shown.a) > 9:
            figures["map"] = _map(shown)
        return figures


def pairs_of(shown: Shown) -> tuple[Tensor, Tensor]:
    """Cosines of similar pairs and of others.

    By their labels of yes and no, or entailment and contradiction, where there are such; of groups,
    a sentence beside its own second one and beside that of the next group.
    """
    if len(shown.cosine):
        yes_no = shown.task == TASKS.index("yes/no")
        nli = shown.task == TASKS.index("NLI")
        high = torch.where(yes_no, shown.label > 0.5, torch.where(nli, shown.label > 1.5, False))
        low = (yes_no | nli) & (shown.label < 0.5)
        graded = ~(yes_no | nli)
        if graded.any():  # the upper and the lower half of the grades
            middle = (shown.label[graded].max() + shown.label[graded].min()) / 2
            high, low = (
                high | graded & (shown.label > middle),
                low | graded & (shown.label < middle),
            )
        return shown.cosine[high], shown.cosine[low]
    if not len(shown.a):
        return shown.a, shown.b
    apart = shown.family != shown.family.roll(-1)
    return (shown.a * shown.b).sum(1), (shown.a * shown.b.roll(-1, 0)).sum(1)[apart]


def best_f1(similar: Tensor, other: Tensor) -> tuple[float, float]:
    """The threshold from which on pairs are called similar with the highest F1, and that F1."""
    values, order = torch.cat([similar, other]).double().sort(descending=True)
    right = (order < len(similar)).cumsum(0)
    called = torch.arange(1, len(values) + 1)
    f1 = 2 * right / (called + len(similar))
    last = torch.ones_like(f1, dtype=torch.bool)
    last[:-1] = values[1:] != values[:-1]  # equal cosines are called alike
    best = int(f1.where(last, -1.0).argmax())
    return float(values[best]), float(f1[best])


def _pairs(similar: Tensor, other: Tensor, source: str) -> Figure:
    threshold, f1 = best_f1(similar, other)
    by = "by their labels" if source == "labels" else "a group, and a sentence of the next group"
    return Figure(
        "histograms",
        "Cosines of similar and of other pairs",
        {"similar": similar.float().numpy(), "other": other.float().numpy()},
        by,
        {"x": "cosine", "y": "density", "marks": {f"F1 {f1:.3f} from {threshold:.3f}": threshold}},
    )


def _batch(shown: Shown) -> Figure:
    a, b = shown.a[:_BATCH], shown.b[:_BATCH]
    return Figure(
        "heatmap",
        "Cosines of a batch",
        {"values": product(a, b.T).float().numpy()},
        "the first sentences of groups by the second ones: the diagonal says the same",
        {
            "rows": [_short(group[0]) for group in shown.texts[: len(a)]],
            "columns": [_short(group[1]) for group in shown.texts[: len(b)]],
            "x": "second sentence",
            "y": "first sentence",
            "value": "cosine",
        },
    )


def _map(shown: Shown) -> Figure:
    from sklearn.manifold import TSNE

    a, b = shown.a[:_MAPPED], shown.b[:_MAPPED]
    vectors = torch.cat([a, b]).double().numpy()
    near = min(20.0, len(vectors) / 4)
    table = TSNE(init="pca", metric="cosine", perplexity=near, random_state=0)
    texts = [_short(group[i]) for i in (0, 1) for group in shown.texts[: len(a)]]
    return Figure(
        "points",
        "Map of the corpus",
        {"xy": table.fit_transform(vectors), "group": np.repeat([0, 1], len(a))},
        f"{len(vectors)} test sentences by t-SNE of their cosines",
        {"texts": texts, "groups": ["first sentences", "second sentences"]},
    )


def _short(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
