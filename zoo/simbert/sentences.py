"""Sentence vectors and what they are for: cosines and retrieval."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.sentences.batches import AnyBatch, LabelledBatch, padded
from zoo.layers.packed import packed
from zoo.layers.precision import product
from zoo.simbert.approximate import Backend
from zoo.simbert.base import SentenceModel
from zoo.simbert.encoder import Encoder
from zoo.simbert.index import SentenceIndex
from zoo.training.module import evaluating
from zoo.waiting import Bar

# At a time: what the layers pass on, so many numbers or twice as many halves, then stays in the
# cache of a core.
_CPU_TOKENS = 512
_OFTEN = 4  # times that many tokens, for which weights are brought into order


def source_vectors(net: Encoder, batch: AnyBatch) -> Tensor:
    """Vectors (B, H) of a batch's texts, not normalised, without the targets behind them."""
    if isinstance(batch, LabelledBatch):
        return net.vectors(batch.tokens, batch.lengths)
    sources = batch.lengths - batch.segments.sum(1)
    return net.vectors(batch.tokens[:, : int(sources.max())], sources)


def checked(texts: Sequence[str], name: str) -> list[str]:
    """The texts that a method was given; ValueError if they are no list of sentences."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise ValueError(f"{name} takes a list of sentences, not {texts!r:.40}: give [text]")
    found = list(texts)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise ValueError(f"{name} takes sentences (str): number {i} is {text!r:.40}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}: sentence {i} holds half a surrogate pair") from error
    return found


class Neighbour(NamedTuple):
    """A sentence of a corpus."""

    text: str
    cosine: float
    """With the query."""


class Encoding(SentenceModel):
    """Sentences to vectors, cosines and neighbours."""

    def rows_vectors(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Vectors (B, H) of token rows, on the model's device and not normalised."""
        return self._vectors_by(self.net, rows)

    def _vectors_by(self, net: Encoder, rows: Sequence[Sequence[int]]) -> Tensor:
        """`rows_vectors` by another form of the encoder."""
        tokens, lengths = padded(rows, self.tokenizer.pad)
        ragged = len({len(row) for row in rows}) > 1
        device = self.device
        return net.vectors(
            tokens.to(device, non_blocking=True),
            # No mask where none is needed.
            lengths.to(device, non_blocking=True) if ragged else None,
        )

    def predict_step(self, batch: AnyBatch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Unit vectors of a batch's texts, float32 (B, H); a pair's are neighbours."""
        return F.normalize(source_vectors(self.net, batch).float(), dim=-1)

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        max_length: int | None = None,
        normalize: bool = True,
        dim: int | None = None,
        progress: bool = False,
    ) -> Tensor:
        """Sentence vectors; sentences of like lengths share a batch, so little padding is computed.

        Args:
            texts: The sentences.
            batch_size: Most sentences at a time.
            max_length: Tokens after which a sentence is cut; what the model was trained with, which
                it keeps with its weights, if not given.
            normalize: Scale to length 1.
            dim: The first so many features only, for a model trained with `matryoshka`.
            progress: Show a progress bar.

        Returns:
            float32 (N, H) or (N, dim) on the CPU, in the order of the texts.

        Raises:
            ValueError: No list of texts was given, or a number is out of range.
        """
        texts = checked(texts, "encode")
        max_length = self.length() if max_length is None else max_length
        if batch_size < 1 or max_length < 3:
            raise ValueError(
                f"batch_size={batch_size}, max_length={max_length}: need a sentence at a time or "
                "more, and room for [CLS], a token and [SEP]"
            )
        width = self.net.width
        if dim is not None and not 0 < dim <= width:
            raise ValueError(f"dim={dim}: the vectors have {width} features")
        rows = self.tokenizer.encode(texts, max_length) if len(texts) else []
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # the longest first: memory
        vectors = torch.empty(len(rows), dim or width)
        with (
            evaluating(self),
            Bar("encode", len(rows), "sentences", shown=progress) as bar,
        ):
            make: Callable[[Sequence[Sequence[int]]], Tensor] = self.rows_vectors
            tokens = batch_size * max_length
            if self.device.type == "cpu":
                tokens = _CPU_TOKENS * (2 if torch.is_autocast_enabled("cpu") else 1)
                own = type(self).rows_vectors is not Encoding.rows_vectors  # a subclass's
                if sum(map(len, rows)) > _OFTEN * tokens and not own:
                    last = f"layers.{len(self.net.layers) - 1}.qkv"  # see Layer.first
                    make = partial(self._vectors_by, packed(self.net, [last]))
            start = 0
            while start < len(order):
                size = min(batch_size, max(tokens // len(rows[order[start]]), 1))
                chosen = order[start : start + size]
                start += size
                batch = make([rows[i] for i in chosen])[:, :dim].float()
                batch = F.normalize(batch, dim=-1) if normalize else batch
                vectors[chosen] = batch.cpu()
                bar.update(len(chosen))
        return vectors

    def similarity(self, a: Sequence[str], b: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Cosine of each sentence of `a` with each of `b`, float32 (len(a), len(b))."""
        u = self.encode(a, batch_size=batch_size)
        return product(u, self.encode(b, batch_size=batch_size).T)

    def index(
        self,
        texts: Iterable[str],
        folder: str | Path | None = None,
        *,
        batch_size: int = 64,
        progress: bool = False,
    ) -> SentenceIndex:
        """The index of sentences, for `similar`; `SentenceIndex.load(folder)` reads it again.

        Args:
            texts: The sentences.
            folder: Where to write it, each sentence once, and map it from, so that neither making
                it nor asking it takes memory that grows with the sentences; in memory if not given.
            batch_size: Sentences at a time.
            progress: Show a progress bar.

        Raises:
            ValueError: What was given is no list of sentences.
        """
        if isinstance(texts, str | bytes):
            raise ValueError(f"index takes a list of sentences, not {texts!r:.40}: give [text]")
        return SentenceIndex.build(
            self, texts, folder=folder, batch_size=batch_size, progress=progress
        )

    def similar(
        self,
        queries: Sequence[str],
        corpus: Sequence[str] | SentenceIndex,
        *,
        k: int = 10,
        batch_size: int = 64,
        backend: Backend = "exact",
    ) -> list[list[Neighbour]]:
        """The k sentences of a corpus nearest to each query, with their cosines, nearest first.

        Args:
            queries: Sentences.
            corpus: Sentences, or the index of them.
            k: How many.
            batch_size: Sentences at a time.
            backend: exact, or one of faiss's, see `SentenceIndex.search`.

        Raises:
            ValueError: The index is another model's, or a number is out of range.
        """
        if isinstance(corpus, SentenceIndex):
            corpus.check(self)
            index = corpus
        else:
            index = SentenceIndex(list(corpus), self.encode(corpus, batch_size=batch_size))
        return self.nearest(queries, index, k=k, batch_size=batch_size, backend=backend)

    def nearest(
        self,
        queries: Sequence[str],
        index: SentenceIndex,
        *,
        k: int = 10,
        batch_size: int = 64,
        backend: Backend = "exact",
        progress: bool = False,
    ) -> list[list[Neighbour]]:
        """As `similar` of an index that is known to be of this model."""
        vectors = self.encode(queries, batch_size=batch_size)
        scores, found = index.search(vectors, k, backend=backend, progress=progress)
        return [
            [Neighbour(index.texts[i], score) for i, score in zip(row, row_scores, strict=True)]
            for row, row_scores in zip(found.tolist(), scores.tolist(), strict=True)
        ]
