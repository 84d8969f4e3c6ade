"""The fastest of several settings in little time: successive halving, taking turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import median

from zoo.tuning.settings import Setting

MARGIN = 1.05  # a setting that is not clearly faster than the default is not chosen
_TURNS, _ENOUGH = 3, 7  # comparisons with the default that a choice needs, and that are plenty
_FEWER = 1.1  # half the threads are followed as long as they take no longer than so many times


class OffError(Exception):
    """A setting's numbers are off, or it does not run; the message says how."""


@dataclass
class Trial:
    """What was measured of a setting: its median time of each turn, in seconds."""

    setting: Setting
    times: dict[int, float] = field(default_factory=dict)
    wall: float = 0.0
    left_out: str = ""

    def ratios(self, default: "Trial") -> list[float]:
        """How many times the default's speed, for each turn that both had."""
        common = sorted(self.times.keys() & default.times.keys())
        return [default.times[turn] / self.times[turn] for turn in common]

    def speed(self, default: "Trial") -> float:
        """The median of these; 0 where there are none."""
        return median(self.ratios(default) or [0.0])


def halve(
    default: Setting,
    others: Sequence[Setting],
    visit: Callable[[Setting], float],
    seconds: float,
    *,
    fewer_threads: bool = True,
    told: Callable[[Setting], None] = lambda setting: None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Trials of all settings, the default's first, then the best.

    In each turn the default and all that are left are visited one after the other, so that what
    else the machine does meets all of them. After it the better half stays; when these have as many
    turns as a choice needs, half the threads, a quarter and so on join for those that stay, as long
    as it pays. No setting is visited that would end after the time, as far as its own last visit
    can tell.

    Args:
        default: What is done today.
        others: Settings to compare with it.
        visit: Median seconds of a few repetitions of the work; raises `OffError`.
        seconds: Time for all of it.
        fewer_threads: Try fewer threads than the default's, too.
        told: Called with each setting before it is visited.
        clock: Of seconds.
    """
    begun = clock()
    first = Trial(default)
    trials = [first, *map(Trial, others)]
    left = trials[1:]

    def run(trial: Trial, turn: int, guess: float) -> bool:
        """Visits a setting; False where there is no time."""
        started = clock()
        if started - begun + (trial.wall or guess) > seconds and first.times:
            return False
        told(trial.setting)
        try:
            trial.times[turn] = visit(trial.setting)
        except OffError as error:
            trial.left_out = str(error)
        trial.wall = clock() - started
        return True

    def descend(trial: Trial, turn: int) -> None:
        """Fewer threads of a setting, in a turn that it had."""
        while (count := trial.setting.threads // 2) and not trial.left_out:
            fewer = Trial(replace(trial.setting, threads=count))
            if turn not in trial.times or not run(fewer, turn, 4 * trial.wall):
                return
            trials.append(fewer)
            left.append(fewer)
            if fewer.left_out or fewer.times[turn] > _FEWER * trial.times[turn]:
                return
            trial = fewer

    turn, in_time = 0, True
    while in_time and turn < _ENOUGH and (left or (fewer_threads and turn < _TURNS)):
        in_time = run(first, turn, 0.0)
        if first.left_out:
            raise ValueError(f"the default does not run: {first.left_out}")
        for trial in list(left):
            in_time = in_time and run(trial, turn, 2 * first.wall)
        if turn == _TURNS - 1 and fewer_threads:
            for trial in [*left, first]:
                descend(trial, turn)
        left = [trial for trial in left if turn in trial.times]
        left = sorted(left, key=lambda trial: -trial.speed(first))[: ceil(len(left) / 2)]
        turn += 1
        if turn >= _TURNS:
            left = [trial for trial in left if trial.speed(first) > 1]
    return [first, *sorted(trials[1:], key=lambda trial: -trial.speed(first))]


def best(trials: Sequence[Trial]) -> Trial:
    """The fastest that is clearly faster than the default, or the default, which wins ties.

    Clearly: by `MARGIN` in the median of enough turns, and not slower in more than a quarter.
    """
    first, *rest = trials

    def clear(trial: Trial) -> bool:
        ratios = trial.ratios(first)
        slower = sum(ratio < 1 for ratio in ratios)
        enough = len(ratios) >= _TURNS and 4 * slower <= len(ratios)
        return enough and not trial.left_out and median(ratios) >= MARGIN

    return max(filter(clear, rest), key=lambda trial: trial.speed(first), default=first)
