"""Sentences in batches of about one length, whose order is a function of (seed, epoch)."""

import os
from pathlib import Path

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from zoo.data import TextLines
from zoo.data.loader import EpochLoader
from zoo.data.text.lines import BucketSampler, SentenceSet

PTB = Path(os.environ.get("ZOO_DATA", "data")).absolute() / "ptb"  # here before the tests move


def folder(path, train=200):
    rng = np.random.default_rng(0)
    for name, count in [("train", train), ("valid", 23), ("test", 11)]:
        lines = [
            " ".join(f"w{rng.integers(30)}" for _ in range(rng.integers(1, 20)))
            for _ in range(count)
        ]
        (path / f"{name}.txt").write_text("\n\n".join(lines) + "\n")
    return str(path)


def test_a_batch_holds_the_lines_of_its_numbers(tmp_path):
    data = TextLines(root=folder(tmp_path), batch_size=8)
    data.setup()
    lines = (tmp_path / "train.txt").read_text().split("\n\n")
    for tokens, lengths, index, real in data.train_dataloader():
        assert tokens.shape == (8, int(lengths.max()))
        inside = [
            i for i in range(tokens.numel()) if i % tokens.shape[1] < lengths[i // tokens.shape[1]]
        ]
        assert real.tolist() == inside
        assert tokens.dtype == lengths.dtype == index.dtype == torch.int64
        for row, length, number in zip(tokens, lengths, index, strict=True):
            line = lines[int(number)].strip()
            assert data.vocabulary.decode(row.tolist()) == line
            assert length == len(line.split()) + 1
            assert (row[length - 1 :] == data.vocabulary.end).all()


def test_evaluation_keeps_order_and_every_sentence(tmp_path):
    data = TextLines(root=folder(tmp_path), batch_size=8, val_batch_size=5)
    data.setup()
    for loader, count in [(data.val_dataloader(), 23), (data.test_dataloader(), 11)]:
        assert torch.cat([batch.index for batch in loader]).tolist() == list(range(count))
    assert len(list(data.predict_dataloader())) == 3


def test_the_vocabulary_is_the_training_splits(tmp_path):
    for name, line in [("train", "a b"), ("valid", "a c"), ("test", "c b")]:
        (tmp_path / f"{name}.txt").write_text(f"{line}\n" * 3)
    data = TextLines(root=str(tmp_path), batch_size=1)
    data.setup()
    assert data.vocabulary.symbols == ["</s>", "<unk>", "a", "b"]
    assert next(iter(data.val_dataloader())).tokens.tolist() == [[2, 1, 0]]


def test_long_sentences_are_left_out_of_training_only(tmp_path):
    data = TextLines(root=folder(tmp_path), batch_size=8, max_length=10, limit=50)
    data.setup()
    assert data.split("train").lengths.max() == 10
    assert len(data.split("train")) == 50
    assert data.split("val").lengths.max() > 10


def sampler(n=500, **options):
    lengths = np.random.default_rng(1).integers(1, 60, n)
    return BucketSampler(lengths, **{"batch_size": 8, "pool": 20, "seed": 5, **options}), lengths


def test_buckets_are_a_permutation_of_about_equal_lengths():
    bucket, lengths = sampler()
    order = bucket.order()
    assert sorted(order.tolist()) == list(range(500))
    batches = lengths[order[:496].reshape(-1, 8).numpy()]
    padding = (batches.max(1, keepdims=True) - batches).sum() / batches.sum()
    shuffled = np.random.default_rng(2).permutation(lengths)[:496].reshape(-1, 8)
    assert padding < 0.08
    assert (shuffled.max(1, keepdims=True) - shuffled).sum() / shuffled.sum() > 0.5
    # The batches themselves come in no order of length.
    means = batches.mean(1)
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.4


def test_the_dropped_remainder_is_not_the_longest():
    dropped = []
    for epoch in range(200):
        bucket, lengths = sampler(39, pool=100)
        bucket.set_epoch(epoch)
        dropped.append(lengths[bucket.order()[32:].numpy()].mean())
    assert abs(np.mean(dropped) - lengths.mean()) < 4 * lengths.std() / (200 * 7) ** 0.5


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        torch.manual_seed(epoch)
        bucket, _ = sampler(seed=seed)
        bucket.set_epoch(epoch)
        return tuple(bucket.order().tolist())

    assert order(5, 3) == order(5, 3)
    assert len({order(s, e) for s in range(3) for e in range(3)}) == 9


def test_processes_share_out_the_batches_of_one():
    whole = sampler(503)[0].order()[:496].reshape(-1, 8)
    parts = [
        sampler(503, batch_size=4, rank=r, world_size=2)[0].order()[:248].reshape(-1, 4)
        for r in range(2)
    ]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(batch.tolist()) == sorted(torch.cat(shares).tolist())


def test_resuming_inside_an_epoch_gives_the_rest_of_it():
    def loader():
        bucket, lengths = sampler()
        data = SentenceSet([np.full(n, 2) for n in lengths], end=0)
        bucket.set_epoch(2)
        return EpochLoader(data, sampler=bucket, batch_size=8)

    batches = [batch.index.tolist() for batch in loader()]
    assert len(batches) == 62
    for done in (0, 1, 30, 61):
        first = loader()
        iterator = iter(first)
        for _ in range(done):
            next(iterator)
        resumed = loader()
        resumed.load_state_dict(first.state_dict())
        assert [batch.index.tolist() for batch in resumed] == batches[done:]


def test_the_trainer_sets_the_epoch(tmp_path):
    seen = []

    class Recorder(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch):
            seen.append((self.current_epoch, batch.index.tolist()))
            return self.weight * batch.lengths.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def validation_step(self, batch):
            pass

    data = TextLines(root=folder(tmp_path), batch_size=8, seed=4)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Recorder(), data)
    for epoch in range(2):
        bucket = BucketSampler(data.split("train").lengths, batch_size=8, pool=100, seed=4)
        bucket.set_epoch(epoch)
        expected = bucket.order().reshape(-1, 8).tolist()
        assert [index for e, index in seen if e == epoch] == expected


@pytest.mark.parametrize("level", ["char", "byte"])
def test_lines_of_characters_and_bytes_are_whole(level):
    data = TextLines(level=level, batch_size=8)
    data.setup("validate")
    for batch in list(data.val_dataloader())[:5]:
        for row, number in zip(batch.tokens, batch.index.tolist(), strict=True):
            assert data.vocabulary.decode(row.tolist()) == data.texts("val")[number]


@pytest.mark.skipif(not PTB.is_dir(), reason="no Penn Treebank here")
def test_the_penn_treebank_is_the_published_one():
    data = TextLines(root=str(PTB))
    data.setup()
    assert len(data.vocabulary) == 10_000
    counts = [(len(data.split(s)), int(data.split(s).lengths.sum())) for s in ("train", "test")]
    assert counts == [(42_068, 929_589), (3_761, 82_430)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--data.batch_size=0: must be 1 or more"),
        ({"pool": 0}, "--data.pool"),
        ({"level": "line"}, "level='line'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TextLines(**options)


def test_a_batch_larger_than_the_set_is_refused(tmp_path):
    data = TextLines(root=folder(tmp_path, 20), batch_size=21)
    with pytest.raises(ValueError, match="batch of 21 is larger"):
        data.train_dataloader()
