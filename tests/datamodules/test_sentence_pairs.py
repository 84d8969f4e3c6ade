"""Sentence data: files with mistakes, splits without leaks, order, noise and batches."""

import json
import warnings

import pytest
import torch

from zoo.data import LabelledPairs, Sentences, SimilarGroups
from zoo.data.sentences.files import read_file
from zoo.data.sentences.labels import NLI
from zoo.data.sentences.numbered import Linked
from zoo.data.sentences.sets import TextSampler


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_groups(path):
    return read_file(path).similar()


def read_labelled(path):
    return read_file(path).labelled()


def jsonl(path, groups):
    rows = [json.dumps({"text": g[0], "synonyms": g[1:]}, ensure_ascii=False) for g in groups]
    return write(path, *rows)


# Files


def test_bad_rows_are_named_and_counted(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        '{"text": "甲", "synonyms": ["乙", "甲"]}',
        "nonsense",
        "",
        '{"text": "丙", "synonyms": ["丙"]}',
        '{"text": 3, "synonyms": ["丙"]}',
        '{"text": "丁"}',
        '{"text": "丁", "synonyms": "戊己"}',
        '{"text": "丁", "synonyms": ["戊", 5]}',
        '{"text": "戊", "synonyms": ["己"]}',
    )
    with pytest.warns(UserWarning, match=r"left out 6 of 8 rows: .*a\.jsonl, line 2: no JSON"):
        assert read_groups(path) == [["甲", "乙"], ["戊", "己"]]
    with pytest.raises(ValueError, match=r"has no row that can be read: .*line 1: no JSON"):
        read_groups(write(tmp_path / "b.jsonl", "x"))


def test_bad_rows_are_told_once_however_often_a_file_is_asked(tmp_path):
    rows = [f"good day {n}\tnice day {n}\t{n % 2}" for n in range(60)]
    write(tmp_path / "p.tsv", "sentence1\tsentence2\tlabel", *rows, "alone", "a\tb\tperhaps")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        SimilarGroups(root=str(tmp_path), batch_size=4).setup()
    left_out = [str(one.message) for one in told if "left out" in str(one.message)]
    assert len(left_out) == 1
    assert "left out 2 of 62 rows" in left_out[0]
    assert "line 62: 1 columns" in left_out[0]


def test_a_line_in_another_encoding_is_named(tmp_path):
    row = '{"text": "甲乙", "synonyms": ["丙丁"]}\n'
    (tmp_path / "g.jsonl").write_bytes(row.encode() + row.encode("gbk"))
    with pytest.raises(ValueError, match=r"g\.jsonl, line 2: not UTF-8"):
        read_groups(tmp_path / "g.jsonl")


def test_the_kind_of_labels_is_seen(tmp_path):
    head = "sentence1\tsentence2\tlabel"
    yes = read_labelled(write(tmp_path / "y.tsv", head, "\ufeffa\tb\t1", "c\td\t0"))
    assert [(p.a, p.label, p.task) for p in yes] == [("a", 1, 0), ("c", 0, 0)]
    nli = read_labelled(write(tmp_path / "n.tsv", head, *(f"a\tb\t{x}" for x in NLI)))
    assert [(p.label, p.task) for p in nli] == [(0, 1), (1, 1), (2, 1)]
    graded = write(tmp_path / "g.tsv", "x\tlabel\tsentence2\tsentence1", *["1\t4.5\tb\ta"] * 3)
    assert [tuple(p) for p in read_labelled(graded)] == [("a", "b", 4.5, 2)] * 3
    with pytest.warns(UserWarning, match="line 2: label 'maybe' in a file of NLI labels"):
        rows = read_labelled(
            write(tmp_path / "m.tsv", "a\tb\tneutral", "a\tb\tmaybe", "a\tb\tneutral")
        )
    assert len(rows) == 2
    with pytest.warns(UserWarning, match="line 3: 2 columns, need 3"):
        read_labelled(write(tmp_path / "c.tsv", head, "a\tb\t1", "a\tb"))


