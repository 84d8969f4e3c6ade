"""An index of sentence vectors, in memory or mapped from a folder that queries leave as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from tokenize import TokenError
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from zoo.data.cache import remembered
from zoo.data.sentences.mapped import MappedTexts, write_distinct
from zoo.data.sentences.tokenizer import Tokenizer
from zoo.files import replacing, replacing_folder
from zoo.reading import decoded, parsed, read_bytes
from zoo.simbert.approximate import NOTE, Approximate, Backend, exact, flat, kind_for
from zoo.untrusted import check_regular, read_json_object, read_safetensors
from zoo.waiting import Bar

_PART = 65_536  # sentences that are encoded, or vectors that are looked at, together
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
        folder: Where they are mapped from, and what faiss makes of them is kept.

    Raises:
        ValueError: There are not as many vectors as sentences.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vectors: Tensor,
        model: str | None = None,
        folder: Path | None = None,
    ) -> None:
        if len(texts) != len(vectors):
            raise ValueError(f"{len(texts)} sentences with {len(vectors)} vectors")
        self.texts, self.vectors, self.model, self.folder = texts, vectors, model, folder
        self._near: Approximate | None = None

    @classmethod
    def build(
        cls,
        model: Encodes,
        texts: Iterable[str],
        *,
        folder: str | Path | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> SentenceIndex:
        """The index of sentences by a model, which encodes `batch_size` at a time.

        With a folder they are written there, each different one once, as they are encoded, so that
        memory does not grow with them; a folder that was not there appears whole, and an index that
        was is as it was until all of the new one is written.

        Raises:
            ValueError: There is no sentence to write to the folder, or what is there is no index.
        """
        if folder is None:
            texts = list(texts)
            vectors = model.encode(texts, batch_size=batch_size, progress=progress)
            return cls(texts, vectors, fingerprint(model))
        folder = Path(folder)
        _check_place(folder)
        with replacing_folder(folder, "model.json") as new:
            found = write_distinct(new / "texts", texts)
            if not len(found):
                raise ValueError(f"there is no sentence for {folder}")
            with (
                (new / "vectors.npy").open("wb") as file,
                Bar("encode", len(found), "sentences", shown=progress) as bar,
            ):
                for start in range(0, len(found), _PART):
                    part = model.encode(found[start : start + _PART], batch_size=batch_size)
                    if not start:
                        shape = (len(found), part.shape[1])
                        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(part.numpy().astype("<f4").tobytes())
                    bar.update(len(part))
            _write_model(new / "model.json", fingerprint(model), type(model).__name__)
        _forget(folder, "texts.json")
        return cls.load(folder)

    def check(self, model: Encodes | str) -> None:
        """Raises ValueError if the vectors are known to be another model's.

        Args:
            model: The model, or its fingerprint.
        """
        if self.model is None:
            return
        if self.model != (model if isinstance(model, str) else fingerprint(model)):
            raise ValueError(
                "the index was made by another model (other weights or vocabulary): make it anew"
            )

    def search(
        self, queries: Tensor, k: int, *, backend: Backend = "exact", progress: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The k nearest of each query.

        Args:
            queries: Unit vectors, float32 (Q, H).
            k: How many; as many as there are if fewer.
            backend: exact compares with all by blocks. The others are faiss's: hnsw is a graph,
                ivfpq lists of short codes, and faiss what suits the size, of few its exact search.
                What they make of a mapped index is kept in its folder, and taken from there.
            progress: Show a bar while that is made.

        Returns:
            Cosines, float32 (Q, k), the largest first, and numbers of the sentences, int64 (Q, k).

        Raises:
            ValueError: k is not positive, the sizes differ, faiss is not installed, or what is kept
                is damaged.
        """
        if k < 1:
            raise ValueError(f"k={k}: ask for at least one sentence")
        if queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(
                f"queries of {queries.shape[1]} features for an index of {self.vectors.shape[1]}: "
                "it was made by another model"
            )
        k = min(k, len(self.texts))
        if backend == "exact":
            return exact(self.vectors, queries, k)
        near = self.approximate(backend, progress=progress)
        return near.search(queries, k) if near else flat(self.vectors, queries, k)

    def approximate(self, backend: Backend, *, progress: bool = False) -> Approximate | None:
        """What faiss finds neighbours by, from the folder or made now; None if by comparing all.

        Without a folder there is none to keep it in, and it is made for this object.
        """
        kind = kind_for(backend, len(self.vectors), kept=self.folder is not None)
        if kind is None:
            return None
        wanted = None if backend == "faiss" else kind  # any that is there
        if self._near is None or wanted not in (None, self._near.kind):
            if self.folder is None:
                self._near = Approximate.make(self.vectors, kind, progress=progress)
            else:
                where = (self.folder, _digest(self.folder, len(self.texts)))
                self._near = Approximate.read(self.vectors, wanted, *where) or Approximate.make(
                    self.vectors, kind, *where, self.model, progress=progress
                )
        return self._near

    def save(self, folder: str | Path) -> None:
        """Writes vectors.npy, texts.json and model.json into a folder, made if it is not there."""
        folder = Path(folder)
        _check_place(folder)
        (folder / "model.json").unlink(missing_ok=True)  # nothing is an index until it is back
        with replacing(folder / "vectors.npy") as temporary, temporary.open("wb") as file:
            np.save(file, self.vectors.numpy())
        with replacing(folder / "texts.json") as temporary:
            text = json.dumps(list(self.texts), ensure_ascii=False, indent=0)
            temporary.write_text(text, "utf-8")
        _write_model(folder / "model.json", self.model)
        _forget(folder, "texts.bin", "texts.ends")

    @classmethod
    def load(cls, folder: str | Path) -> SentenceIndex:
        """Maps what `save` or `build` wrote, or a folder like it with vectors.safetensors.

        Raises:
            FileNotFoundError: It is not there.
            ValueError: It is damaged, or is not of one index.
        """
        folder = Path(folder)
        texts = _texts(folder)
        model = read_json_object(folder / "model.json").get("fingerprint")
        if model is not None and not isinstance(model, str):
            raise ValueError(f"{folder / 'model.json'}: the fingerprint {model!r:.80} is no text")
        _digest(folder, len(texts))
        return cls(texts, _mapped(folder, len(texts))[1], model, folder)


