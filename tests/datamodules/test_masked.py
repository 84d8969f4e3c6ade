import json
import sys
import types

import numpy as np
import pytest

from zoo.data import MaskedSentences

ROWS = [f"甲{chr(0x4E00 + i)}乙丙\t丁{chr(0x5E00 + i)}\t{i % 3}" for i in range(300)]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(["sentence1\tsentence2\tlabel", *ROWS]), encoding="utf-8")
    return str(path)


def test_sentences_of_a_table_are_in_one_split_each(table):
    data = MaskedSentences(root=table)
    splits = [set(data.texts(s)) for s in ("train", "val", "test")]
    expected = {text for row in ROWS for text in row.split("\t")[:2]}
    assert set.union(*splits) == expected
    assert sum(map(len, splits)) == len(expected)
    assert len(splits[0]) > 480


def test_no_half_of_a_pair_is_trained_on_and_the_other_held_out(tmp_path):
    """Nor is a sentence that a chain of rows links to it, with labels and without."""
    pairs = [(f"good day number {i}", f"nice day number {i}") for i in range(600)]
    pairs += [(f"nice day number {i}", f"fine day number {i}") for i in range(0, 600, 3)]
    rows = [f"{a}\t{b}\t1" for a, b in pairs]
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]))
    for labels in (False, True):
        data = MaskedSentences(root=str(tmp_path / "pairs.tsv"), labels=labels)
        seen = {}
        for split in ("train", "val", "test"):
            for text in "\n".join(data.texts(split)).split("\n"):
                assert seen.setdefault(text.split()[-1], split) == split, (labels, text)
        counts = [list(seen.values()).count(split) for split in ("train", "val", "test")]
        assert sum(counts) == 600
        assert counts[0] > 500
        assert min(counts) > 10


def test_where_rows_all_hang_together_an_item_has_its_own_split(tmp_path):
    rows = [f"good day number {i}\tthe same\t1" for i in range(300)]
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]))
    data = MaskedSentences(root=str(tmp_path / "pairs.tsv"))
    assert min(len(data.texts(split)) for split in ("train", "val", "test")) > 3


def write(folder, name, rows):
    """Rows of a sentence and a label, as the kind of file that the name says."""
    if name.endswith(".jsonl"):
        text = "".join(json.dumps({"sentence": a, "label": b}) + "\n" for a, b in rows)
    else:
        comma = "," if ".csv" in name else "\t"
        text = "".join(f"{a}{comma}{b}\n" for a, b in [("sentence", "label"), *rows])
    folder.joinpath(name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    "names",
    [
        ("train.tsv", "dev.tsv", "test.tsv"),
        ("sst_train.csv", "sst_validation.csv", "sst_test.csv"),
        ("Training.jsonl", "valid.jsonl", "testing.jsonl"),
        ("all.tsv", "dev_matched.tsv", "test-2.tsv"),
    ],
)
@pytest.mark.parametrize("labels", [False, True])
def test_tables_named_after_splits_are_the_splits(tmp_path, names, labels):
    sizes = {"train": 60, "val": 7, "test": 9}
    texts = {split: [f"{split} {i}" for i in range(size)] for split, size in sizes.items()}
    for name, (split, lines) in zip(names, texts.items(), strict=True):
        leak = [("test 3", 0)] if split == "train" else []
        write(tmp_path, name, [(text, i % 2) for i, text in enumerate(lines)] + leak)
    data = MaskedSentences(root=str(tmp_path), labels=labels)
    data.setup()
    assert {split: data.texts(split) for split in sizes} == texts
    assert "left out: 1 items to train on that are in val or test" in data.describe()
    for split, size in sizes.items():
        assert data.split(split).labels.tolist() == [labels * (i % 2) for i in range(size)]


