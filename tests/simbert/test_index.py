"""Indexes that are mapped from their folder, and what faiss makes of them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import zoo
from tests.simbert.models import texts, tiny
from zoo.data import cache
from zoo.data.sentences.mapped import MappedTexts, write_distinct
from zoo.data.sentences.numbered import firsts
from zoo.simbert import approximate
from zoo.simbert.approximate import Approximate, exact
from zoo.simbert.index import SentenceIndex


def unit(n, width=16, seed=0):
    draw = np.random.default_rng(seed).standard_normal((n, width))
    return torch.from_numpy(draw / np.linalg.norm(draw, axis=1, keepdims=True)).float()


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    """A mapped index of made-up vectors."""
    out = tmp_path / "index"
    SentenceIndex(texts(3), unit(3)).save(out)
    many = write_distinct(out / "texts", (f"sentence {i}" for i in range(3000)))
    (out / "texts.json").unlink()
    np.save(out / "vectors.npy", unit(3000).numpy())
    assert len(many) == 3000
    return out


def test_texts_are_mapped(tmp_path):
    many = ["a", "", "甲乙\n丙", "a", "b" * 1000, "", "🙂"]
    found = write_distinct(tmp_path / "t", many)
    assert list(found) == list(dict.fromkeys(many))
    assert (found[-1], found[1:3]) == ("🙂", ["", "甲乙\n丙"])
    assert {file.name for file in tmp_path.iterdir()} == {"t.bin", "t.ends"}
    with pytest.raises(IndexError):
        found[5]
    assert len(write_distinct(tmp_path / "none", [])) == 0
    digests = np.array([[1, 2], [2, 1], [1, 2], [1, 3], [2, 1]], np.uint64)
    assert firsts(digests).tolist() == [0, 1, 0, 3, 1]


def test_an_index_made_in_a_folder_is_that_of_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.simbert.index._PART", 7)
    model, many = tiny(), texts(40)
    distinct = list(dict.fromkeys(many))
    index = model.index(iter(many), tmp_path / "index")
    assert list(index.texts) == distinct
    # Batches of other lengths: rounding of unit vectors, as of `encode` in any batches.
    torch.testing.assert_close(index.vectors, model.encode(distinct), rtol=0, atol=1e-5)
    expected = model.similar(["甲乙"], model.index(distinct), k=5)[0]
    [found] = model.similar(["甲乙"], index, k=5)
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert json.loads((tmp_path / "index/model.json").read_text())["model"] == "RoFormerSim"
    SentenceIndex(texts(3), unit(3)).save(tmp_path / "index")  # over it
    assert SentenceIndex.load(tmp_path / "index").texts == texts(3)
    model.index(many, tmp_path / "index")
    assert list(SentenceIndex.load(tmp_path / "index").texts) == distinct
    with pytest.raises(ValueError, match=r"give \[text\]"):
        model.index("甲乙")
    before = contents(tmp_path / "index")
    with pytest.raises(ValueError, match="there is no sentence"):
        model.index([], tmp_path / "index")
    assert contents(tmp_path / "index") == before


@pytest.mark.parametrize("backend", ["exact", "faiss"])
def test_exact_search_is_brute_force_in_float64(backend, monkeypatch):
    pytest.importorskip("faiss") if backend == "faiss" else None
    monkeypatch.setattr(approximate, "_BLOCK", 700)
    monkeypatch.setattr(approximate, "_QUERIES", 7)
    vectors, queries = unit(3000, 24), unit(20, 24, seed=1)
    index = SentenceIndex([str(i) for i in range(3000)], vectors)
    scores, where = index.search(queries, 9, backend=backend)
    right = queries.double() @ vectors.double().T
    # A float32 dot product of n products is off by n 2^-24 sum |x y|, at most n 2^-24 here.
    bound = 24 * 2.0**-24
    assert (scores.double() - right.gather(1, where)).abs().max() <= bound
    ninth = right.topk(9).values
    assert (right.gather(1, where).sort(1, descending=True).values - ninth).abs().max() <= 2 * bound
    assert all(len(set(row)) == 9 for row in where.tolist())


@pytest.mark.parametrize("kind", ["hnsw", pytest.param("ivfpq", marks=pytest.mark.slow)])
def test_what_faiss_makes_is_made_once_and_never_changed(kind, folder, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(approximate, "_FEW", 1000)
    monkeypatch.setattr(approximate, "_LISTS", 32)
    index = SentenceIndex.load(folder)
    queries = unit(100, seed=1)
    scores, where = index.search(queries, 10, backend=kind)
    best, right = exact(index.vectors, queries, 10)
    same = [len(set(a) & set(b)) for a, b in zip(where.tolist(), right.tolist(), strict=True)]
    note = index.approximate(kind).note
    assert note["recall"] >= 0.95
    # Of 200 and of 100 queries of ten: three standard errors of both together, if all were apart.
    assert abs(sum(same) / 1000 - note["recall"]) < 3 * (0.05 * 0.95 * (1 / 2000 + 1 / 1000)) ** 0.5
    found = (queries.double() @ index.vectors.double().T).gather(1, where)
    assert (scores - found).abs().max() <= 16 * 2.0**-24
    assert (scores <= best + 2 * 16 * 2.0**-24).all()
    before = contents(folder)
    monkeypatch.setattr(Approximate, "make", None)
    again = SentenceIndex.load(folder)
    for k in (10, 1, 50):
        again.search(queries, k, backend=kind)
    a, b = again.search(queries, 10, backend=kind)
    assert torch.equal(a, scores)
    assert torch.equal(b, where)
    again.search(queries, 10)
    assert SentenceIndex.load(folder).approximate("faiss").kind == kind  # whatever is there
    assert contents(folder) == before
    assert "recall at 10 is 0.9" in again.approximate(kind).told.replace("1.0", "0.9")
    # All of them, more than what is linked, and of itself the nearest.
    assert again.search(index.vectors[:5], 1, backend=kind)[1].flatten().tolist() == [0, 1, 2, 3, 4]


def test_the_kind_is_chosen_by_size(monkeypatch):
    kinds = [approximate.kind_for("faiss", n, kept=True) for n in (10, 50_000, 50_001, 10**6)]
    assert kinds == [None, None, "hnsw", "hnsw"]
    assert approximate.kind_for("faiss", 10**6 + 1, kept=True) == "ivfpq"
    assert approximate.kind_for("faiss", 10**7, kept=False) is None
    few = SentenceIndex(texts(4), unit(4))
    assert few.search(unit(1), 9, backend="hnsw")[1].shape == (1, 4)
    with pytest.raises(ValueError, match="3 sentences are too few to train it"):
        approximate.kind_for("ivfpq", 3, kept=True)


def test_what_faiss_made_and_others_changed_is_refused(folder):
    pytest.importorskip("faiss")
    query = unit(1, seed=1)

    def asked():
        return SentenceIndex.load(folder).search(query, 3, backend="hnsw")

    asked()
    whole = contents(folder)
    [name] = [name for name in whole if name.startswith("faiss-")]
    data, note = whole[name], json.loads(whole["faiss.json"])

    def js(**changes):
        return json.dumps({**note, **changes}).encode()

    other = unit(3000, seed=5).numpy()
    for file, content, message in (
        (name, data[:-1], "is cut off or changed"),
        (name, data + b"0", "is cut off or changed"),
        (name, data[:99] + bytes([data[99] ^ 1]) + data[100:], "the checksum is wrong"),
        (name, b"\xff" * len(data), "the checksum is wrong"),
        (name, None, "is missing"),
        ("faiss.json", b"[1]", "expected a JSON object"),
        ("faiss.json", b"{", "is not JSON"),
        ("faiss.json", js(kind="flat"), "faiss.json is damaged"),
        ("faiss.json", js(asked=[1, 1]), "faiss.json is damaged"),
        ("faiss.json", js(asked=[10**9]), "faiss.json is damaged"),
        ("faiss.json", js(depth=2**60), "faiss.json is damaged"),
        ("faiss.json", js(depth=True), "faiss.json is damaged"),
        ("faiss.json", js(recall=float("nan")), "faiss.json is damaged"),
        ("faiss.json", js(file="../faiss-x.index"), "faiss.json is damaged"),
        ("faiss.json", js(bytes=1), "is cut off or changed"),
        ("faiss.json", js(vectors="0" * 32), "is of other vectors"),
        ("vectors.npy", whole["vectors.npy"][:-64] + other[-1].tobytes(), "is of other vectors"),
        ("texts.bin", whole["texts.bin"][:-1], "is not of the length"),
        ("texts.ends", whole["texts.ends"][:-1], "is cut off"),
        ("texts.ends", whole["texts.ends"][:-16], "is not of the length"),
        ("texts.json", b'["a"]', "has texts.json and texts.bin"),
    ):
        (folder / file).unlink(missing_ok=True)
        if content is not None:
            (folder / file).write_bytes(content)
        with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)) as raised:
            asked()
        assert "\n" not in str(raised.value)
        for file, content in whole.items():
            (folder / file).write_bytes(content)
        (folder / "texts.json").unlink(missing_ok=True)
    asked()
    text = MappedTexts(folder / "texts")
    (folder / "texts.bin").write_bytes(b"\xff" * len(whole["texts.bin"]))
    with pytest.raises(ValueError, match=r"texts\.bin is damaged at text 3"):
        text[3]
    ends = np.frombuffer(whole["texts.ends"], np.int64).copy()
    ends[4] = 2**50
    (folder / "texts.ends").write_bytes(ends.tobytes())
    with pytest.raises(ValueError, match=r"texts\.bin is damaged at text 4"):
        MappedTexts(folder / "texts")[4]


def test_vectors_of_safetensors_are_mapped_and_looked_at(folder):
    vectors = unit(3000)
    (folder / "vectors.npy").unlink()
    save_file({"vectors": vectors}, folder / "vectors.safetensors")
    index = SentenceIndex.load(folder)
    assert torch.equal(index.vectors, vectors)
    for wrong, message in (
        ({"vectors": vectors.double()}, "no table of float32"),
        ({"other": vectors}, "no table of float32"),
        ({"vectors": vectors[:5].clone()}, "5 vectors for 3000 sentences"),
        ({"vectors": vectors * 2}, "not of length 1"),
        ({"vectors": vectors * float("nan")}, "not finite"),
    ):
        save_file(wrong, folder / "vectors.safetensors")
        with pytest.raises(ValueError, match=message):
            SentenceIndex.load(folder)
    (folder / "vectors.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"vectors\.safetensors is damaged"):
        SentenceIndex.load(folder)


def test_a_file_that_has_not_changed_is_looked_at_once(tmp_path, monkeypatch):
    file, calls = tmp_path / "f", []

    def look():
        calls.append(file.read_text())
        return calls[-1]

    def asked():
        return cache.remembered([file], "text", look)

    file.write_text("one")
    assert [asked(), asked()] == ["one"] * 2
    assert len(calls) == 2  # it may change again before its times do
    os.utime(file, (1, 1))
    monkeypatch.setattr(cache, "_SETTLED", 0)
    assert [asked(), asked(), asked()] == ["one"] * 3
    assert len(calls) == 3
    file.write_text("two")
    os.utime(file, (1, 1))  # of the same length and time
    assert asked() == "two"
    file.unlink()
    with pytest.raises(FileNotFoundError):
        asked()


def test_a_query_from_a_saved_index_digests_nothing_again(tmp_path, zoo_cli, monkeypatch):
    monkeypatch.setattr(cache, "_SETTLED", 0)
    zoo.save_pretrained(tiny(), tmp_path / "m")
    (tmp_path / "l.txt").write_text("\n".join(texts(30)) + "\n", "utf-8")
    args = ("similar", "m", "--query", "甲", "--index", "x")
    assert zoo_cli(*args, "-i", "l.txt")[0] == 0
    _, first, _ = zoo_cli(*args)
    before = contents(tmp_path / "x")
    monkeypatch.setattr("zoo.simbert.commands.fingerprint", None)
    monkeypatch.setattr("zoo.simbert.index.fingerprint", None)
    code, out, err = zoo_cli(*args)
    assert (code, out) == (0, first), err
    assert contents(tmp_path / "x") == before
    pytest.importorskip("faiss")
    code, out, err = zoo_cli(*args, "--backend", "hnsw")
    assert out == first
    assert "hnsw: recall at 10 is 1.000" in err


PROBE = """\
import re, sys, numpy as np, torch
from pathlib import Path
from zoo.simbert.index import SentenceIndex
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
torch.set_num_threads(1)
queries = torch.nn.functional.normalize(torch.randn(3, 128))
small = SentenceIndex(["a"] * 99, torch.nn.functional.normalize(torch.randn(99, 128)))
small.search(queries, 10)
if sys.argv[2] != "exact":
    import faiss
    small.search(queries, 10, backend="faiss")
