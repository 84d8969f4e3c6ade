"""Prepared text is the text that memory would hold: to the bit, in every split and window."""

import gzip
import random

import numpy as np
import pytest

from zoo.data import Text
from zoo.data.text import corpus, language, pieces, prepare, vocabularies, writer

WORDS = ["the", "a", "of", "red", "Häuser", "天气", "river's", "walks", ",", ".", "\u3000"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "cores", lambda: 1)
    for function in (corpus.mapped, corpus.parquet, corpus.load_dataset, pieces._vocabulary):
        function.cache_clear()


@pytest.fixture
def small(monkeypatch):
    """Pieces and shards of a few hundred bytes, and no text that is small."""
    monkeypatch.setattr(prepare, "_STEP", 300)
    monkeypatch.setattr(prepare, "_SMALL_STEP", 200)
    monkeypatch.setattr(vocabularies, "_STEP", 300)
    monkeypatch.setattr(writer, "_SHARD", 1000)
    monkeypatch.setattr(pieces, "_NEAR", 64)
    monkeypatch.setattr(language, "_SMALL", 0)


def some_text(lines=150, seed=0, end="\n"):
    draw = random.Random(seed)
    out = []
    for _ in range(lines):
        out.append(" ".join(draw.choices(WORDS, k=draw.randint(0, 12))))
        out += [" \t", ""][: draw.randint(0, 2)]
    return end.join(out)


def same(a, b):
    """Whether two data sets have the same windows in every split."""
    assert a.vocabulary == b.vocabulary
    for split in ("train", "val", "test"):
        one, two = a.split(split), b.split(split)
        assert len(one) == len(two)
        index = list(range(len(one)))
        for part, other in zip(one.__getitems__(index), two.__getitems__(index), strict=True):
            assert np.array_equal(part, other), split
        assert np.array_equal(*(np.concatenate(list(x.parts(1))) for x in (one, two)))
        assert a.symbols_per_byte(split) == b.symbols_per_byte(split)
    assert a.unigram() == pytest.approx(b.unigram(), rel=1e-12)


LEVELS = ("byte", "char", "word", "wordpunct")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("documents", ["file", "paragraph", "line"])
def test_what_is_mapped_is_what_is_read(tmp_path, monkeypatch, small, level, documents):
    (tmp_path / "one.txt").write_bytes(("\ufeff" + some_text(end="\r\n")).encode())
    (tmp_path / "many").mkdir()
    for i in range(7):
        (tmp_path / "many" / f"{i}.txt").write_text(some_text(lines=9 * i, seed=i))
    for root, options in (
        ("one.txt", {"stride": 8}),
        ("many", {"align": 8}),
        ("many", {"limit": 40, "min_count": 3, "align": 4}),
    ):
        made = {"root": root, "level": level, "documents": documents, "sequence_length": 16}
        monkeypatch.setattr(language, "_SMALL", 2**24)
        memory = Text(**made, **options)
        assert memory.store is None
        memory.setup()
        monkeypatch.setattr(language, "_SMALL", 0)
        mapped = Text(**made, **options)
        assert mapped.store is not None
        same(memory, mapped)


def test_packed_files_and_files_of_splits(tmp_path, monkeypatch, small):
    zstandard = pytest.importorskip("zstandard")
    text = some_text().encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text))
    frames = [zstandard.compress(part) for part in (text[:1000], text[1000:])]
    (tmp_path / "c.txt.zst").write_bytes(b"".join(frames))
    whole = Text(root="a.txt", sequence_length=16)
    for name in ("b.txt.gz", "c.txt.zst"):
        same(whole, Text(root=name, sequence_length=16))
    (tmp_path / "parts").mkdir()
    for number, split in enumerate(("train", "valid", "test")):
        (tmp_path / "parts" / f"x.{split}.txt").write_text(some_text(seed=number))
    mapped = Text(root="parts", sequence_length=16)
    assert mapped.store is not None
    mapped.vocabulary  # noqa: B018
    monkeypatch.setattr(language, "_SMALL", 2**24)
    same(Text(root="parts", sequence_length=16), mapped)
