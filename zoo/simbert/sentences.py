"""Sentence vectors and what they are for: cosines and retrieval; methods of the models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from zoo.data.sentences.batches import LabelledBatch, TextBatch, padded
from zoo.simbert.index import SentenceIndex

if TYPE_CHECKING:
    from zoo.simbert.encoder import Encoder
    from zoo.simbert.module import SimBERT
    from zoo.simbert.similarity import SentenceSimilarity

    Model: TypeAlias = SimBERT | SentenceSimilarity

_CPU_TOKENS = 512  # at a time: what the layers pass on then stays in the cache of a core


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Without gradients and dropout, also in the middle of a fit."""
    training = model.net.training
    model.net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.net.train(training)


def rows_vectors(model: Model, rows: Sequence[Sequence[int]]) -> Tensor:
    """Vectors (B, H) of token rows, on the model's device and not normalised."""
    tokens, lengths = padded(rows, model.tokenizer.pad)
    ragged = len({len(row) for row in rows}) > 1
    device = model.device
    vectors: Tensor = model.net.vectors(
        tokens.to(device, non_blocking=True),
        lengths.to(device, non_blocking=True) if ragged else None,  # no mask where none is needed
    )
    return vectors


def source_vectors(net: Encoder, batch: TextBatch | LabelledBatch) -> Tensor:
    """Vectors (B, H) of a batch's texts, not normalised, without the targets behind them."""
    if isinstance(batch, LabelledBatch):
        return net.vectors(batch.tokens, batch.lengths)
    sources = batch.lengths - batch.segments.sum(1)
    return net.vectors(batch.tokens[:, : int(sources.max())], sources)


def predict_step(
    model: Model, batch: TextBatch | LabelledBatch, batch_idx: int, dataloader_idx: int = 0
) -> Tensor:
    """Sentence vectors of length 1 of a batch's texts, float32 (B, H); a pair's are neighbours."""
    return F.normalize(source_vectors(model.net, batch).float(), dim=-1)


def length_of(model: Model) -> int:
    """Tokens at which a model cuts sentences: its own length, or its learned positions if fewer."""
    length = model.tokenizer.length
    learned = model.net.position_embeddings is not None
    return min(length, model.net.max_positions) if learned else length


def checked(texts: Sequence[str], name: str) -> list[str]:
    """The texts that a method was given.

    Raises:
        ValueError: They are no list of sentences.
    """
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


def encode(
    model: Model,
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
        model: The model.
        texts: The sentences.
        batch_size: Most sentences at a time.
        max_length: Tokens after which a sentence is cut; what the model was trained with, which it
            keeps with its weights, if not given.
        normalize: Scale to length 1.
        dim: The first so many features only, for a model trained with `matryoshka`.
        progress: Show a progress bar.

    Returns:
        float32 (N, H) or (N, dim) on the CPU, in the order of the texts.

    Raises:
        ValueError: No list of texts was given, or a number is out of range.
    """
    texts = checked(texts, "encode")
    max_length = length_of(model) if max_length is None else max_length
    if batch_size < 1 or max_length < 3:
        raise ValueError(
            f"batch_size={batch_size}, max_length={max_length}: need a sentence at a time or more, "
            "and room for [CLS], a token and [SEP]"
        )
    width = model.net.width
    if dim is not None and not 0 < dim <= width:
        raise ValueError(f"dim={dim}: the vectors have {width} features")
    rows = model.tokenizer.encode(texts, max_length) if len(texts) else []
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))  # the longest first: memory
    vectors = torch.empty(len(rows), dim or width)
    tokens = _CPU_TOKENS if model.device.type == "cpu" else batch_size * max_length
    with (
        evaluating(model),
        tqdm(total=len(rows), desc="encode", unit="sentence", disable=not progress) as bar,
    ):
        start = 0
        while start < len(order):
            size = min(batch_size, max(tokens // len(rows[order[start]]), 1))
            chosen = order[start : start + size]
            start += size
            batch = rows_vectors(model, [rows[i] for i in chosen])[:, :dim].float()
            batch = F.normalize(batch, dim=-1) if normalize else batch
            vectors[chosen] = batch.cpu()
            bar.update(len(chosen))
    return vectors


def similarity(model: Model, a: Sequence[str], b: Sequence[str], *, batch_size: int = 64) -> Tensor:
    """Cosine of each sentence of `a` with each of `b`, float32 (len(a), len(b)).

    Args:
        model: The model.
        a: Sentences.
        b: Sentences.
        batch_size: Sentences at a time.
    """
    u = encode(model, a, batch_size=batch_size)
    return u @ encode(model, b, batch_size=batch_size).T


def similar(
    model: Model,
    queries: Sequence[str],
    corpus: Sequence[str] | SentenceIndex,
    *,
    k: int = 10,
    batch_size: int = 64,
    backend: Literal["exact", "faiss"] = "exact",
) -> list[list[tuple[str, float]]]:
    """The k sentences of a corpus nearest to each query, with their cosines, nearest first.

    Args:
        model: The model.
        queries: Sentences.
        corpus: Sentences, or the index of them (`SentenceIndex.build`).
        k: How many.
        batch_size: Sentences at a time.
        backend: exact, or faiss where it is installed.

    Raises:
        ValueError: The index is another model's, or a number is out of range.
    """
    if isinstance(corpus, SentenceIndex):
        index = corpus
        index.check(model)
    else:
        index = SentenceIndex(list(corpus), encode(model, corpus, batch_size=batch_size))
    vectors = encode(model, queries, batch_size=batch_size)
    scores, found = index.search(vectors, k, backend=backend)
    return [
        [(index.texts[i], score) for i, score in zip(row, row_scores, strict=True)]
        for row, row_scores in zip(found.tolist(), scores.tolist(), strict=True)
    ]
