"""Windows of a stream: every symbol is predicted once, and never from another document."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Text
from datamodules.language import NO_TARGET, Windows

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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "--data.sequence_length must be at least 1"),
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
