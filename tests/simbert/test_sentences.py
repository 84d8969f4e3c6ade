"""Vectors, retrieval and the numbers, against the plain ways to compute them."""

import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import spearmanr

import zoo
from tests.simbert.models import TOKENS, texts, tiny
from zoo.data import Sentences
from zoo.data.sentences.batches import TextBatch
from zoo.layers.packed import packed
from zoo.simbert.approximate import exact
from zoo.simbert.evaluation import (
    SentenceNumbers,
    jaccard,
    retrieval_numbers,
    spearman,
    tfidf,
    tfidf_vectors,
    top1,
)
from zoo.simbert.index import SentenceIndex


@pytest.mark.parametrize("name", ["SimBERT", "SentenceSimilarity"])
@torch.no_grad()
def test_vectors_are_those_of_each_sentence_alone(name):
    model = tiny(name)
    many = texts(30)
    vectors = model.encode(many, batch_size=7, normalize=False)
    for text, vector in zip(many, vectors, strict=True):
        row = torch.tensor(model.tokenizer.encode([text], 64))
        torch.testing.assert_close(vector[None], model(row), rtol=0, atol=2e-6)
    unit = model.encode(many)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(vectors), rtol=0, atol=2e-6)
    short = model.encode(many, dim=6)
    expected = torch.nn.functional.normalize(vectors[:, :6])
    torch.testing.assert_close(short, expected, rtol=0, atol=2e-6)
    assert model.encode([]).shape == (0, 16)


@pytest.mark.parametrize("tokens", [1, 20, 10_000])
def test_vectors_are_the_same_in_any_batches(tokens, monkeypatch):
    model = tiny()
    expected = torch.cat([model.encode([text]) for text in texts(30)])
    monkeypatch.setattr("zoo.simbert.sentences._CPU_TOKENS", tokens)
    for batch_size in (1, 7, 64):
        vectors = model.encode(texts(30), batch_size=batch_size)
        torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)


def test_cosines_under_autocast_are_those_of_the_vectors():
    """`--precision bf16` rounds the network; a product in bfloat16 has two or three digits."""
    model, unit = tiny(), tiny().encode(texts(20))
    with torch.autocast("cpu", torch.bfloat16):
        a, b = model.encode(texts(5)), model.encode(texts(8))
        cosines = model.similarity(texts(5), texts(8))
        scores, _ = exact(unit, unit[:3], 2)
        ranked = torch.tensor([found.similarity for found in model.paraphrase(texts(1)[0], k=4)])
    torch.testing.assert_close(cosines, a @ b.T, rtol=0, atol=1e-6)
    torch.testing.assert_close(scores, (unit[:3] @ unit.T).topk(2)[0], rtol=0, atol=1e-6)
    assert not torch.equal(ranked, ranked.bfloat16().float())


def test_vectors_under_autocast_are_the_same_of_few_and_of_many(monkeypatch):
    """Of many, weights are brought into order first."""
    model, many = tiny(), texts(60)
    exact = model.encode(many)
    asked = []

    def ordered(net, plain):
        asked.append(plain)
        return packed(net, plain)

    monkeypatch.setattr("zoo.simbert.sentences.packed", ordered)
    monkeypatch.setattr("zoo.simbert.sentences._CPU_TOKENS", 40)
    before = {name: (type(part)) for name, part in model.net.named_modules()}
    with torch.autocast("cpu", torch.bfloat16):
        few = torch.cat([model.encode([text]) for text in many])
        assert not asked
        vectors = model.encode(many)
    assert asked == [[f"layers.{len(model.net.layers) - 1}.qkv"]]
    assert {name: type(part) for name, part in model.net.named_modules()} == before
    for found in (few, vectors):
        assert ((found * exact).sum(1) > 0.999).all()
    torch.testing.assert_close(few, vectors, rtol=0, atol=0.02)


def test_a_subclass_makes_its_own_vectors_of_rows(monkeypatch):
    class Own(zoo.RoFormerSim):
        def rows_vectors(self, rows):
            return 2 * super().rows_vectors(rows)

    model = tiny()
    model.__class__ = Own
    monkeypatch.setattr("zoo.simbert.sentences._CPU_TOKENS", 40)
    with torch.autocast("cpu", torch.bfloat16):
        vectors = model.encode(texts(60), normalize=False)
        model.__class__ = zoo.RoFormerSim
        plain = model.encode(texts(60), normalize=False)
    torch.testing.assert_close(vectors, 2 * plain, rtol=0.02, atol=0.05)


