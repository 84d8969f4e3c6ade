"""What a command would need is told before it is taken."""

import pytest
import torch

import zoo.memory
from zoo.memory import bytes_an_item, check_items


def work(items):
    """Holds 4,000 and 400 bytes an item at once, and then 800; 4,000,000 whatever there are."""
    table = torch.zeros(1_000_000)
    first = torch.ones(items, 1000)
    second = first[:, :100] + table[0]
    view = first.view(-1)
    del first, view
    return torch.cat([second, second])


def test_an_item_takes_what_is_held_together_at_the_most():
    assert bytes_an_item(work) == 4_400


def test_more_items_than_the_memory_holds_are_refused(monkeypatch):
    monkeypatch.setattr(zoo.memory, "free_memory", lambda: 5_000_000)
    check_items("--batch_size=1000", 1000, work)
    with pytest.raises(ValueError, match=r"--batch_size=2000: needs about 0\.0 GB of memory"):
        check_items("--batch_size=2000", 2000, work)
    check_items("--batch_size=256", 256, lambda _: pytest.fail("few are not tried"))


def test_a_batch_of_samples_that_the_memory_does_not_hold(mistake, monkeypatch):
    monkeypatch.setattr(zoo.memory, "free_memory", lambda: 200_000_000)  # which holds their grid
    for name in ("ddpm/digits", "wgan/mnist-gn"):
        line = mistake("sample", name, "-n", 5000, "--batch_size", 10_000, "--out", "a.png")
        assert "--batch_size=10000: needs about" in line