def test_similar_pairs_of_a_labelled_file_are_groups(tmp_path):
    yes = write(tmp_path / "y.tsv", "a\tb\t1", "c\td\t0")
    graded = write(tmp_path / "g.tsv", "a\tb\t4.0", "c\td\t3.9", "e\tf\t5")
    nli = write(tmp_path / "n.tsv", "a\tb\tentailment")
    assert read_groups(yes) == [["a", "b"]]
    assert read_groups(graded) == [["a", "b"], ["e", "f"]]
    assert read_groups(nli) == []  # a sentence that follows does not say the same


def test_families_are_linked_by_sentences():
    groups = [["a", "b"], ["c", "d"], ["e", "b"], ["d", "e"], ["f", "g"]]
    assert Linked(groups, 5).families().tolist() == [0, 0, 0, 0, 4]


# Splits


def test_embedded_pairs_are_parted_without_leaks():
    data = SimilarGroups()
    data.setup()
    parts = {
        split: {t for g in data.groups(split) for t in g} for split in ("train", "val", "test")
    }
    for split in ("val", "test"):
        labelled = data.labelled(split)["pawsx-zh-dev"]
        assert {p.label for p in labelled} == {0.0, 1.0}
        parts[split] |= {t for p in labelled for t in (p.a, p.b)}
    assert parts["train"].isdisjoint(parts["val"] | parts["test"])
    assert parts["val"].isdisjoint(parts["test"])
    sizes = [len(data.groups(split)) for split in ("train", "val", "test")]
    assert sum(sizes) == 844 == len(read_groups(data.path("pawsx-zh-dev")))
    assert 0.7 < sizes[0] / 844 < 0.9


def test_sentences_to_evaluate_on_are_not_trained_on(tmp_path):
    write(tmp_path / "eval.tsv", *(f"问题{i}\t答案{i}\t{i % 2}" for i in range(40)))
    jsonl(tmp_path / "g.jsonl", [["问题3", "疑问3"], ["甲乙", "乙甲"], ["丙", "答案5"]])
    kwargs = {"root": str(tmp_path), "evaluate": {"e": "eval.tsv"}}
    data = SimilarGroups(files=["g.jsonl"], val_share=0, test_share=0, **kwargs)
    data.setup()
    assert data.groups("train") == [["甲乙", "乙甲"]]
    assert len(data.labelled("val")["e"]) + len(data.labelled("test")["e"]) == 40
    assert 3 < len(data.labelled("val")["e"]) < 25
    write(tmp_path / "t.tsv", "问题7\tx\t1", "y\tz\t0")
    pairs = LabelledPairs(files=["t.tsv"], batch_size=1, **kwargs)
    pairs.setup()
    assert list(pairs.training_texts()) == ["y", "z"]
    lines = Sentences(files=["g.jsonl"], val_share=0, **kwargs)
    lines.setup()
    assert list(lines.training_texts()) == ["疑问3", "甲乙", "乙甲", "丙"]


