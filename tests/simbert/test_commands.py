"""The verbs, from the command line."""

import tracemalloc

import numpy as np
import pytest
import torch

import zoo
from tests.simbert.models import texts, tiny
from zoo.simbert import commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return zoo.save_pretrained(tiny(), tmp_path_factory.mktemp("model") / "out")


@pytest.fixture
def lines(tmp_path):
    many = texts(12, seed=4)
    (tmp_path / "lines.txt").write_text("\n".join(many) + "\n", encoding="utf-8")
    return many


def test_embed_writes_encodes_vectors(folder, lines, zoo_cli):
    code, out, err = zoo_cli("embed", folder, "-i", "lines.txt", "-o", "v.npy", "--dim", 8)
    assert code == 0, err
    assert "12 vectors of 8 features in v.npy" in out
    expected = zoo.load(folder).encode(lines, dim=8)
    assert torch.equal(torch.from_numpy(np.load("v.npy")), expected)


def test_embed_holds_no_lines(folder, tmp_path, zoo_cli, monkeypatch):
    """100,000 lines of 200 characters are 25 MB as texts; less than a quarter of that is held."""
    model = zoo.load(folder)
    (tmp_path / "many.txt").write_text("ab" * 100 + "\n" + ("甲" * 199 + "\n") * 10)
    with open(tmp_path / "many.txt", "a") as file:
        file.writelines(f"{i:0200}\n" for i in range(100_000))
    monkeypatch.setattr(commands, "_LINES", 1000)
    monkeypatch.setattr(commands, "load", lambda ckpt: model)
    monkeypatch.setattr(model.tokenizer, "share_cut", lambda *_: 0.0)
    monkeypatch.setattr(model, "encode", lambda texts, **_: torch.zeros(len(texts), 2))
    tracemalloc.start()
    try:
        code, out, err = zoo_cli("embed", folder, "-i", "many.txt", "-o", "v.npy")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert code == 0, err
    assert "100011 vectors of 2 features" in out
    assert most < 6e6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.txt", "v.npy"]


def test_similar_prints_the_nearest_from_text_and_from_an_index(folder, lines, zoo_cli):
    expected = zoo.load(folder).similar(["甲乙丙"], lines, k=4)[0]
    asked = ["--query", "甲乙丙", "-k", 4]
    for flags in (["-i", "lines.txt"], ["-i", "lines.txt", "--index", "x"], ["--index", "x"]):
        code, out, err = zoo_cli("similar", folder, *flags, *asked)
        assert code == 0, err
        assert out.splitlines() == [f"{score:.4f}  {text}" for text, score in expected]
    code, out, err = zoo_cli(
        "similar", folder, "--index", "x", "--query", '["甲乙", "丙"]', "-k", 1
    )
    assert code == 0, err
    assert [line for line in out.splitlines() if "  " not in line] == ["甲乙", "丙"]


def test_paraphrase_prints_paraphrases(folder, zoo_cli):
    expected = zoo.load(folder).paraphrase("甲乙丙", 30, 6, max_new=9, seed=2)
    asked = ["-n", 30, "-k", 6, "--max_new", 9, "--seed", 2]
    code, out, err = zoo_cli("paraphrase", folder, "甲乙丙", *asked)
    assert code == 0, err
    assert out.splitlines() == [f"{one.similarity:.4f}  {one.text}" for one in expected]
    assert expected


def test_mistakes_are_told(folder, lines, tmp_path, zoo_cli, mistake):
    (tmp_path / "gbk.txt").write_bytes("甲乙\n".encode() + "丙丁\n".encode("gbk"))
    assert "gbk.txt, line 2: not UTF-8" in mistake("embed", folder, "-i", "gbk.txt")
    short = ["-i", "lines.txt", "--max_length", 1]
    assert "max_length=1: need" in mistake("embed", folder, *short)
    assert "--output lines.txt is what is read" in mistake(
        "embed", folder, "-i", "lines.txt", "-o", "lines.txt"
    )
    other = zoo.save_pretrained(tiny(seed=1), tmp_path / "other")
    zoo_cli("similar", folder, "-i", "lines.txt", "--index", "x", "--query", "甲")
    asked = ["--index", "x", "--query", "甲"]
    assert "made by another model" in mistake("similar", other, *asked)
    assert "no such file: none.txt" in mistake("embed", folder, "-i", "none.txt")
    assert "which corpus?" in mistake("similar", folder, "--query", "甲")
    images = zoo.DDPM(image_size=8, channels=1, width=8, multipliers=[1, 2], groups=4)
    zoo.save_pretrained(images, "ddpm")
    assert "DDPM cannot encode" in mistake("embed", "ddpm", "-i", "lines.txt")
    encoder = zoo.save_pretrained(tiny("SentenceSimilarity"), tmp_path / "st")
    assert "SentenceSimilarity cannot paraphrase" in mistake("paraphrase", encoder, "甲")
    blank = zoo.save_pretrained(tiny(vocabulary=False), tmp_path / "blank")
    assert "has no vocabulary" in mistake("paraphrase", blank, "甲")
