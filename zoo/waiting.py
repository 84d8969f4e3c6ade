"""Waits that are not silent: a bar with an estimate in a terminal, else a line if one is long."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

from zoo.processes import rank

T = TypeVar("T")
_SHORT = 1.0  # seconds that a terminal shows nothing of
_LONG = 5.0  # and a file
_silent = ContextVar("silent", default=False)


class Bar(tqdm):
    """What is done of what is to do; of the first process of several.

    What ends within a second is shown nowhere. Where stderr is no terminal, a wait of over five
    seconds says so once, with an estimate as soon as there is one, and once at its end.

    >>> with Bar("tokenise", 3, "texts") as bar:
    ...     bar.update(3)
    >>> bar.n
    3

    Args:
        what: What is done.
        total: How much there is; none if nobody knows.
        unit: What of.
        done: How much is done already.
        shown: Whether to show it at all.
    """

    def __init__(
        self, what: str, total: int | None, unit: str = "items", done: int = 0, shown: bool = True
    ) -> None:
        self._begun, self._told, self._estimated = time.monotonic(), False, False
        self._first: tuple[float, float] | None = None  # when the first were done, and how many
        self._what, self._unit, self._speaks = what, unit, shown and _speaks()
        super().__init__(
            desc=what,
            total=total,
            initial=done,
            unit="B" if unit == "B" else f" {unit}",
            unit_scale=True,
            disable=not self._speaks or not sys.stderr.isatty(),
            delay=_SHORT,
            leave=False,
            dynamic_ncols=True,
        )

    def update(self, n: float | None = 1) -> bool | None:
        """Says that n more are done."""
        shown = super().update(n)
        if self.disable:
            self.n += n or 0
            if self._speaks and not self._estimated:
                self._tell(time.monotonic())
        return shown

    def _tell(self, now: float) -> None:
        """Says how much is done, if the wait is long, and what is left once there is a rate."""
        began, done = self._first = self._first or (now, self.n)  # a start has a pace of its own
        timed = self.n > done and now - began >= _SHORT
        self._estimated = timed and now - self._begun > _LONG
        if self._estimated and self.total and self.n < self.total:
            left = (self.total - self.n) * (now - began) / (self.n - done)
            self._say(f"{self._done()}, about {duration(left)} more")
        elif not self._told and now - self._begun > _LONG:
            self._say(self._done())

    def close(self) -> None:
        """Ends it."""
        super().close()
        if self._told:
            self._say(f"{self._done()} in {duration(time.monotonic() - self._begun)}")
            self._told = False

    def _done(self) -> str:
        whole = f" of {self.total:,}" if self.total and self.n < self.total else ""
        return f"{self.n:,}{whole} {self._unit}"

    def _say(self, text: str) -> None:
        self._told = True
        print(f"{self._what}: {text}", file=sys.stderr, flush=True)


def waiting(
    items: Iterable[T], what: str, total: int | None = None, unit: str = "items"
) -> Iterator[T]:
    """The items, while a `Bar` shows how many have gone by.

    >>> sum(waiting([1, 2, 3], "count"))
    6
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with Bar(what, total, unit) as bar:
        for item in items:
            yield item
            bar.update()


@contextmanager
def unmeasured(what: str, usual: str = "") -> Iterator[None]:
    """Says that something goes on whose end nobody knows, once it is long, and when it is over.

    Args:
        what: What is done, such as "compiling".
        usual: How long it takes elsewhere, in words.
    """
    begun, told = time.monotonic(), threading.Event()

    def tell() -> None:
        told.set()
        print(f"{what}{usual and f', {usual}'} ...", file=sys.stderr, flush=True)

    timer = threading.Timer(_SHORT if sys.stderr.isatty() else _LONG, tell)
    timer.daemon = True
    if _speaks():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if told.is_set():
        print(f"{what}: {duration(time.monotonic() - begun)}", file=sys.stderr, flush=True)


@contextmanager
def silent() -> Iterator[None]:
    """Shows no wait of the block: what is done in it again and again has a bar of its own."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def _speaks() -> bool:
    return rank() == 0 and not _silent.get()


def duration(seconds: float) -> str:
    """Such as 40 seconds, 12 minutes, 3.2 hours or 12 days."""
    if seconds < 100:
        whole = round(seconds)
        return f"{whole} second{'s' * (whole != 1)}"
    if seconds < 6000:
        return f"{seconds / 60:.0f} minutes"
    hours = seconds / 3600
    return f"{hours:.2g} hours" if hours < 48 else f"{hours / 24:,.0f} days"