def test_the_split_of_a_pair_does_not_depend_on_other_files(tmp_path):
    write(tmp_path / "a.tsv", *(f"左{i}\t右{i}\t1" for i in range(60)))
    write(tmp_path / "b.tsv", *(f"上{i}\t下{i}\t1" for i in range(60)))
    found = []
    for files in (["a.tsv"], ["b.tsv", "a.tsv"]):
        data = LabelledPairs(files=files, root=str(tmp_path), val_share=0.2, test_share=0.2)
        data.setup()
        found.append([data.labelled(split)["a"] for split in ("val", "test")])
    assert found[0] == found[1]
    assert 4 < len(found[0][0]) < 25


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ValueError, match="leave nothing to train on"):
        SimilarGroups(val_share=0.5, test_share=0.5)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*x\.jsonl \(set --data\.root"):
        SimilarGroups(files=["x.jsonl"]).setup()
    data = SimilarGroups(batch_size=800)
    data.setup()
    with pytest.raises(ValueError, match=r"a batch of 800 is larger than the training set of \d+"):
        data.train_dataloader()
    with pytest.raises(ValueError, match=r"--data\.max_length=3: \[CLS\] and \[SEP\]"):
        Sentences(max_length=3)


# Order


def sampler(lengths, parts=None, **options):
    return TextSampler(lengths, parts or [len(lengths)], options.pop("batch", 4), **options)


def test_an_epoch_has_every_item_once_in_batches_of_like_lengths():
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 100, (400,), generator=g).tolist()
    s = sampler(lengths, batch=8)
    orders = []
    for epoch in range(2):
        s.set_epoch(epoch)
        order = s.order()
        assert sorted((order - 400 * epoch).tolist()) == list(range(400))
        sizes = torch.tensor(lengths)[order - 400 * epoch].reshape(-1, 8)
        spread = (sizes.amax(1) - sizes.amin(1)).float().mean()
        assert spread < 10 < torch.tensor(lengths).reshape(-1, 8).amax(1).float().mean()
        orders.append(order - 400 * epoch)
    assert not torch.equal(*orders)
    s.set_epoch(1)
    assert torch.equal(s.order() - 400, orders[1])


def test_parts_alternate_and_the_small_one_is_repeated():
    s = sampler([1] * 12 + [5] * 3, [12, 3], batch=4)
    order = s.order() % 15
    assert len(order) == 24
    kind = order >= 12
    assert kind.reshape(-1, 4).sum(1).tolist() == [2] * 6
    assert torch.bincount(order[~kind], minlength=12).tolist() == [1] * 12
    assert torch.bincount(order[kind] - 12).tolist() == [4] * 3


def test_copies_of_a_small_part_come_in_different_batches_and_with_other_noise():
    g = torch.Generator().manual_seed(0)
    lengths = torch.randint(5, 50, (3300,), generator=g)
    s = sampler(lengths.tolist(), [3000, 300], batch=64)
    numbers = []
    for epoch in range(2):
        s.set_epoch(epoch)
        order = s.order()
        numbers.append(order)
        item = order % 3300
        assert torch.bincount(item, minlength=3300).tolist() == [1] * 3000 + [10] * 300
        batches = item[: len(item) // 64 * 64].reshape(-1, 64)
        distinct = [len(b[b >= 3000].unique()) for b in batches]
        assert sum(distinct) / len(distinct) > 31.5  # of 32
        # And both parts of a batch are of about one length.
        spread = lengths[batches].amax(1) - lengths[batches].float().mean(1)
        assert spread.mean() < 5
    # No number comes twice, so no noise does.
    assert len(torch.cat(numbers).unique()) == 12_000


def test_two_processes_share_each_batch_of_one():
    lengths = list(range(1, 41))
    whole = sampler(lengths, batch=8).order().reshape(-1, 8)
    shares = [
        sampler(lengths, batch=8, rank=r, world_size=2).order().reshape(-1, 4) for r in (0, 1)
    ]
    both = torch.cat(shares, 1)
    assert torch.equal(both.sort(1).values, whole.sort(1).values)


def test_a_loader_starts_inside_an_epoch_with_the_same_noise():
    def batches(skip):
        data = SimilarGroups(batch_size=8, noise=1.0, max_length=16, limit=80)
        data.setup()
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)
        loader.load_state_dict({"batches": skip})
        return [batch.tokens for batch in loader]

    whole, rest = batches(0), batches(2)
    assert len(rest) == len(whole) - 2 > 0
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], rest, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_noise_and_choice_change_with_the_epoch_in_every_process(workers):
    data = SimilarGroups(batch_size=20, noise=1.0, max_length=20, limit=50, num_workers=workers)
    data.setup()
    loader = data.train_dataloader()
    seen = []
    for epoch in (0, 0, 1):
        loader.sampler.set_epoch(epoch)
        rows = {}
        for batch in loader:
            for row, index in zip(batch.tokens.tolist(), batch.index.tolist(), strict=True):
                rows[index] = [i for i in row if i]
        seen.append(rows)
    assert seen[0] == seen[1]
    common = seen[0].keys() & seen[2].keys()
    assert len(common) >= 20
    assert sum(seen[0][i] != seen[2][i] for i in common) > len(common) / 2


