"""Sentences that are mapped from a cache: the items, batches and mistakes of those in memory."""

import errno
import json
import os
import pickle
from itertools import islice

import pytest
import torch

from tests.datamodules.test_sentence_pairs import write
from zoo.data import LabelledPairs, Sentences, SimilarGroups
from zoo.data.sentences import store
from zoo.data.sentences.sets import _WINDOW, TextSampler
from zoo.layers.seeds import mix


def make(root, n=120):
    """Groups, graded and yes/no pairs and lines, some linked and some twice."""
    words = ["alpha", "beta", "gamma", "delta", "eps", "甲乙", "丙"]

    def text(i):
        return " ".join(words[(i * k + k) % 7] for k in range(1, 2 + i % 5)) + f" {i % 90}"

    more = [[f"{text(i)}!", text(i + 1) if i % 4 == 0 else f"{text(i)}?"] for i in range(n)]
    rows = [json.dumps({"text": text(i), "synonyms": row}) for i, row in enumerate(more)]
    write(root / "groups.jsonl", *rows, "{", '{"text": "a", "synonyms": ["a"]}')
    yes = [f"{text(i)} x\t{text(i + 3)} y\t{i % 2}" for i in range(n)]
    write(root / "yes.tsv", "sentence1\tsentence2\tlabel", *yes, "a\tb")
    nli = ["neutral", "entailment", "contradiction"]
    write(
        root / "n.csv", "premise,hypothesis,label", *(f"p{i},h{i},{nli[i % 3]}" for i in range(n))
    )
    write(root / "eval.tsv", *(f"{text(i)} x\t{text(2 * i)}\t{i % 6}" for i in range(40)))
    write(root / "lines.txt", *(text(i) for i in range(n)), "", text(3))
    return root


def all_of(data):
    """All batches of two epochs and of the evaluation, in one list."""
    data.setup()
    train = data.train_dataloader()
    found = []
    for epoch in range(2):
        train.sampler.set_epoch(epoch)
        found += list(train)
    for loader in (*data.val_dataloader(), *data.test_dataloader()):
        found += list(loader)
    return found


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


KINDS = {
    "groups": (SimilarGroups, {"files": ["groups.jsonl", "yes.tsv"], "noise": 0.5}),
    "general": (
        SimilarGroups,
        {"files": ["groups.jsonl"], "general": ["yes.tsv"], "evaluate": {"e": "eval.tsv"}},
    ),
    "pairs": (
        LabelledPairs,
        {"files": ["yes.tsv", "n.csv"], "val_share": 0.2, "evaluate": {"e": "eval.tsv"}},
    ),
    "lines": (Sentences, {"files": ["lines.txt"], "val_share": 0.2, "evaluate": {"e": "eval.tsv"}}),
}


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    """Reads in this process, as the tests but one do: a new one takes seconds to begin."""
    monkeypatch.setattr("zoo.data.sentences.base.Pool", lambda _: _Here())


class _Here:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, function, *args):
        return function(*args)


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_those_of_memory_to_the_bit(kind, tmp_path):
    cls, options = KINDS[kind]
    options = {"root": str(make(tmp_path)), "batch_size": 8, "seed": 3, **options}
    plain = cls(**options)
    expected = all_of(plain)
    assert len(expected) > 10
    for turn in ("made", "mapped"):
        data = cls(memory_limit_gb=0, **options)
        assert same(all_of(data), expected), turn
        assert data.describe() == plain.describe()
        assert data.words().tokens == plain.words().tokens
        assert list(data.evaluated_texts()) == list(plain.evaluated_texts())
    again = pickle.loads(pickle.dumps(data.train_dataloader().dataset))
    assert same(again.__getitems__([5, 1]), data.train_dataloader().dataset.__getitems__([5, 1]))
    for i in range(2):
        cut = cls(memory_limit_gb=0, limit=30 + i, **options)
        assert same(all_of(cut), all_of(cls(limit=30 + i, **options)))