def test_long_sentences_are_cut():
    model = tiny()
    long = texts(1, shortest=40, longest=40)[0]
    assert torch.equal(model.encode([long], max_length=10), model.encode([long[:8]]))


def test_encoding_leaves_training_mode_as_it_was():
    model = tiny(dropout=0.5).train()
    a, b = (model.encode(["甲乙"]) for _ in range(2))
    assert torch.equal(a, b)
    assert model.net.training


def test_wrong_arguments_are_told():
    model = tiny()
    with pytest.raises(ValueError, match=r"give \[text\]"):
        model.encode("甲乙")
    with pytest.raises(ValueError, match="dim=17: the vectors have 16 features"):
        model.encode(["甲"], dim=17)
    for max_length in (-1, 0, 2):
        with pytest.raises(ValueError, match=f"max_length={max_length}: need .* room for"):
            model.encode(["甲"], max_length=max_length)
    with pytest.raises(ValueError, match="batch_size=0, "):
        model.similar(["甲"], ["乙"], batch_size=0)


def test_similar_is_the_sorted_list_of_cosines(monkeypatch):
    monkeypatch.setattr("zoo.simbert.approximate._BLOCK", 7)
    model = tiny()
    corpus, queries = texts(25, seed=1), texts(3, seed=2)
    found = model.similar(queries, corpus, k=9)
    cosines = model.similarity(queries, corpus)
    for row, own in zip(found, cosines, strict=True):
        order = own.argsort(descending=True)[:9].tolist()
        assert [text for text, _ in row] == [corpus[i] for i in order]
        assert [c for _, c in row] == pytest.approx(own[order].tolist(), abs=1e-6)
    assert len(model.similar(queries, corpus, k=99)[0]) == 25


def test_an_index_goes_to_disk_and_back(tmp_path):
    model = tiny()
    corpus = texts(12)
    index = SentenceIndex.build(model, corpus)
    assert torch.equal(index.vectors, model.encode(corpus))
    index.save(tmp_path / "index")
    again = SentenceIndex.load(tmp_path / "index")
    assert again.texts == corpus
    assert model.similar(["甲乙"], again, k=3) == model.similar(["甲乙"], index, k=3)
    with pytest.raises(ValueError, match="made by another model"):
        again.search(torch.zeros(1, 5), 3)


def test_an_index_knows_its_model(tmp_path):
    model, words = tiny(), tiny()
    words.tokenizer.adopt([*TOKENS[:5], *reversed(TOKENS[5:])])
    SentenceIndex.build(model, texts(5)).save(tmp_path / "index")
    index = SentenceIndex.load(tmp_path / "index")
    zoo.save_pretrained(model, tmp_path / "model")
    same = zoo.load(tmp_path / "model")
    assert same.similar(["甲乙"], index) == model.similar(["甲乙"], index)
    for other in (tiny(seed=1), words):
        with pytest.raises(ValueError, match="made by another model"):
            other.similar(["甲乙"], index)
    unknown = SentenceIndex(index.texts, index.vectors)
    assert words.similar(["甲乙"], unknown)


def test_faiss_finds_the_same():
    pytest.importorskip("faiss")
    index = SentenceIndex(texts(40), torch.nn.functional.normalize(torch.randn(40, 8)))
    queries = torch.nn.functional.normalize(torch.randn(4, 8))
    a, b = (index.search(queries, 5, backend=backend) for backend in ("exact", "faiss"))
    torch.testing.assert_close(a[0], b[0])
    assert torch.equal(a[1], b[1])
    model = tiny()
    found, expected = (
        model.similar(texts(3, 1), texts(20), k=4, backend=backend)
        for backend in ("faiss", "exact")
    )
    assert [[t for t, _ in row] for row in found] == [[t for t, _ in row] for row in expected]