before = anonymous()
index = SentenceIndex.load(sys.argv[1])
index.search(queries, 10, backend=sys.argv[2])
print([index.texts[i] for i in (0, len(index.texts) - 1)])
print("grown", anonymous() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["exact", "hnsw"])
def test_memory_does_not_grow_with_an_index(backend, tmp_path, monkeypatch):
    pytest.importorskip("faiss") if backend != "exact" else None
    count = 200_000 if backend == "exact" else 20_000
    (tmp_path / "x").mkdir()
    write_distinct(tmp_path / "x/texts", (f"sentence {i}" for i in range(count)))
    np.save(tmp_path / "x/vectors.npy", unit(count, 128).numpy())
    (tmp_path / "x/model.json").write_text("{}")
    size = count * 128 * 4 / 2**20  # 98 MB
    if backend == "hnsw":
        monkeypatch.setattr(approximate, "_ENOUGH", 0)  # the depth is not what is asked here
        SentenceIndex.load(tmp_path / "x").approximate("hnsw")
    command = [sys.executable, "-c", PROBE, str(tmp_path / "x"), backend]
    environment = {**os.environ, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}
    environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # what is freed goes back at once
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    grown = float(done.stdout.split("grown ")[1])
    # Scores of a block of vectors, and what the allocator keeps of a block that is looked at.
    assert grown < min(0.5 * size, 40) if backend == "exact" else grown < 0.6 * size


def test_files_of_others_are_not_lost(tmp_path):
    """An index took the place of vectors, and removed texts, that were somebody's own."""
    for name in ("vectors.npy", "texts.json", "model.json"):
        (tmp_path / name).write_text("{}")
        for write in (
            lambda: SentenceIndex.build(tiny(), texts(3), folder=tmp_path),
            lambda: SentenceIndex(texts(3), unit(3)).save(tmp_path),
        ):
            with pytest.raises(ValueError, match=f"holds {name} and no index: it would be lost"):
                write()
        assert contents(tmp_path) == {name: b"{}"}
        (tmp_path / name).unlink()
    SentenceIndex(texts(3), unit(3)).save(tmp_path)
    SentenceIndex.build(tiny(), texts(4), folder=tmp_path)  # an index is replaced, as always
    assert len(SentenceIndex.load(tmp_path).texts) == 4


@pytest.mark.parametrize("name", ["gone", "empty", "file.txt"])
def test_where_no_index_is_that_is_said(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("a line\n")
    with pytest.raises(FileNotFoundError, match=rf"{name} holds no index of sentences: -i FILE"):
        SentenceIndex.load(tmp_path / name)
