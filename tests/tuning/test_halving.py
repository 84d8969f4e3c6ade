"""Successive halving under a fake clock: what is visited, what is chosen, and when it ends."""

import pytest

from zoo.tuning.halving import OffError, Trial, best, halve
from zoo.tuning.settings import Setting, alternatives

DEFAULT = Setting("32-true", 4, True)


class Machine:
    """A clock, and a visit that moves it: a warm-up and a step of each setting's seconds."""

    def __init__(self, seconds, noise=()):
        self.seconds, self.noise = seconds, list(noise)
        self.now, self.visited = 100.0, []

    def clock(self):
        return self.now

    def visit(self, setting):
        self.visited.append(setting)
        seconds = self.seconds(setting)
        if seconds is None:
            self.now += 1.0
            raise OffError("numbers off by 9.0%")
        factor = self.noise.pop(0) if self.noise else 1.0
        self.now += 2 * seconds * factor
        return seconds * factor

    def search(self, seconds=1000.0, others=None, **options):
        others = alternatives(DEFAULT, ("bf16-mixed",)) if others is None else others
        return halve(DEFAULT, others, self.visit, seconds, clock=self.clock, **options)


def test_alternatives_are_the_product_without_the_default():
    found = alternatives(DEFAULT, ("32-true", "bf16-mixed"))
    assert set(found) == {
        Setting("32-true", 4, False), Setting("bf16-mixed", 4, True),
        Setting("bf16-mixed", 4, False),
    }  # fmt: skip
    assert alternatives(Setting("32-true", 1), ("32-true",)) == []
    assert len(alternatives(Setting("32-true", 1, True, False), ("bf16-mixed",), compile=True)) == 7
    fixed = alternatives(DEFAULT, ("bf16-mixed",), fixed={"channels_last"})
    assert fixed == [Setting("bf16-mixed", 4, True)]


def amx(setting):
    """Seconds where bf16 is fast, contiguous memory faster, and threads help by halves."""
    seconds = 1.0 if setting.precision == "32-true" else 0.4
    return seconds * (1.0 if setting.channels_last else 0.9) * (4 / setting.threads) ** 0.5


def test_the_fastest_is_found_and_its_speed():
    machine = Machine(amx)
    trials = machine.search()
    chosen = best(trials)
    assert chosen.setting == Setting("bf16-mixed", 4, False)
    assert chosen.speed(trials[0]) == pytest.approx(1 / 0.36)
    assert len(chosen.times) >= 3


def test_the_worse_half_goes_after_each_turn():
    machine = Machine(amx)
    machine.search(fewer_threads=False)
    assert [machine.visited.count(s) for s in alternatives(DEFAULT, ("bf16-mixed",))] == [1, 2, 7]


def test_fewer_threads_are_followed_while_they_pay():
    machine = Machine(lambda s: {4: 1.0, 2: 0.5, 1: 0.9}[s.threads])
    trials = machine.search(others=[])
    assert best(trials).setting.threads == 2
    machine = Machine(amx)  # half the threads take 1.41 times as long: no quarter is tried
    machine.search()
    assert min(s.threads for s in machine.visited) == 2


def test_fewer_threads_wait_until_a_choice_can_be_made():
    # Steps of seconds: where fewer threads came first, there was time for two turns, and no choice.
    machine = Machine(lambda s: 3.6 * (2 - (s.precision != "32-true")) * 4 / s.threads)
    trials = machine.search(100.0)
    assert best(trials).setting.precision == "bf16-mixed"
    fewer = [i for i, s in enumerate(machine.visited) if s.threads < 4]
    assert machine.visited[: fewer[0] if fewer else None].count(best(trials).setting) == 3


def test_the_default_wins_ties():
    machine = Machine(lambda s: 1.0 if s == DEFAULT else 0.97)
    assert best(machine.search()).setting == DEFAULT
    slow = Machine(lambda s: 1.0 if s == DEFAULT else 6.0)
    assert best(slow.search()).setting == DEFAULT


def test_one_lucky_timing_chooses_nothing():
    lucky = Trial(Setting("bf16-mixed", 4, True), {0: 0.1, 1: 1.1, 2: 1.1})
    first = Trial(DEFAULT, {0: 1.0, 1: 1.0, 2: 1.0})
    assert best([first, lucky]) is first
    twice = Trial(Setting("bf16-mixed", 4, True), {0: 0.5, 1: 0.5})  # too few turns
    assert best([first, twice]) is first
    mixed = Trial(Setting("bf16-mixed", 4, True), {0: 0.5, 1: 0.5, 2: 1.1})  # slower in a third
    assert best([first, mixed]) is first


def test_what_is_off_or_does_not_run_is_never_chosen():
    machine = Machine(lambda s: None if s.precision == "bf16-mixed" else amx(s))
    trials = machine.search()
    assert best(trials).setting == Setting("32-true", 4, False)
    off = [trial for trial in trials if trial.left_out]
    assert {trial.setting.precision for trial in off} == {"bf16-mixed"}
    assert all(machine.visited.count(trial.setting) == 1 for trial in off)


@pytest.mark.parametrize("seconds", [1.0, 5.0, 12.0, 30.0])
def test_it_ends_in_time(seconds):
    machine = Machine(amx)
    trials = machine.search(seconds)
    assert machine.now - 100 <= max(seconds, 2.0)  # the default is visited in any case
    assert trials[0].setting == DEFAULT


def test_a_machine_that_is_busy_for_a_while_meets_all():
    noise = [1.0] * 4 + [10.0] * 3 + [1.0] * 30  # the second turn takes ten times as long
    machine = Machine(amx, noise)
    trials = machine.search(fewer_threads=False)
    assert best(trials).speed(trials[0]) == pytest.approx(1 / 0.36)