@pytest.mark.filterwarnings("ignore:left out")
def test_the_cache_follows_its_files_and_refuses_what_they_do(tmp_path, monkeypatch):
    root = make(tmp_path)

    def groups(**more):
        data = SimilarGroups(root=str(root), files=["groups.jsonl"], memory_limit_gb=0, **more)
        data.setup()
        return data

    first = groups()
    [home] = (tmp_path / "cache").glob("sentences-*")
    monkeypatch.setattr(SimilarGroups, "read", None)  # it is there
    assert list(groups(batch_size=2, seed=9).groups("train")) == list(first.groups("train"))
    monkeypatch.undo()
    monkeypatch.setattr("zoo.data.sentences.base.Pool", lambda _: _Here())
    held = list(first.groups("train"))
    write(root / "groups.jsonl", '{"text": "one", "synonyms": ["two"]}', *['["a", "b c"]'] * 9)
    assert sum(len(groups().groups(split)) for split in ("train", "val", "test")) == 10
    assert list(first.groups("train")) == held  # who has mapped it keeps it
    groups()
    file = home / "train.bin"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=r"train\.bin is cut off or changed: remove the folder"):
        groups()
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.bin is missing: remove the folder"):
        groups()
    file.write_bytes(data)
    for junk in ("[1]", "{", '{"made": 3}', "null", '"x"'):
        if junk != '{"made": 3}':
            (home / "index.json").write_text(junk)
            with pytest.raises(ValueError, match=r"index\.json is damaged: remove the folder"):
                groups()
    (home / "index.json").write_text('{"made": 3}')
    groups()  # of another making: made again
    write(root / "groups.jsonl", "only words", "here")
    plain = SimilarGroups(root=str(root), files=["groups.jsonl"])
    with pytest.raises(ValueError, match="no row that can be read") as expected:
        plain.setup()
    with pytest.raises(ValueError, match="no row that can be read") as raised:
        groups()
    assert str(raised.value) == str(expected.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out")
def test_a_process_of_its_own_reads_and_workers_map(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    shares = {"val_share": 0.2, "test_share": 0.2}
    options = {"root": str(make(tmp_path)), "files": ["yes.tsv"], "batch_size": 8, **shares}
    expected = all_of(LabelledPairs(**options))
    data = LabelledPairs(memory_limit_gb=0, num_workers=2, **options)
    assert same(all_of(data), expected)
    write(tmp_path / "yes.tsv", "only words", "here")
    with pytest.raises(ValueError, match=r"yes\.tsv"):
        LabelledPairs(memory_limit_gb=0, **options).setup()


@pytest.mark.parametrize("parts", [[700], [100, 64], [10, 300, 7]])
def test_the_order_in_four_bytes_is_that_of_eight(parts):
    lengths = torch.randint(1, 30, (sum(parts),), generator=torch.Generator().manual_seed(1))
    sampler = TextSampler(lengths.tolist(), parts, 4, seed=5)

    def plain(epoch):
        generator = torch.Generator().manual_seed(mix(5, epoch))
        each, items, columns, first = max(parts), sum(parts), [], 0
        for size in parts:
            turns = -(-each // size)
            drawn = [
                first + t * items + torch.randperm(size, generator=generator) for t in range(turns)
            ]
            column, rows = torch.cat(drawn)[:each], max(4 // len(parts), 1)
            of, windows = lengths[column % items], []
            key = column // items * (int(lengths.max()) + 1) + of
            for begin in range(0, each, _WINDOW * rows):
                order = begin + key[begin : begin + _WINDOW * rows].argsort(stable=True)
                whole = len(order) // rows * rows
                chunks = order[:whole].reshape(-1, rows)
                chunks = chunks[of[chunks].sum(1).argsort(stable=True)]
                windows += [chunks.flatten(), order[whole:]]
            columns.append(column[torch.cat(windows)])
            first += size
        order = torch.stack(columns, 1).flatten()
        whole = len(order) // 4 * 4
        batches = order[:whole].reshape(-1, 4)
        batches = batches[torch.randperm(len(batches), generator=generator)]
        order = torch.cat([batches.flatten(), order[whole:]])
        return order + epoch * items * -(-each // min(parts))

    for epoch in (0, 1, 7):
        sampler.set_epoch(epoch)
        found = sampler.order()
        assert found.dtype == torch.int64
        assert torch.equal(found, plain(epoch))
    sampler.set_epoch(1)
    assert list(islice(sampler, 5)) == plain(1)[:5].tolist()


@pytest.mark.filterwarnings("ignore:left out")
def test_a_full_disk_while_reading_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    root = make(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("zoo.data.sentences.kept.pickle.dump", full)
    monkeypatch.setattr("zoo.data.sentences.kept._BLOCK", 50)
    data = SimilarGroups(root=str(root), files=["yes.tsv"], memory_limit_gb=0)
    with pytest.raises(OSError, match=r"No space left on device: '.*cache/sentences-"):
        data.setup()
    assert {f.name for f in next((tmp_path / "cache").glob("sentences-*")).iterdir()} == {".lock"}
    monkeypatch.undo()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.data.sentences.base.Pool", lambda _: _Here())
    data.setup()
    assert len(data.groups("train"))


def test_a_cache_that_was_killed_while_it_went_is_none(tmp_path, monkeypatch):
    for name in ("a.rows", "index.json", "z.rows"):
        (tmp_path / name).write_text("{}")
    gone = []

    def killed(file, **_):
        gone.append(file.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(store.Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write(tmp_path, {}, {}, {})
    assert gone == ["index.json"]
