"""Order as a function of (seed, epoch), starting inside an epoch, and exact shards."""

from contextlib import nullcontext
from itertools import chain
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from zoo.data import (
    Digits,
    LabelledPairs,
    MaskedSentences,
    Sentences,
    SimilarGroups,
    Text,
    TextLines,
)
from zoo.data.loader import EpochLoader, EpochSampler, epoch_loader


class Items:
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices: list[int]) -> list[int]:
        return indices


def loader(size: int = 23, batch_size: int = 4, train: bool = True, **kwargs: int) -> EpochLoader:
    return epoch_loader(Items(size), batch_size, train=train, **kwargs)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_out_every_item_once(world_size: int) -> None:
    for train in (True, False):
        samplers = [
            EpochSampler(23, rank=r, world_size=world_size, train=train) for r in range(world_size)
        ]
        shares = [list(s) for s in samplers]
        assert [len(s) for s in samplers] == [len(share) for share in shares]
        together = [i for share in shares for i in share]
        assert len(set(together)) == len(together)
        assert len(together) == (23 // world_size * world_size if train else 23)


def test_the_global_batch_does_not_depend_on_the_number_of_processes() -> None:
    one = list(loader(24, 4))
    two = [list(loader(24, 2, rank=r, world_size=2)) for r in range(2)]
    for whole, *parts in zip(one, *two, strict=True):
        assert sorted(whole) == sorted(parts[0] + parts[1])


@pytest.mark.parametrize(("batch_size", "processes"), [(2, 1), (6, 1), (6, 2), (3, 2)])
def test_other_batches_go_on_behind_the_same_items(batch_size: int, processes: int) -> None:
    """Of 48 items 12 are done, in 3 batches of 4."""
    first = loader(48, 4)
    iterator = iter(first)
    seen = [item for _ in range(3) for item in next(iterator)]
    rest: list[int] = []
    for rank in range(processes):
        resumed = loader(48, batch_size, rank=rank, world_size=processes)
        resumed.load_state_dict(first.state_dict())
        batches = list(resumed)
        assert {len(batch) for batch in batches} == {batch_size}
        rest += [item for batch in batches for item in batch]
    assert sorted(seen + rest) == list(range(48))


def test_where_no_whole_batch_is_left_the_epoch_starts_anew() -> None:
    first = loader(23, 4)
    iterator = iter(first)
    for _ in range(4):
        next(iterator)
    resumed = loader(23, 10)
    resumed.load_state_dict(first.state_dict())
    assert len(list(resumed)) == 2


def test_resuming_inside_an_epoch_gives_the_rest_of_it() -> None:
    whole = loader()
    whole.sampler.set_epoch(3)
    batches = list(whole)
    for done in range(len(batches)):
        first = loader()
        first.sampler.set_epoch(3)
        iterator = iter(first)
        for _ in range(done):
            next(iterator)
        resumed = loader()
        resumed.load_state_dict(first.state_dict())
        resumed.sampler.set_epoch(3)
        assert list(resumed) == batches[done:]
        assert resumed.state_dict() == {"batches": 0, "items": 0}
        assert list(resumed) == batches  # the next epoch starts at its beginning


def test_order_depends_on_seed_and_epoch_and_not_on_the_global_generator() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        a = loader(seed=seed)
        a.sampler.set_epoch(epoch)
        return [i for batch in a for i in batch]

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = order(0, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert order(0, 0) == first
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9


def test_a_batch_beyond_the_share_of_a_process_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of 12 on each of 2 .*--data.batch_size to 11"):
        loader(23, 12, world_size=2)


def test_a_batch_that_is_too_large_comes_with_the_advice_of_who_made_it() -> None:
    with pytest.raises(ValueError, match=r"training set of 7 items: lower --data.batch_size to 3"):
        epoch_loader(list(range(7)), 4, train=True, world_size=2)
    with pytest.raises(ValueError, match="training set of 7 items: at most 7"):
        epoch_loader(list(range(7)), 8, train=True, advice="at most {}".format)
    with pytest.raises(ValueError, match="set of 1 items: there must be one for each process"):
        epoch_loader([0], 1, train=True, world_size=2)


@pytest.mark.parametrize("limit", [1, 2, 9])
@pytest.mark.parametrize(
    "make", [Digits, Text, TextLines, MaskedSentences, SimilarGroups, LabelledPairs, Sentences]
)
def test_a_limit_that_leaves_too_few_items_is_named(make: Any, limit: int) -> None:
    data = make(limit=limit)

    def start() -> None:
        data.setup("fit")
        data.train_dataloader()

    with pytest.raises(ValueError, match=f"raise --data.limit={limit}\\b") as mistake:
        start()
    assert "give more" not in str(mistake.value)


def test_a_limit_that_leaves_all_is_not_named() -> None:
    data = Digits(limit=2000, batch_size=2001)
    with pytest.raises(ValueError, match=r"of 1257 items: lower --data.batch_size to 1257"):
        data.train_dataloader()


def test_a_limit_is_named_where_a_model_takes_several_batches() -> None:
    with pytest.raises(ValueError, match=r"raise --data.limit=2 to 8 or more$"):
        epoch_loader([0, 1], 8, train=True, limit=2, advice=lambda most: "give more images")


def test_a_loader_of_a_script_serves_predict_too() -> None:
    """Lightning 2.6 takes a loader apart for predict, and builds it without its sampler."""

    class Repeat(LightningModule):
        def predict_step(self, batch: list[int], batch_idx: int) -> list[int]:
            return batch

    class Missing(LightningDataModule):
        def predict_dataloader(self) -> Any:
            raise FileNotFoundError

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", **quiet)
    for train in (False, True):
        with pytest.raises(FileNotFoundError) if train else nullcontext():
            if train:  # after which Lightning's own notes stay on every loader
                trainer.predict(Repeat(), Missing())
        given = loader(train=train)
        expected = [list(batch) for batch in loader(train=train)]
        found = trainer.predict(Repeat(), given)
        assert found is not None
        assert found[: len(expected)] == expected
        assert sorted(chain.from_iterable(found)) == list(range(23))  # also what training drops
        assert list(given) == expected
