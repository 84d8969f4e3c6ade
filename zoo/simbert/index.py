"""An index of sentence vectors: exact search by blocks, or faiss where it is installed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from tokenize import TokenError
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.sentences.tokenizer import Tokenizer
from zoo.files import replacing
from zoo.reading import decoded, parsed, read_bytes
from zoo.untrusted import read_json_object

_BLOCK = 65_536  # sentences compared at a time
# What NumPy raises over headers of any content.
_DAMAGED = (ValueError, EOFError, OSError, TypeError, OverflowError, SyntaxError, TokenError)
_OFF_UNIT = 1e-3  # what a rounded sum of squares is far from


class Encodes(Protocol):
    """A model whose vectors an index holds."""

    @property
    def net(self) -> nn.Module:
        """The encoder."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary."""

    def encode(
        self, texts: Sequence[str], *, batch_size: int = 64, progress: bool = False
    ) -> Tensor:
        """Vectors of length 1, float32 (N, H)."""


def fingerprint(model: Encodes) -> str:
    """A number of the encoder's weights and the vocabulary, which tells models apart."""
    digest = blake2b(digest_size=16)
    for key, value in sorted(model.net.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(model.tokenizer.get_extra_state().numpy().tobytes())
    return digest.hexdigest()


class SentenceIndex:
    """Sentences and their unit vectors.

    Args:
        texts: The sentences.
        vectors: Their vectors, float32 (N, H), of length 1.
        model: Fingerprint of the model that they are of, if it is known.

    Raises:
        ValueError: There are not as many vectors as sentences.
    """

    def __init__(self, texts: list[str], vectors: Tensor, model: str | None = None) -> None:
        if len(texts) != len(vectors):
            raise ValueError(f"{len(texts)} sentences with {len(vectors)} vectors")
        self.texts, self.vectors, self.model = texts, vectors, model

    @classmethod
    def build(
        cls, model: Encodes, texts: Sequence[str], *, batch_size: int = 64, progress: bool = False
    ) -> SentenceIndex:
        """The index of sentences by a model, which encodes `batch_size` at a time."""
        vectors = model.encode(texts, batch_size=batch_size, progress=progress)
        return cls(list(texts), vectors, fingerprint(model))

    def check(self, model: Encodes) -> None:
        """Raises ValueError if the vectors are known to be another model's."""
        if self.model is not None and self.model != fingerprint(model):
            raise ValueError(
                "the index was made by another model (other weights or vocabulary): make it anew"
            )

    def search(
        self, queries: Tensor, k: int, *, backend: Literal["exact", "faiss"] = "exact"
    ) -> tuple[Tensor, Tensor]:
        """The k nearest of each query.

        Args:
            queries: Unit vectors, float32 (Q, H).
            k: How many; as many as there are if fewer.
            backend: exact compares by blocks; faiss uses its flat index.

        Returns:
            Cosines, float32 (Q, k), the largest first, and numbers of the sentences, int64 (Q, k).

        Raises:
            ValueError: k is not positive, the sizes differ, or faiss is not installed.
        """
        if k < 1:
            raise ValueError(f"k={k}: ask for at least one sentence")
        if queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"queries of {queries.shape[1]} features for an index of {self.vectors.shape[1]}: "
                "it was made by another model"
            )
        k = min(k, len(self.texts))
        if backend == "faiss":
            return self._faiss(queries, k)
        best, where = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0).long()
        for start in range(0, len(self.texts), _BLOCK):
            scores = queries @ self.vectors[start : start + _BLOCK].T
            top, at = scores.topk(min(k, scores.shape[1]), 1)
            candidates, places = torch.cat([best, top], 1), torch.cat([where, at + start], 1)
            best, keep = candidates.topk(min(k, candidates.shape[1]), 1)
            where = places.gather(1, keep)
        return best, where

    def _faiss(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        try:
            faiss = importlib.import_module("faiss")
        except ModuleNotFoundError as error:
            raise ValueError("backend=faiss: pip install faiss-cpu, or use exact") from error
        index = faiss.IndexFlatIP(self.vectors.shape[1])
        index.add(self.vectors.numpy())
        scores, where = index.search(queries.numpy(), k)
        return torch.from_numpy(scores), torch.from_numpy(where)

    def save(self, folder: str | Path) -> None:
        """Writes vectors.npy, texts.json and model.json into a folder, made if it is not there."""
        folder = Path(folder)
        with replacing(folder / "vectors.npy") as temporary, temporary.open("wb") as file:
            np.save(file, self.vectors.numpy())
        with replacing(folder / "texts.json") as temporary:
            temporary.write_text(json.dumps(self.texts, ensure_ascii=False, indent=0), "utf-8")
        with replacing(folder / "model.json") as temporary:
            temporary.write_text(json.dumps({"fingerprint": self.model}), "utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> SentenceIndex:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is damaged, or is not of one index.
        """
        folder = Path(folder)
        texts = _texts(folder / "texts.json")
        model = read_json_object(folder / "model.json").get("fingerprint")
        if model is not None and not isinstance(model, str):
            raise ValueError(f"{folder / 'model.json'}: the fingerprint {model!r:.80} is no text")
        return cls(texts, _vectors(folder / "vectors.npy", len(texts)), model)


def _texts(path: Path) -> list[str]:
    """The sentences of an index, which may be many."""
    text = decoded(read_bytes(path), path)
    try:
        texts = parsed(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path} is no list of texts")
    return texts


def _vectors(path: Path, count: int) -> Tensor:
    """The vectors of an index, whose header is not believed before the file is as long as it says.

    They are `count` unit vectors in float32.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file")
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise ValueError(f"{path} is cut off or no array: {error}") from error
    if not isinstance(mapped, np.ndarray) or mapped.dtype != np.float32 or mapped.ndim != 2:
        raise ValueError(f"{path} is no table of float32")
    if len(mapped) != count:
        raise ValueError(f"{path} has {len(mapped)} vectors for {count} sentences: make it anew")
    vectors = torch.from_numpy(np.array(mapped))
    if not torch.isfinite(vectors).all():
        raise ValueError(f"{path} holds numbers that are not finite: make it anew")
    if ((torch.linalg.vector_norm(vectors, dim=1) - 1).abs() > _OFF_UNIT).any():
        raise ValueError(f"{path} holds vectors that are not of length 1: make it anew")
    return vectors
