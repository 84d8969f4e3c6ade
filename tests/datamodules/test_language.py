import numpy as np
import pytest
import torch

from datamodules import Language
from datamodules.language import Stream, Windows


def gather(loader):
    """(position of the prediction, symbol) of every scored prediction."""
    seen = []
    for batch in loader:
        for row, scored, i in zip(batch.tokens, batch.scored, batch.index, strict=True):
            n = len(scored)
            seen += [(int(i) * n + t + 1, int(row[t + 1])) for t in range(n) if scored[t]]
    return seen


def text(tmp_path, content="the cat sat on the mat. " * 20, name="a.txt"):
    (tmp_path / name).write_text(content)
    return str(tmp_path / name)


@pytest.mark.parametrize("length", [1, 7, 16, 1000])
def test_every_symbol_is_predicted_once_at_any_length(tmp_path, length):
    data = Language(root=text(tmp_path), level="char", val_length=length, batch_size=3)
    symbols = data.split("val").symbols
    expected = [(t, int(symbols[t])) for t in range(1, len(symbols))]
    assert sorted(gather(data.val_dataloader())) == expected


def test_splits_are_the_text(tmp_path):
    content = "".join(chr(97 + i * i % 26) for i in range(1000))
    data = Language(root=text(tmp_path, content), level="char")
    parts = [data.vocabulary.decode(data.split(s).symbols) for s in ("train", "val", "test")]
    assert parts == [content[:900], content[900:950], content[950:]]


def test_training_windows_are_whole_and_their_order_depends_on_the_epoch(tmp_path):
    data = Language(root=text(tmp_path), length=16, batch_size=2, stride=8)
    loader = data.train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        orders.append(torch.cat([b.index for b in batches]).tolist())
        symbols = data.split("train").symbols
        for b in batches:
            assert b.tokens.shape == (2, 17)
            assert b.scored.all()
            for row, i in zip(b.tokens.tolist(), b.index.tolist(), strict=True):
                assert row == symbols[8 * i : 8 * i + 17].tolist()
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0])[-1] < (len(data.split("train")) - 17) // 8 + 1


def test_documents_are_apart_and_aligned(tmp_path):
    lines = ["ab", "cdefg", "hi", "k"] * 10
    data = Language(
        root=text(tmp_path, "\n".join(lines)), level="char", documents="line", align=4, length=8,
        batch_size=1,
    )  # fmt: skip
    words, stream = data.vocabulary, data.split("train")
    docs = stream.documents
    for number in np.unique(docs[docs >= 0]):
        place = np.flatnonzero(docs == number)
        assert place[0] % 4 == 0
        assert (np.diff(place) == 1).all()
        assert words.decode(stream.symbols[place]) == lines[number]
        assert stream.symbols[place[-1]] == words.end
    assert (docs == -1).sum() == len(docs) - sum(len(lines[i]) + 1 for i in range(docs.max() + 1))
    batch = next(iter(data.train_dataloader()))
    i = 8 * int(batch.index[0])
    for t in range(8):
        same = docs[i + t] == docs[i + t + 1] >= 0
        assert bool(batch.scored[0, t]) == same
    assert batch.doc_ids.tolist() == [docs[i : i + 8].tolist()]


def test_lines_of_the_treebank_end_with_a_symbol(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"ptb.{name}.txt").write_text(" a <unk> b \n b a \n")
    data = Language(root=str(tmp_path), level="word", length=2)
    words = data.vocabulary
    assert words.symbols == ["</s>", "<unk>", "a", "b"]
    assert data.split("test").symbols.tolist() == [2, 1, 3, 0, 3, 2, 0]


def test_several_files_are_one_stream_with_ends_between(tmp_path):
    for i, content in enumerate(["abc", "de"]):
        (tmp_path / f"{i}.txt").write_text(content)
    stream = Stream.of([np.array([5, 6]), np.array([7])], 0, False, 1)
    assert stream.symbols.tolist() == [5, 6, 0, 7]
    assert Windows(stream, 2, stride=2, whole=False).__getitems__([1]).scored.tolist() == [
        [True, False]
    ]


def test_shakespeare_is_embedded():
    data = Language(level="byte", test_lengths=[256, 1024])
    assert data.vocabulary.decode(data.split("train").symbols[:13]) == "First Citizen"
    assert sum(len(data.split(s)) for s in ("train", "val", "test")) == 1115394
    loaders = data.test_dataloader()
    assert [loader.batch_size for loader in loaders] == [32, 8]
    predictions = [sum(int(b.scored.sum()) for b in loader) for loader in loaders]
    assert predictions == [len(data.split("test")) - 1] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "--data.length must be"),
        ({"level": "letter"}, "level='letter'"),
        ({"documents": "page"}, "--data.documents='page'"),
        ({"test_lengths": [0]}, r"--data.test_lengths=\[0\]"),
        ({"length": 10**7}, "fewer than a window"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Language(**options).train_dataloader()