def test_a_split_without_a_table_is_parted_from_the_others(tmp_path):
    rows = [(f"row {i}", 0) for i in range(200)]
    write(tmp_path, "train.tsv", rows)
    write(tmp_path, "dev.tsv", [("dev", 0)])
    data = MaskedSentences(root=str(tmp_path))
    parts = {split: data.texts(split) for split in ("train", "val", "test")}
    assert parts["val"] == ["dev"]
    assert sorted(parts["train"] + parts["test"]) == sorted(text for text, _ in rows)
    assert 0 < len(parts["test"]) < 30
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no table to train on .*dev\.tsv"):
        MaskedSentences(root=str(tmp_path)).setup()


def test_a_held_out_table_whose_labels_are_kept_back_is_left_out(tmp_path):
    write(tmp_path, "train.tsv", [(f"row {i}", i % 2) for i in range(200)])
    write(tmp_path, "test.tsv", [(f"unknown {i}", -1) for i in range(9)])
    data = MaskedSentences(root=str(tmp_path), labels=True)
    data.setup()
    assert "left out: test.tsv (it has no labels)" in data.describe()
    assert not [text for text in data.texts("test") if "unknown" in text]
    assert len(MaskedSentences(root=str(tmp_path)).texts("test")) == 9  # as sentences they count


def test_rows_with_labels(table):
    data = MaskedSentences(root=table, labels=True, batch_size=4)
    labels = {tuple(row.split("\t")[:2]): int(row.split("\t")[2]) for row in ROWS}
    words, found = data.vocabulary, 0
    for batch in data.train_dataloader():
        for tokens, length, label in zip(
            batch.tokens.tolist(), batch.lengths.tolist(), batch.labels.tolist(), strict=True
        ):
            row = tokens[: length - 1]
            cut = row.index(words.end)
            assert labels[words.decode(row[:cut]), words.decode(row[cut + 1 :])] == label
            found += 1
    assert found > 240


def test_words_of_a_segmenter(table, monkeypatch):
    jieba = types.ModuleType("jieba")
    jieba.setLogLevel = lambda level: None
    jieba.cut = lambda text: [text[:2], text[2:]] if len(text) > 2 else [text]
    monkeypatch.setitem(sys.modules, "jieba", jieba)
    data = MaskedSentences(root=table, segmenter="jieba", batch_size=8, pool=1)
    for batch in data.val_dataloader():
        for words, length in zip(batch.words.tolist(), batch.lengths.tolist(), strict=True):
            assert words[:length] == ([0, 0, 2, 2, 4] if length == 5 else [0, 0, 2])


def test_spaces_part_words(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("ab cde\n" * 40)
    batch = next(iter(MaskedSentences(root=str(path), segmenter="spaces").val_dataloader()))
    assert batch.words[0].tolist() == [0, 0, 2, 3, 3, 3, 6]
    plain = next(iter(MaskedSentences(root=str(path)).val_dataloader()))
    assert plain.words[0].tolist() == list(range(7))


def test_batches_are_of_about_one_length(table):
    data = MaskedSentences(root=table, batch_size=8)
    spread = [int(b.lengths.max() - b.lengths.min()) for b in data.train_dataloader()]
    assert np.mean(np.array(spread) == 0) > 0.8


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a\tb\n1\t2\n", {}, "must name sentence1"),
        ("sentence1\nx\n", {"labels": True}, "must name sentence1"),
        ("sentence1\tlabel\nx\tyes\n", {"labels": True}, "label 'yes' is no class"),
        ("sentence1\tlabel\nx\t-1\n", {"labels": True}, "label '-1' is no class"),
    ],
)
def test_bad_tables_are_named(tmp_path, content, options, message):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(ValueError, match=message):
        MaskedSentences(root=str(tmp_path), **options).setup()


@pytest.mark.parametrize("line", ["[1]", '{"sentence": ["a"]}', "{", "[" * 100_000, "3"])
def test_bad_jsonl_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"sentence": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: no "):
        MaskedSentences(root=str(tmp_path / "a.jsonl")).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segmenter": "lac"}, "--data.segmenter='lac'"),
        ({"segmenter": "jieba", "level": "word"}, "level=char"),
        ({"labels": True}, "labels are read from .tsv"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MaskedSentences(**options).setup()
