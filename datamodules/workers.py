"""Processes that read pieces of data, in order and a few ahead."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, forkserver, get_context, parent_process
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
Piece = TypeVar("Piece")
How = TypeVar("How")
_KILLED = (
    "a process that reads the data was killed, perhaps for its memory: the same command goes on "
    "where it was; --processes 1 takes the least"
)


def cores() -> int:
    """How many processes this one's cores are for."""
    return len(os.sched_getaffinity(0))


def _begin_worker() -> None:
    """A worker leaves Ctrl-C to its parent, and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])  # type: ignore[union-attr]
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What starts here leaves Ctrl-C to this process, and shows no traceback while it imports."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Pool:
    """Processes that work on pieces, begun with the first; of one, this process itself."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[[Piece, How], T], pieces: Iterable[Piece], how: How
    ) -> Iterator[T]:
        """What the function makes of each piece, in order, a few pieces ahead."""
        if self.processes == 1:
            yield from (function(piece, how) for piece in pieces)
            return
        waiting: deque[Future[T]] = deque()
        source = iter(pieces)
        try:
            while True:
                for piece in islice(source, 2 * self.processes - len(waiting)):
                    waiting.append(self._submit(function, piece, how))
                if not waiting:
                    return
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise ValueError(_KILLED) from error

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a process makes of these arguments."""
        if self.processes == 1:
            return function(*arguments)
        try:
            return self._submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise ValueError(_KILLED) from error

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        if self._pool is None:
            # Not forked from this process, whose threads may hold locks.
            context = get_context("forkserver")
            context.set_forkserver_preload([function.__module__])
            with _deaf_to_interrupts():
                forkserver.ensure_running()
            self._pool = ProcessPoolExecutor(self.processes, context, initializer=_begin_worker)
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # else each process runs a script anew
        try:
            return self._pool.submit(function, *arguments)
        finally:
            sys.modules["__main__"] = main
