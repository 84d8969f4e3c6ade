import pytest
import torch

from zoo.vae.annealing import BetaSchedule, free_bits


def test_beta_rises_in_a_line():
    schedule = BetaSchedule(beta=2.0, start=0.5, warmup_steps=4)
    assert [schedule(s) for s in range(7)] == pytest.approx([0.5, 0.875, 1.25, 1.625, 2, 2, 2])
    assert BetaSchedule()(0) == 1.0


def test_beta_rises_again_in_every_cycle_and_stays():
    schedule = BetaSchedule(warmup_steps=2, cycle_steps=3, cycles=2)
    assert [schedule(s) for s in range(9)] == [0, 0.5, 1, 0, 0.5, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta=-1.0"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"warmup_steps": 5, "cycle_steps": 4}, "longer than cycle_steps=4"),
    ],
)
def test_impossible_schedules_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        BetaSchedule(**options)


def test_free_bits_floor_the_batch_mean_of_each_dimension():
    kl = torch.tensor([[0.0, 1.0, 0.3], [0.2, 3.0, 0.9]], requires_grad=True)
    torch.testing.assert_close(free_bits(kl, 0.5), torch.tensor(0.5 + 2.0 + 0.6))
    torch.testing.assert_close(free_bits(kl, 0.0), kl.mean(0).sum())
    (gradient,) = torch.autograd.grad(free_bits(kl, 0.5), kl)
    # The first dimension is below its floor, the others are above.
    torch.testing.assert_close(gradient, torch.tensor([[0, 0.5, 0.5]] * 2))
