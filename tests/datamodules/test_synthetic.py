"""Each task against what it says, an item at a time."""

import pytest
import torch

from zoo.data import Synthetic
from zoo.data.text.language import NO_TARGET


def items(**options):
    data = Synthetic(val_items=50, batch_size=10, **options)
    batches = list(data.val_dataloader())
    return zip(
        torch.cat([b.tokens for b in batches]).tolist(),
        torch.cat([b.targets for b in batches]).tolist(),
        strict=True,
    )


@pytest.mark.parametrize("length", [11, 12])
def test_copy(length):
    for tokens, targets in items(task="copy", sequence_length=length, symbols=9):
        half = (length - 1) // 2
        text = tokens[-half:]
        assert tokens[-2 * half - 1 :] == [*text, 0, *text]
        assert 0 not in text
        scored = [t for t in targets if t != NO_TARGET]
        assert scored == text
        assert targets[-half - 1 : -1] == text  # each is asked where its predecessor is read


def test_induction():
    seen = set()
    for tokens, targets in items(task="induction", sequence_length=12, symbols=9):
        first = tokens.index(0)
        seen.add(first)
        assert [i for i, t in enumerate(tokens) if t == 0] == [first, 11]
        assert targets == [NO_TARGET] * 11 + [tokens[first + 1]]
    assert len(seen) > 5


def test_recall():
    for tokens, targets in items(task="recall", sequence_length=40, symbols=17, pairs=5, gap=12):
        told = tokens[8:18]
        values = dict(zip(told[::2], told[1::2], strict=True))
        assert len(values) == 5
        assert all(1 <= k < 9 <= v < 17 for k, v in values.items())
        assert tokens[:8] + tokens[18:30] == [0] * 20
        assert sorted(tokens[30::2]) == sorted(values)
        assert [targets[i] for i in range(30, 40, 2)] == [values[k] for k in tokens[30::2]]
        assert sum(t != NO_TARGET for t in targets) == 5


def test_splits_differ_and_items_do_not_depend_on_the_batch():
    small, large = (Synthetic(batch_size=b, val_items=20, items=100) for b in (4, 10))
    one, two = (torch.cat([b.tokens for b in d.val_dataloader()]) for d in (small, large))
    assert torch.equal(one, two)
    test = torch.cat([b.tokens for b in small.test_dataloader()])
    assert not torch.equal(one, test)


@pytest.mark.parametrize("symbols", [8, 9])
@pytest.mark.parametrize("task", ["copy", "induction", "recall"])
def test_a_guess_is_among_as_many_symbols_as_are_ever_asked_for(task, symbols):
    asked = {"task": task, "sequence_length": 24, "symbols": symbols, "pairs": 2}
    targets = {t for _, row in items(**asked) for t in row if t != NO_TARGET}
    assert len(targets) == Synthetic(**asked).answers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sort"}, "--data.task='sort'"),
        ({"sequence_length": 15}, "needs at least 16"),
        ({"symbols": 8}, "--data.symbols=8"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Synthetic(**options)
