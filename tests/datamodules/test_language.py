"""Windows of a stream: every symbol is predicted once, and never from another document."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data import MaskedSentences, Text, TextLines
from zoo.data.text.language import NO_TARGET, Windows

PTB = Path(os.environ.get("ZOO_DATA", "data")).absolute() / "ptb"  # here before the tests move


def everything(loader):
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


@pytest.mark.parametrize("length", [1, 2, 5, 100])
def test_every_symbol_but_a_documents_first_is_predicted_once_from_the_one_before(length):
    rng = np.random.default_rng(0)
    documents = [rng.integers(1, 300, n) for n in (7, 1, 12, 2)]
    windows = Windows(documents, length, end=0)
    tokens, targets, numbers, index = windows.__getitems__(list(range(len(windows))))
    assert tokens.shape == targets.shape == numbers.shape == (len(windows), length)
    pairs = sorted(
        (int(d), int(a), int(b))
        for d, a, b in zip(numbers.flatten(), tokens.flatten(), targets.flatten(), strict=True)
        if b != NO_TARGET
    )
    expected = sorted(
        (i, int(a), int(b)) for i, d in enumerate(documents) for a, b in itertools.pairwise(d)
    )
    assert pairs == expected
    assert index.tolist() == list(range(len(windows)))
    stream = np.concatenate(documents)[:-1]
    assert tokens.flatten()[: len(stream)].tolist() == stream.tolist()
    assert (numbers.flatten()[len(stream) + 1 :] == -1).all()


def test_bytes_are_the_file_and_its_splits_are_enwik8s(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8).tobytes()
    (tmp_path / "enwik8").write_bytes(data)
    text = Text(root=str(tmp_path / "enwik8"), level="byte", sequence_length=32, batch_size=4)
    text.setup()
    for split, part in (("train", data[:900]), ("val", data[900:950]), ("test", data[950:])):
        assert text.split(split).symbols.tolist() == list(part)
    assert text.split("train").symbols.dtype == np.uint16  # 256 is the end
    assert len(text.vocabulary) == 257


def test_documents_of_characters_have_an_end_between_them(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name}{name}\n" * 9)
    text = Text(root=str(tmp_path), level="char", sequence_length=6, batch_size=1)
    text.setup()
    train = text.split("train")
    assert text.vocabulary.symbols == ["</s>", "<unk>", "\n", "a", "b", "c"]
    expected = [3, 3, 2] * 9 + [0] + [4, 4, 2] * 9 + [0] + [5, 5, 2] * 6
    assert train.symbols.tolist() == expected
    assert train.starts.tolist() == [0, 28, 56]


def test_shakespeare_is_whole_by_character():
    text = Text(sequence_length=64, batch_size=8)
    text.setup()
    parts = [text.vocabulary.decode(text.split(s).symbols) for s in ("train", "val", "test")]
    assert sum(map(len, parts)) == 1_115_394
    assert parts[0].startswith("First Citizen:\nBefore we proceed")
    assert len(text.vocabulary) == 67  # the 65 characters of tiny Shakespeare


def test_training_windows_are_shuffled_by_seed_and_epoch_and_evaluation_is_in_order():
    text = Text(sequence_length=64, batch_size=8, seed=3, limit=10_000)
    text.setup()
    loader = text.train_dataloader()
    first, again, later = ([b.index.tolist() for b in loader] for _ in range(3))
    assert first == again == later
    loader.sampler.set_epoch(1)
    assert [b.index.tolist() for b in loader] != first
    windows = everything(text.val_dataloader())
    assert windows[3].tolist() == list(range(len(text.split("val"))))
    count = len(text.split("val").symbols)
    assert int((windows[1] != NO_TARGET).sum()) == count - 1


def test_words_have_an_end_after_each_line(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(" a b \n\n b <unk> c\n")
    text = Text(root=str(tmp_path), level="word", sequence_length=4, batch_size=1)
    text.setup()
    assert text.vocabulary.symbols == ["</s>", "<unk>", "b", "a", "c"]
    assert text.split("test").symbols.tolist() == [3, 2, 0, 2, 1, 4, 0]


@pytest.mark.skipif(not PTB.is_dir(), reason="no Penn Treebank here")
def test_the_penn_treebank_is_the_published_one():
    text = Text(root=str(PTB), level="word", sequence_length=35, batch_size=20)
    text.setup()
    assert len(text.vocabulary) == 10_000
    counts = [len(text.split(s).symbols) for s in ("train", "val", "test")]
    assert counts == [929_589, 73_760, 82_430]


def test_tests_of_several_lengths_predict_every_symbol_once():
    text = Text(sequence_length=64, batch_size=8, test_lengths=[64, 1000])
    loaders = text.test_dataloader()
    assert [loader.batch_size for loader in loaders] == [8, 1]
    for loader in loaders:
        assert (
            int((everything(loader)[1] != NO_TARGET).sum()) == len(text.split("test").symbols) - 1
        )


def test_training_windows_may_overlap(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat.\n" * 40)
    text = Text(root=str(tmp_path / "a.txt"), sequence_length=16, stride=4, batch_size=2)
    for tokens, targets, _, index in text.train_dataloader():
        for row, after, i in zip(tokens, targets, index.tolist(), strict=True):
            there = text.split("train").symbols[4 * i : 4 * i + 17].tolist()
            assert row[: len(there)].tolist()[:16] == there[:16]
            assert [t for t in after.tolist() if t != NO_TARGET] == there[1:]
    assert text.split("val").stride == 16


@pytest.mark.parametrize("kind", ["line", "paragraph"])
def test_documents_are_apart_and_begin_on_a_grid(tmp_path, kind):
    parts = ["ab", "cdefg", "hi", "k"] * 10
    (tmp_path / "a.txt").write_text(("\n" if kind == "line" else "\n\n").join(parts))
    text = Text(
        root=str(tmp_path / "a.txt"), documents=kind, align=4, sequence_length=8, batch_size=1
    )
    train, words = text.split("train"), text.vocabulary
    everywhere = train.of_length(len(train.symbols)).__getitems__([0])
    docs = everywhere.documents[0]
    for number in docs.unique().tolist():
        place = (docs == number).nonzero()[:, 0]
        if number >= 0:
            assert place[0] % 4 == 0
            assert (place.diff() == 1).all()
            assert words.decode(everywhere.tokens[0, place].tolist()) == parts[number]
            targets = everywhere.targets[0, place].tolist()
            assert targets == [*everywhere.tokens[0, place[1:]].tolist(), NO_TARGET]
        else:
            assert (everywhere.targets[0, place] == NO_TARGET).all()


def test_unigram_codes_by_counts(tmp_path):
    for name, content in (("train", "aab"), ("valid", "ab"), ("test", "xabb")):
        (tmp_path / f"{name}.txt").write_text(content)
    nats = Text(root=str(tmp_path)).unigram()  # </s>, <unk>, a, b: counts 1, 1, 3, 2 of 7
    assert nats == pytest.approx(-(np.log(3 / 7) + 2 * np.log(2 / 7)) / 3)


def test_unigram_is_of_what_is_predicted_however_documents_are_aligned(tmp_path):
    for name, lines in (("train", ["aab", "ba", "b"]), ("valid", ["ab"]), ("test", ["ab", "bba"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    for align in (1, 4):
        text = Text(root=str(tmp_path), documents="line", align=align, sequence_length=8)
        nats = text.unigram()
        # Training: a, a, b, end, b, a, end, b. Predicted: b, end, b, a. From 1, with <unk>.
        p = {"a": 4 / 12, "b": 4 / 12, "end": 3 / 12}
        assert nats == pytest.approx(-np.log([p["b"], p["end"], p["b"], p["a"]]).mean())
        targets = everything(text.test_dataloader())[1]
        names = text.vocabulary.symbols
        assert [names[t] for t in targets[targets != NO_TARGET]] == ["b", "</s>", "b", "a"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": 64, "sequence_length": 96}, "--data.sequence_length=96: .*--data.align=64"),
        ({"align": 64, "sequence_length": 128, "stride": 32}, "--data.stride=32: "),
        ({"align": 4, "sequence_length": 8, "test_lengths": [8, 9]}, "--data.test_lengths=9: "),
        ({"test_lengths": [0]}, r"--data.test_lengths=\[0\]"),
        ({"documents": "page"}, "--data.documents='page'"),
        ({"sequence_length": 0}, "--data.sequence_length=0: must be 1 or more"),
        ({"level": "token"}, "level='token'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Text(**options)


def test_a_text_without_symbols_is_refused(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("\n")
    with pytest.raises(ValueError, match="less than two symbols"):
        Text(root=str(tmp_path), level="word").setup()


@pytest.mark.parametrize("level", ["char", "byte"])
@pytest.mark.parametrize("bad", ["train", "valid"])
def test_a_split_of_blanks_is_refused(tmp_path, level, bad):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(
            " \n\t\u3000\u200b\n" * 40 if name == bad else "text\n"
        )
    split = "val" if bad == "valid" else bad
    with pytest.raises(ValueError, match=rf"the {split} split of .* nothing but spaces and ends"):
        Text(root=str(tmp_path), level=level).setup("fit")


def test_line_ends_of_windows_and_lines_of_spaces_part_paragraphs(tmp_path):
    plain = "\n\n".join(f"first line {i}\nsecond" for i in range(40))
    for name, text in {
        "lf.txt": plain,
        "crlf.txt": plain.replace("\n", "\r\n"),
        "spaces.txt": plain.replace("\n\n", "\n \t\n"),
        "more.txt": plain.replace("\n\n", "\n\n \n\n"),
        "marked.txt": "\ufeff" + plain,
    }.items():
        (tmp_path / name).write_bytes(text.encode())
        for level in ("char", "byte"):
            data = Text(root=str(tmp_path / name), level=level, documents="paragraph")
            texts = [text.replace("\r\n", "\n") for text in data.texts("train")]
            if not (level == "byte" and name == "marked.txt"):
                assert texts[:2] == ["first line 0\nsecond", "first line 1\nsecond"], (name, level)
            assert len(texts) == 36 or name in ("spaces.txt", "more.txt")


def test_text_that_is_not_utf8_is_refused_where_symbols_are_not_bytes(tmp_path):
    lines = "".join(f"line {i}\n" for i in range(97)) + "caf\xe9\n" + "end\n" * 2
    (tmp_path / "a.txt").write_bytes(lines.encode("latin-1"))
    for kind, more in ((Text, {"sequence_length": 8}), (TextLines, {}), (MaskedSentences, {})):
        for stage in ("test", "fit"):  # though training reads the lines before
            data = kind(root=str(tmp_path / "a.txt"), level="char", batch_size=2, **more)
            with pytest.raises(ValueError, match=r"a\.txt, line 98: not UTF-8 \(byte 0xe9\)"):
                data.setup(stage)
    assert Text(root=str(tmp_path / "a.txt"), level="byte", sequence_length=8).split("test")


def test_what_is_read_is_described(tmp_path):
    (tmp_path / "a.txt").write_text("one two\n" * 100)
    (tmp_path / "b.pdf").write_text("")
    data = Text(root=str(tmp_path), sequence_length=8, batch_size=2, limit=50)
    data.setup("fit")
    assert data.describe() == [
        f"text of {tmp_path}, 1 files: cut at 90 % and 95 % of the bytes",
        "vocabulary: 9 symbols (level char)",
        "train: 7 windows of 8",
        "val: 5 windows of 8",
        "left out: b.pdf (no text of the set)",
        "left out: symbols behind --data.limit=50 in train",
    ]
    assert Text().describe()[0].startswith("tiny Shakespeare, which the zoo embeds")


def test_symbols_between_windows_are_told(tmp_path):
    """A shorter window of a recipe with a stride left three quarters of a text out in silence."""
    (tmp_path / "a.txt").write_text("some words of a text\n" * 200)
    for length, told in ((8, True), (32, False), (64, False)):
        data = Text(root=str(tmp_path), sequence_length=length, stride=32, batch_size=2)
        data.setup("fit")
        said = f"--data.stride=32 is more than --data.sequence_length={length}"
        lines = "".join(data.describe())
        assert (said in lines) is ("left out: 75 % of the training symbols" in lines) is told
    data.setup("test")
    assert "stride" not in "".join(Text(root=str(tmp_path), sequence_length=8).describe())
