"""A run that something outside ends: a dead data worker, a vanished file, a killed process."""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.strategies.launchers import subprocess_script
from lightning.pytorch import Trainer
from torch.multiprocessing.spawn import ProcessException

_WORKER = re.compile(r"DataLoader worker \(pid.*?(\d[\d, ]*)\)")
_PEER = re.compile(r"closed by peer|reset by peer|Broken pipe|gloo|ncclRemoteError|ProcessGroup")
_IN_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process.*\n(\w*Error: .*)", re.S)


class RunFailedError(RuntimeError):
    """The run ended early and what was saved is good; an empty message where another one tells."""


@contextmanager
def told_in_one_line(trainer: Trainer, start: int) -> Iterator[None]:
    """Makes such an end of a fit a `RunFailedError`, whose message is one line.

    Args:
        trainer: The Trainer.
        start: Optimiser steps when the fit began: before its first step a missing file is the
            user's mistake, and stays what it is.
    """
    subprocess_script._ChildProcessObserver._terminate_all = _end_all  # type: ignore[assignment]
    try:
        yield
    except (OSError, RuntimeError, ProcessException) as error:
        what = _what(error, trainer, begun=trainer.global_step > start)
        if what is None:
            raise
        last = Path(trainer.default_root_dir, "checkpoints", "last.ckpt")
        then = f"; {last} is as it was: go on with --ckpt_path last" if last.is_file() else ""
        raise RunFailedError(what and what + then) from error


def _what(error: Exception, trainer: Trainer, *, begun: bool) -> str | None:
    text = str(error)
    if isinstance(error, ProcessException):
        return f"a process of the run ended: {text.strip().splitlines()[-1]}"
    if worker := _WORKER.search(text):
        why = text.splitlines()[0].partition(") ")[2].rstrip(". ")
        return (
            f"a data worker (process {worker[1]}) {why or 'died'}: often memory ran out, which "
            "fewer --data.num_workers or a smaller batch may save"
        )
    if isinstance(error, OSError) and begun:
        inside = _IN_WORKER.search(text)
        where = f": {error.filename}" if error.filename else ""
        return inside[2].strip() if inside else f"{error.strerror or text}{where}"
    if trainer.world_size > 1 and _PEER.search(text):
        return _who_ended(trainer)
    return None


def _who_ended(trainer: Trainer) -> str:
    """The process that was killed; nothing where one has told its own error."""
    if trainer.local_rank:
        return ""
    children: list[Any] = getattr(trainer.strategy.launcher, "procs", [])
    end = time.monotonic() + 2
    while time.monotonic() < end:
        for rank, child in enumerate(children, 1):
            if child.poll():
                return _ended(rank, child.returncode) if child.returncode < 0 else ""
        time.sleep(0.05)
    return "another process of the run ended"


def _ended(rank: int, code: int) -> str:
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit {code}"
    return f"process {rank} of the run {how}"


def _end_all(observer: Any) -> None:
    """Ends the run where a child has ended; Lightning's own way out is SIGKILL for all."""
    time.sleep(3)  # the main process may have noticed, and tells it
    codes = [(rank, p.poll()) for rank, p in enumerate(observer._child_processes, 1)]
    for child in observer._child_processes:
        child.kill()
    rank, code = next((rank, code) for rank, code in codes if code)
    if code < 0:
        sys.stderr.write(f"zoo: error: {_ended(rank, code)}; go on with --ckpt_path last\n")
    sys.stderr.flush()
    os._exit(1)