def _check_place(folder: Path) -> None:
    """Raises ValueError if files of an index's names are in a folder that holds none."""
    note = folder / "model.json"
    if note.is_file() and "fingerprint" in read_json_object(note):
        return
    names = ("vectors.npy", "vectors.safetensors", "texts.json", "texts.bin", "model.json")
    if there := [name for name in names if os.path.lexists(folder / name)]:
        raise ValueError(
            f"{folder} holds {there[0]} and no index: it would be lost; name another folder"
        )


def _forget(folder: Path, *names: str) -> None:
    """Removes what a folder had of an index before, and what faiss made of it."""
    for name in (*names, "vectors.safetensors", NOTE):
        (folder / name).unlink(missing_ok=True)
    for file in folder.glob("faiss-*.index"):
        file.unlink()


def _write_model(path: Path, model: str | None, name: str | None = None) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"fingerprint": model, "model": name}), "utf-8")


def _texts(folder: Path) -> Sequence[str]:
    """The sentences of an index: mapped, or of JSON."""
    path, stem = folder / "texts.json", folder / "texts"
    if Path(f"{stem}.bin").exists() or Path(f"{stem}.ends").exists():
        if path.exists():
            raise ValueError(f"{folder} has texts.json and texts.bin: one is of another index")
        return MappedTexts(stem)
    if not path.exists():
        raise FileNotFoundError(f"{folder} holds no index of sentences: -i FILE makes one")
    text = decoded(read_bytes(path), path)
    try:
        texts = parsed(text)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path} is no list of texts")
    return texts


def _mapped(folder: Path, count: int) -> tuple[Path, Tensor]:
    """The file of the vectors and its `count` rows, which are not looked at.

    The header is not believed before the file is as long as it says.
    """
    path = folder / "vectors.safetensors"
    vectors: Tensor | None
    if path.exists() and not (folder / "vectors.npy").exists():
        vectors = read_safetensors(path).get("vectors")
    else:
        path = folder / "vectors.npy"
        check_regular(path)
        try:
            # Of this process alone if it were written to, as torch wants an array to allow.
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except _DAMAGED as error:
            raise ValueError(f"{path} is cut off or no array: {error}") from error
        good = isinstance(array, np.ndarray) and array.dtype == np.float32
        vectors = torch.from_numpy(np.asarray(array)) if good else None
    if vectors is None or vectors.dtype != torch.float32 or vectors.ndim != 2:
        raise ValueError(f"{path} is no table of float32")
    if len(vectors) != count:
        raise ValueError(f"{path} has {len(vectors)} vectors for {count} sentences: make it anew")
    return path, vectors


def _digest(folder: Path, count: int) -> str:
    """A number of the vectors of a folder, which are finite and of length 1.

    They are looked at once for each state of the file.
    """
    path, vectors = _mapped(folder, count)

    def look() -> str:
        digest = blake2b(digest_size=16)
        for part in torch.split(vectors, _PART):
            if not torch.isfinite(part).all():
                raise ValueError(f"{path} holds numbers that are not finite: make it anew")
            if ((torch.linalg.vector_norm(part, dim=1) - 1).abs() > _OFF_UNIT).any():
                raise ValueError(f"{path} holds vectors that are not of length 1: make it anew")
            digest.update(part.contiguous().numpy().data)
        return digest.hexdigest()

    return remembered([path], "unit vectors", look)
