"""Alike lines by MinHash: against all comparisons, and against the probabilities that it states."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.simbert.models import texts
from zoo.data.workers import Pool
from zoo.simbert import minhash
from zoo.simbert.mining import alike_pairs, likeness, mine_lines


def changed(text, count, draw):
    """The text with some of its characters replaced by ones that no text has."""
    characters = list(text)
    for place in draw.choice(len(text), count, replace=False):
        characters[place] = chr(0x9000 + int(draw.integers(0, 0x800)))
    return "".join(characters)


def corpus(count, seed=0, alike=100):
    """Lines of characters of which some are frequent, and pairs of lines with some replaced."""
    draw = np.random.default_rng(seed)
    often = 1 / (np.arange(800) + 5)
    lengths = draw.integers(8, 40, count)
    drawn = draw.choice(800, (count, 40), p=often / often.sum())
    lines = [
        "".join(chr(0x4E00 + c) for c in row[:n]) for row, n in zip(drawn, lengths, strict=True)
    ]
    return lines + [changed(lines[i], 1 + i % 3, draw) for i in range(alike)]


def found(folder, lines, threshold, recall=0.95):
    sentences = minhash.write(folder, lines)
    mined = minhash.pairs(sentences, threshold, recall, Pool(1))
    return list(map(tuple, mined.pairs.tolist())), mined


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_few_lines_are_compared_with_all(tmp_path, threshold):
    lines = [*corpus(300), "甲甲乙", "乙甲甲", "甲乙乙", "𠀀𠀀😀", "😀𠀀𠀀", "一" * 50, "一" * 49]
    pairs, mined = found(tmp_path, lines, threshold)
    assert pairs == sorted(alike_pairs(lines, threshold))
    assert len(pairs) >= 2
    assert mined.candidates == len(lines) * (len(lines) - 1) // 2


def test_similarities_are_those_of_two_multisets(tmp_path):
    lines = list(dict.fromkeys([*corpus(200), *texts(200, seed=1), "aab", "abb", "b", "bbbb"]))
    sentences = minhash.write(tmp_path, lines)
    draw = np.random.default_rng(2)
    first, second = draw.integers(0, len(lines), (2, 20_000))
    expected = [likeness(lines[i], lines[j]) for i, j in zip(first, second, strict=True)]
    np.testing.assert_array_equal(sentences.likeness(first, second), expected)


def test_bits_bound_what_differs(tmp_path):
    words = np.random.default_rng(0).integers(0, 2**64, 500, np.uint64)
    words = np.concatenate([words, np.array([0, 2**64 - 1, 2**63], np.uint64)])
    assert minhash._ones(words).tolist() == [int(word).bit_count() for word in words]
    lines = corpus(400)
    sentences = minhash.write(tmp_path, lines)
    first, second = np.triu_indices(len(lines), 1)
    lengths = sentences.lengths(np.arange(len(lines)))
    for threshold in (0.1, 0.5, 0.9):
        kept = minhash._may_be(threshold, sentences.words, lengths, first, second)
        alike = np.flatnonzero(sentences.likeness(first, second) >= threshold)
        assert set(alike) <= set(kept)
        assert len(kept) < (1.0 if threshold < 0.5 else 0.1) * len(first)


def test_bands_are_equal_as_often_as_similarity_has_it(tmp_path):
    """400 pairs of one similarity, 17/23, and 30 bands of 3 hashes: within 4 standard errors."""
    draw = np.random.default_rng(3)
    lines = []
    for _ in range(400):
        line = "".join(chr(c) for c in 0x4E00 + draw.choice(4000, 20, replace=False))
        lines += [line, changed(line, 3, draw)]
    sentences = minhash.write(tmp_path, lines)
    plan = minhash.Plan(str(tmp_path), 0.5, 3, 30)
    (keys,) = minhash.keys((0, len(sentences)), plan)
    np.testing.assert_allclose(
        sentences.likeness(np.arange(0, 800, 2), np.arange(1, 800, 2)), 17 / 23
    )
    share, at = (keys[:, 0::2] == keys[:, 1::2]).mean(), (17 / 23) ** 3
    assert abs(share - at) < 4 * (at * (1 - at) / keys[:, 0::2].size) ** 0.5
    any_band = (keys[:, 0::2] == keys[:, 1::2])[:2].any(0).mean()
    p = minhash.Plan("", 0.5, 3, 2).finds(17 / 23)
    assert p == pytest.approx(1 - (1 - at) ** 2, rel=1e-12)
    assert abs(any_band - p) < 4 * (p * (1 - p) / 400) ** 0.5
    # Those of a part of the sentences are the same.
    (part,) = minhash.keys((100, 300), plan)
    np.testing.assert_array_equal(part, keys[:, 100:300])


@pytest.mark.parametrize(
    ("threshold", "recall"), [(0.5, 0.95), (0.6, 0.8), (0.8, 0.95), (0.9, 0.9)]
)
def test_many_lines_lose_no_more_than_is_stated(tmp_path, monkeypatch, threshold, recall):
    monkeypatch.setattr(minhash, "_ALL", 0)
    monkeypatch.setattr(minhash, "_BLOCK", 700)
    lines = corpus(1500, seed=4, alike=400)
    expected = set(alike_pairs(lines, threshold))
    pairs, mined = found(tmp_path, lines, threshold, recall)
    assert pairs == sorted(set(pairs))
    assert set(pairs) <= expected
    assert mined.plan.finds(threshold) >= recall
    assert mined.plan.rows > 1
    assert mined.candidates < 0.5 * len(lines) ** 2 / 2
    chances = mined.plan.finds([likeness(lines[i], lines[j]) for i, j in expected])
    assert len(chances) > 50
    spread = np.sqrt(np.sum(chances * (1 - chances)))
    assert len(pairs) >= chances.sum() - 4 * spread


def lines_of(path):
    rows = map(json.loads, Path(path).read_text("utf-8").splitlines())
    return [(row["text"], *row["synonyms"]) for row in rows]


def test_lines_of_files_and_of_jsonl(tmp_path, zoo_cli, mistake):
    lines = ["怎么去火车站最快？", "怎么去火车站最快", "怎样去火车站最快", "今天天气很好啊", "短",
             "？！？！？！？！"]  # fmt: skip
    Path("lines.txt").write_text("\n".join([*lines, "长" * 80]), "utf-8")
    rows = [
        json.dumps({"text": "今天天气很好呀"}),
        json.dumps({"text": ["火车站怎么去最快", "别的"]}),
    ]
    Path("rows.jsonl").write_text("\n".join(rows), "utf-8")
    Path("folder").mkdir()
    command = ("mine-pairs", "lines", "[lines.txt,rows.jsonl]", "-o", "pairs.jsonl")
    code, out, err = zoo_cli(*command, "--threshold", 0.7)
    assert code == 0, err
    assert "lines.txt: 3 of 7 lines left out, of fewer than 6 or more than 64 characters" in err
    # A copy but for its marks is none; what comes first stays.
    assert lines_of("pairs.jsonl") == [
        ("怎么去火车站最快？", "怎样去火车站最快"),
        ("怎么去火车站最快？", "火车站怎么去最快"),
        ("怎样去火车站最快", "火车站怎么去最快"),
        ("今天天气很好啊", "今天天气很好呀"),
    ]
    assert "4 pairs in pairs.jsonl: 10 of 10 compared" in out
    assert sorted(path.name for path in Path().iterdir()) == [
        "folder", "lines.txt", "pairs.jsonl", "rows.jsonl"
    ]  # fmt: skip
    assert "it would be lost" in mistake(*command[:-1], "lines.txt")
    Path("folder/lines.txt").write_bytes(Path("lines.txt").read_bytes())
    assert "is one of the sources" in mistake(
        "mine-pairs", "lines", "folder", "-o", "folder/lines.txt"
    )
    assert "folder is a folder: give a file" in mistake(*command[:-1], "folder")
    assert "longest=5000" in mistake(*command, "--longest", 5000)
    assert "--tasks=2: give --executor" in mistake(*command, "--tasks", 2)
    Path("empty.txt").touch()
    for few in ("empty.txt", "folder/lines.txt"):
        line = mistake("mine-pairs", "lines", few, "--shortest", 60, "--longest", 61)
        assert f"{few} has no line of 60 to 61 characters" in line
    assert "--recall means nothing to zoo mine-pairs answers" in mistake(
        "mine-pairs", "answers", "rows.jsonl", "--recall", 0.9
    )
    assert "--threshold means nothing to zoo mine-pairs catalogues" in mistake(
        "mine-pairs", "catalogues", "rows.jsonl", "--threshold", 0.9
    )


def test_too_many_pairs_are_told_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(minhash, "_MOST", 1000)
    path, out = tmp_path / "lines.txt", tmp_path / "pairs.jsonl"
    path.write_text("\n".join(f"您的订单编号是{i:04}号" for i in range(200)), "utf-8")
    with pytest.raises(ValueError, match=r"more than 1,000 alike pairs: raise --threshold"):
        mine_lines([path], out)
    assert list(tmp_path.iterdir()) == [path]


def test_one_sentence_has_no_pair(tmp_path):
    pairs, mined = found(tmp_path, ["今天天气很好"], 0.5)
    assert (pairs, mined.candidates, mined.cut) == ([], 0, 0)


def test_what_is_not_compared_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(minhash, "_ALL", 0)
    monkeypatch.setattr(minhash, "_RUN", 3)
    monkeypatch.setattr(minhash, "_CANDIDATE", 1e9)
    lines = [f"您的订单编号是{chr(0x5000 + i)}号请您查收" for i in range(60)]
    pairs, mined = found(tmp_path, lines, 0.8)
    assert 0 < len(pairs) < 60 * 59 / 2
    assert mined.cut > 0
    assert "lines are like over 3 others, not compared with all" in mined.words()


def test_processes_change_nothing(tmp_path):
    lines = corpus(10_500, seed=5)
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(lines), "utf-8")
    for processes in (1, 2):
        mined = mine_lines([path], tmp_path / f"{processes}.jsonl", processes=processes)
        assert mined.plan.rows > 0
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()
    assert len(mined.pairs) > 50


@pytest.mark.slow
def test_tasks_of_datatrove_change_nothing(tmp_path, zoo_cli):
    pytest.importorskip("datatrove", reason="needs the extra datatrove")
    Path("lines.txt").write_text("\n".join(corpus(10_500, seed=6)), "utf-8")
    for out, more in (("one.jsonl", ()), ("two.jsonl", ("--executor", "local", "--tasks", 3))):
        code, _, err = zoo_cli("mine-pairs", "lines", "lines.txt", "-o", out, *more)
        assert code == 0, err
    assert Path("two.jsonl").read_bytes() == Path("one.jsonl").read_bytes()
    assert len(lines_of("one.jsonl")) > 50
    assert not list(Path().glob("*.parts"))
