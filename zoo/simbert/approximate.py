"""Nearest vectors: all compared by blocks, or few of them by faiss, whose depth is measured."""

from __future__ import annotations

import errno
import importlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.cache import remembered
from zoo.files import naming, replacing, temporary_beside
from zoo.layers.precision import product
from zoo.memory import check_memory
from zoo.untrusted import read_json_object, sha256
from zoo.waiting import Bar

Backend = Literal["exact", "faiss", "hnsw", "ivfpq"]
Kind = Literal["hnsw", "ivfpq"]

_FEW, _MANY = 50_000, 1_000_000  # up to which all are compared, and up to which a graph is made
_BLOCK, _QUERIES = 65_536, 256  # vectors and queries that are compared together
_K, _ASKED = 10, 200  # of the recall that is measured, and of how many vectors
_ENOUGH = 0.95  # recall at which the depth is deep enough
_LINKS, _CODE, _LISTS = 32, 64, 4096  # of a vector in a graph; bytes and most lists of codes
NOTE = "faiss.json"


def exact(vectors: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of each query among all, by blocks, so that memory does not grow.

    Args:
        vectors: float32 (N, H).
        queries: float32 (Q, H).
        k: At most N.

    Returns:
        Scores, float32 (Q, k), the largest first, and numbers of the vectors, int64 (Q, k).
    """
    found = []
    for some in torch.split(queries, _QUERIES):
        best, where = some.new_empty(len(some), 0), torch.empty(len(some), 0).long()
        for start in range(0, len(vectors), _BLOCK):
            scores = product(some, vectors[start : start + _BLOCK].T)
            top, at = scores.topk(min(k, scores.shape[1]), 1)
            candidates, places = torch.cat([best, top], 1), torch.cat([where, at + start], 1)
            best, keep = candidates.topk(min(k, candidates.shape[1]), 1)
            where = places.gather(1, keep)
        found.append((best, where))
    return torch.cat([best for best, _ in found]), torch.cat([where for _, where in found])


def flat(vectors: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The same by faiss's exact search, which copies nothing."""
    faiss = _faiss()
    metric = faiss.METRIC_INNER_PRODUCT
    scores, where = faiss.knn(queries.numpy(), vectors.numpy(), k, metric=metric)
    return torch.from_numpy(scores), torch.from_numpy(where)


def kind_for(backend: Backend, count: int, *, kept: bool) -> Kind | None:
    """What a backend makes of so many vectors; None if it compares all."""
    if backend == "ivfpq" and count < _FEW:
        raise ValueError(f"backend=ivfpq: {count:,} sentences are too few to train it: use hnsw")
    if count <= _K:
        return None
    if backend == "hnsw" or backend == "ivfpq":
        return backend
    if backend == "exact" or count <= _FEW or not kept:
        return None
    return "hnsw" if count <= _MANY else "ivfpq"


def _faiss() -> Any:
    try:
        faiss = importlib.import_module("faiss")
    except ModuleNotFoundError as error:
        why = "pip install faiss-cpu"
        if error.name != "faiss":  # 1.12 and later need numpy 2
            why = f"this faiss-cpu finds no {error.name}: pip install -U faiss-cpu numpy"
        raise ValueError(f"backend=faiss: {why}, or use exact") from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


class Approximate:
    """A graph (HNSW) or lists of codes (IVF-PQ) of vectors; what they find is compared exactly.

    Some vectors, chosen by a fixed seed, are added last, and are asked for their neighbours before:
    as sentences that it has not seen. The depth is doubled until the share of their ten nearest
    that it finds is 0.95.

    Args:
        index: The faiss index.
        vectors: float32 (N, H), in another order than the index has them.
        note: What is known of it.
    """

    def __init__(self, index: Any, vectors: Tensor, note: dict[str, Any]) -> None:
        self._index, self._vectors, self.note = index, vectors, note
        self._asked = np.array(note["asked"], np.int64)

    @property
    def kind(self) -> Kind:
        """Hnsw or ivfpq."""
        return cast(Kind, self.note["kind"])

    @property
    def told(self) -> str:
        """Its recall, in words."""
        return (
            f"{self.kind}: recall at {_K} is {self.note['recall']:.3f}, against exact search, of "
            f"{len(self._asked)} sentences it had not seen (depth {self.note['depth']})"
        )

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `exact`, but that it may miss some: scores (Q, k) and numbers of vectors (Q, k)."""
        many = k * self.note["factor"]
        self._go(self.note["depth"], many)
        _, found = self._index.search(queries.numpy(), min(many, self._index.ntotal))
        rows = []
        for query, places in zip(queries, self._rows(found), strict=True):
            near = torch.from_numpy(np.sort(places[places >= 0]))
            if len(near) < k:  # where so few are linked
                rows.append(tuple(t[0] for t in exact(self._vectors, query[None], k)))
                continue
            best, at = product(self._vectors[near], query).topk(k)
            rows.append((best, near[at]))
        scores, where = zip(*rows, strict=True)
        return torch.stack(scores), torch.stack(where)

    def _rows(self, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of vectors for the index's own; -1 stays."""
        seen = len(self._vectors) - len(self._asked)
        skipped = np.searchsorted(self._asked - np.arange(len(self._asked)), found, side="right")
        last = self._asked[np.clip(found - seen, 0, len(self._asked) - 1)]
        return np.where(found < 0, -1, np.where(found < seen, found + skipped, last))

    def _go(self, depth: int, k: int) -> None:
        if self.kind == "hnsw":
            self._index.hnsw.efSearch = max(depth, k)
        else:
            self._index.nprobe = depth

    @classmethod
    def make(
        cls,
        vectors: Tensor,
        kind: Kind,
        folder: Path | None = None,
        digest: str = "",
        model: str | None = None,
        *,
        progress: bool = False,
    ) -> Approximate:
        """The index of vectors, made now, and written into a folder whole or not at all.

        Args:
            vectors: float32 (N, H) of length 1.
            kind: hnsw or ivfpq.
            folder: Where to write it.
            digest: Of the vectors.
            model: Fingerprint of the model that they are of.
            progress: Show a bar.

        Raises:
            ValueError: There is not enough memory.
            OSError: It cannot be written.
        """
        faiss, (count, width) = _faiss(), vectors.shape
        # Vectors that grow are copied; a graph has its vectors, links and their bounds.
        need = 2 * count * (4 * width + 8 * _LINKS + 20 if kind == "hnsw" else _CODE + 8)
        check_memory(f"backend={kind}", need)
        draw = np.random.default_rng(0)
        asked = np.sort(draw.choice(count, min(_ASKED, -(-count // 10)), replace=False))
        index = _new(faiss, vectors, kind, draw)
        with Bar(f"make {kind}", count, "sentences", shown=progress) as bar:
            for start in range(0, count, _BLOCK // 16):
                part = vectors[start : start + _BLOCK // 16].numpy()
                here = asked[(asked >= start) & (asked < start + len(part))] - start
                index.add(np.delete(part, here, 0))
                bar.update(len(part) - len(here))
            note = {
                "kind": kind, "asked": asked.tolist(), "vectors": digest, "fingerprint": model,
                "faiss": faiss.__version__, "depth": 16, "factor": 1, "recall": 0.0,
            }  # fmt: skip
            made = cls(index, vectors, note)
            made._measure()
            index.add(vectors[torch.from_numpy(asked)].numpy())
            bar.update(len(asked))
        if folder is not None:
            made._write(faiss, folder)
        return made

    def _measure(self) -> None:
        """Sets the depth by the recall of the vectors that are not in it yet."""
        queries, seen = self._vectors[torch.from_numpy(self._asked)], int(self._index.ntotal)
        k, hidden = min(_K, seen), set(self._asked.tolist())
        _, where = exact(self._vectors, queries, min(k + len(hidden), len(self._vectors)))
        right = [[i for i in row if i not in hidden][:k] for row in where.tolist()]
        if self.kind == "hnsw":
            most = 2 ** math.ceil(math.log2(max(seen, 16)))
            steps = [(2**i, 1) for i in range(4, int(math.log2(min(most, 4096))) + 1)]
        else:
            deepest = int(math.log2(self._index.nlist))
            steps = [(2**i, 16) for i in range(3, deepest)]
            steps += [(self._index.nlist, factor) for factor in (16, 64, 256)]
        for depth, factor in steps:
            self.note |= {"depth": depth, "factor": factor}
            _, found = self.search(queries, k)
            same = [len(set(a) & set(b)) for a, b in zip(right, found.tolist(), strict=True)]
            self.note["recall"] = sum(same) / max(k * len(same), 1)
            if self.note["recall"] >= _ENOUGH:
                return

    def _write(self, faiss: Any, folder: Path) -> None:
        temporary = temporary_beside(folder / "faiss.index")
        with naming(folder / "faiss.index"):
            try:
                faiss.write_index(self._index, str(temporary))
                self.note |= {"bytes": temporary.stat().st_size}
                file = folder / f"faiss-{sha256(temporary)[:32]}.index"
                os.replace(temporary, file)
            except RuntimeError as error:
                raise OSError(errno.EIO, "cannot be written (is the disk full?)") from error
            finally:
                temporary.unlink(missing_ok=True)
        self.note |= {"file": file.name}
        with replacing(folder / NOTE) as path:  # from here on it is there
            path.write_text(json.dumps(self.note), "utf-8")
        for old in folder.glob("faiss-*.index"):
            if old != file:
                old.unlink()

    @classmethod
    def read(
        cls, vectors: Tensor, kind: Kind | None, folder: Path, digest: str
    ) -> Approximate | None:
        """The index that a folder keeps, mapped; None if it keeps none of this kind, or of any.

        faiss trusts what it reads, so that the file is compared with its checksum first, once for
        each state of it.

        Raises:
            FileNotFoundError: Its file is missing.
            ValueError: It is damaged, or of other vectors.
        """
        path = folder / NOTE
        if not path.exists():
            return None
        note = read_json_object(path)
        again = f"remove {path} and make it anew"
        if not _is_note(note, len(vectors)):
            raise ValueError(f"{path} is damaged: {again}")
        if note["vectors"] != digest:
            raise ValueError(f"{path} is of other vectors than those of {folder}: {again}")
        if kind not in (None, note["kind"]):
            return None
        kind = note["kind"]
        faiss, file = _faiss(), folder / note["file"]
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {again}")
        known = re.findall(r"faiss-(\w+)\.index", file.name)
        most = len(vectors) * (4 * vectors.shape[1] + 16 * _LINKS + 100) + 2**26
        if file.stat().st_size != note["bytes"] or note["bytes"] > most:
            raise ValueError(f"{file} is cut off or changed: {again}")
        if remembered([file], "sum", lambda: sha256(file)[:32]) not in known:
            raise ValueError(f"{file} is damaged, the checksum is wrong: {again}")
        lists = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if kind == "hnsw" else lists)
        except RuntimeError as error:
            raise ValueError(f"{file} is damaged: {again}") from error
        right = faiss.IndexHNSWFlat if kind == "hnsw" else faiss.IndexIVFPQ
        if not isinstance(index, right) or (index.ntotal, index.d) != vectors.shape:
            raise ValueError(f"{file} is of other vectors than those of {folder}: {again}")
        return cls(index, vectors, note)


def _new(faiss: Any, vectors: Tensor, kind: Kind, draw: np.random.Generator) -> Any:
    """An index without vectors; the lists and codes of ivfpq are trained on some of them."""
    (count, width), metric = vectors.shape, faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, _LINKS, metric)
        index.hnsw.efConstruction = 80
        return index
    lists = min(2 * math.isqrt(count), _LISTS)
    parts = next(n for n in range(min(_CODE, width), 0, -1) if width % n == 0)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, parts, 8, metric)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.cp.spherical = True
    chosen = np.sort(draw.choice(count, min(count, max(40 * lists, 2**15)), replace=False))
    index.train(vectors[torch.from_numpy(chosen)].numpy())
    return index


def _is_note(note: dict[str, Any], count: int) -> bool:
    """Whether a note is as they are written."""
    asked, recall, file = note.get("asked"), note.get("recall"), note.get("file")
    numbers = [note.get(name) for name in ("depth", "factor", "bytes")]
    return (
        note.get("kind") in ("hnsw", "ivfpq")
        and isinstance(asked, list)
        and 0 < len(asked) <= _ASKED
        and all(type(i) is int for i in asked)
        and all(a < b for a, b in zip([-1, *asked], [*asked, count], strict=True))
        and all(type(n) is int and 0 < n < 2**48 for n in numbers)
        and note["depth"] <= 2**20
        and note["factor"] <= 2**10
        and isinstance(recall, float)
        and 0 <= recall <= 1
        and isinstance(file, str)
        and re.fullmatch(r"faiss-[0-9a-f]{32}\.index", file) is not None
    )