# Batches


def test_both_directions_of_a_pair_are_neighbours_and_targets_are_clean(tmp_path):
    jsonl(tmp_path / "g.jsonl", [[f"甲乙丙{i}", f"丙乙甲{i}"] for i in range(9)])
    data = SimilarGroups(
        files=["g.jsonl"], root=str(tmp_path), val_share=0, test_share=0, batch_size=9, noise=1.0
    )
    data.setup()
    (batch,) = data.train_dataloader()
    tokenizer = data.words()
    assert len(batch.tokens) == 18
    assert (tokenizer.mask == batch.tokens).any()
    rows = zip(batch.tokens, batch.segments, batch.lengths.tolist(), batch.texts, strict=True)
    targets = [tokenizer.decode(row[segments == 1].tolist()) for row, segments, _, _ in rows]
    for i in range(0, 18, 2):
        assert {batch.texts[i], batch.texts[i + 1]} == {targets[i], targets[i + 1]}
        assert batch.texts[i] == targets[i + 1] != targets[i]
        assert batch.group[i] == batch.group[i + 1]
    assert tokenizer.mask not in batch.labels
    assert batch.group.unique().numel() == 9


def test_labelled_batches_have_pairs_side_by_side(tmp_path):
    write(tmp_path / "y.tsv", *(f"左{i}\t右{i}\t{i % 2}" for i in range(6)))
    write(tmp_path / "n.tsv", *(f"上{i}\t下{i}\t{NLI[i]}" for i in range(3)))
    data = LabelledPairs(files=["y.tsv", "n.tsv"], root=str(tmp_path), batch_size=4)
    data.setup()
    batches = list(data.train_dataloader())
    assert len(batches) == 3  # twice the six yes/no pairs, NLI pairs between
    for batch in batches:
        assert batch.task.sum() == 2
        for i, text in enumerate(batch.texts):
            assert data.words().decode(batch.tokens[i].tolist()) == text
        assert [t[1:] for t in batch.texts[::2]] == [t[1:] for t in batch.texts[1::2]]


def test_every_evaluation_pair_comes_once_and_in_order():
    data = SimilarGroups(val_batch_size=50)
    data.setup()
    loaders = data.test_dataloader()
    assert len(loaders) == 2
    index = torch.cat([batch.index for batch in loaders[1]])
    count = sum(map(len, data.labelled("test").values()))
    assert index.tolist() == list(range(count))


def test_simcse_rows_come_twice_and_masked_rows_once():
    twice = Sentences(purpose="simcse", batch_size=6, limit=60)
    twice.setup()
    batch = next(iter(twice.train_dataloader()))
    assert torch.equal(batch.tokens[::2], batch.tokens[1::2])
    assert len(batch.tokens) == 12
    assert len(batch.labels) == 0
    once = Sentences(batch_size=6, limit=60)
    once.setup()
    batch = next(iter(once.train_dataloader()))
    assert len(batch.tokens) == 6
    original = batch.tokens.flatten().clone()
    original[batch.places] = batch.labels
    texts = [once.words().decode(row.tolist()) for row in original.reshape(batch.tokens.shape)]
    clean = [once.words().decode(once.words().encode([t], 64)[0]) for t in batch.texts]
    assert texts == clean


def test_vocab_txt_is_taken(tmp_path):
    write(tmp_path / "vocab.txt", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "的")
    data = SimilarGroups(vocab=str(tmp_path / "vocab.txt"))
    data.setup()
    assert data.vocabulary()[-1] == "的"
    assert data.vocabulary(8)[-2:] == ["[unused1]", "[unused2]"]