def test_spearman_is_scipys_with_ties():
    g = torch.Generator().manual_seed(0)
    score = torch.rand(300, generator=g)
    label = torch.randint(0, 4, (300,), generator=g).float() + score.round(decimals=1)
    # Sums of n products of ranks, exact below 2^53; scipy's own rounding is n ε.
    assert spearman(score, label) == pytest.approx(
        100 * spearmanr(score, label).statistic, rel=300 * 2.3e-16
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("n", [2, 3, 4, 7, 100])
def test_spearman_of_perfect_ranks_is_100(n, dtype):
    ranks = torch.arange(n).to(dtype)
    assert spearman(ranks, 3 * ranks.double() + 1) == 100
    assert spearman(ranks.flip(0), ranks) == -100


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], "the scores of 3 pairs are all the same"),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], "the labels of 3 pairs are all the same"),
        ([1.0], [2.0], "the scores of 1 pairs are all the same"),
        ([math.nan, 2.0], [1.0, 2.0], "the scores of 2 pairs are not all finite"),
    ],
)
def test_spearman_that_is_not_defined_is_nan_in_words(score, label, message):
    with pytest.warns(UserWarning, match=f"{message}: their rank correlation is NaN"):
        assert math.isnan(spearman(torch.tensor(score), torch.tensor(label)))


def test_top1_counts_families():
    eye = torch.eye(4)
    candidates = eye[[0, 2, 1, 3]]
    assert top1(eye, candidates, torch.arange(4)).tolist() == [True, False, False, True]
    assert top1(eye, candidates, torch.tensor([0, 1, 1, 2])).all()
    groups = [["abcd", "abcd"], ["abcd", "dcba"], ["abc", "xyz"], ["abcd", "abxy"]]
    assert [jaccard(*g) for g in groups] == [1, 1, 0, 1 / 3]
    values = retrieval_numbers(eye, candidates, torch.arange(4), groups)
    assert values == {"top1": 0.5, "top1_low_overlap": 0.5}


def test_the_baseline_and_an_equal_model_have_equal_numbers():
    """Also where groups share sentences, and where a part of the split was evaluated."""
    groups = [["甲乙丙", "甲乙"], ["甲乙", "乙丙丁丁"], ["戊己庚", "己庚庚辛"], ["壬癸", "子丑寅"]]
    family = [0, 0, 2, 3]
    data = SimpleNamespace(groups=lambda stage: groups)
    module = SimpleNamespace(trainer=SimpleNamespace(world_size=1, datamodule=data))
    for chosen in ([0, 1, 2, 3], [0, 1, 3]):
        numbers = SentenceNumbers()
        vectors = torch.stack(tfidf_vectors([groups[i] for i in chosen]), 1).flatten(0, 1)
        batch = TextBatch(*[None] * 9)._replace(
            group=torch.tensor([family[i] for i in chosen for _ in range(2)]),
            index=torch.tensor([2 * i + row for i in chosen for row in range(2)]),
        )
        numbers.add_groups(vectors, batch)
        values = numbers.collect(module, "test")
        assert {k: v for k, v in values.items() if k.startswith("test/")} == {
            k.replace("baseline/", "test/"): v
            for k, v in values.items()
            if k.startswith("baseline/")
        }
        assert values["baseline/top1"] == pytest.approx((len(chosen) - 1) / len(chosen))
        assert numbers.groups == len(chosen)


def test_tfidf_written_out():
    a, b = ["甲乙甲", "丙"], ["乙丙", "甲甲"]
    every = [*a, *b]
    df = Counter(c for text in every for c in set(text))
    weights = []
    for text in every:
        counts = Counter(text)
        row = {c: n * (math.log(5 / (1 + df[c])) + 1) for c, n in counts.items()}
        norm = math.sqrt(sum(w * w for w in row.values()))
        weights.append({c: w / norm for c, w in row.items()})
    expected = [sum(weights[i][c] * weights[i + 2].get(c, 0) for c in weights[i]) for i in range(2)]
    u, v = tfidf(a, b)
    assert u.multiply(v).sum(1).ravel().tolist()[0] == pytest.approx(expected)


def test_a_short_training_length_does_not_cut_the_evaluation(tmp_path):
    lines = [f"{a}\t{b}\t1" for a, b in zip(texts(9, 1), texts(9, 2, 20, 30), strict=True)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    data = Sentences(root=str(tmp_path), files=["pairs.tsv"], max_length=6)
    data.evaluate = {"a": "pairs.tsv"}
    data.read = lambda: None
    data.tokenizer = tiny().tokenizer
    data.setup()
    batches = [*data.val_dataloader()[-1], *data.test_dataloader()[-1]]
    assert max(batch.tokens.shape[1] for batch in batches) > 20
