"""Ctrl-C and SIGTERM as a request to stop: a training after its step, all else at once."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer

from zoo.training.log import log_interval

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """Training was asked to stop; not an error, so `except Exception` must not swallow it.

    Args:
        signum: The signal, or None where another process got it.
        saved: What was saved, for the user.
    """

    def __init__(self, signum: int | None, saved: str = "") -> None:
        self.signum = signum or signal.SIGTERM
        self.saved = saved
        super().__init__(saved)

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signum


class StopRequest:
    """Remembers that a signal came; a second one stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._at_once = False
        self._previous: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:  # handlers do not travel to spawned processes
        return {"signal": None, "_at_once": False, "_previous": {}}

    def install(self, *, at_once: bool = False) -> None:
        """Takes the signals over, if this thread may.

        Args:
            at_once: Already the first one stops at once. Lightning, left to itself, notes a SIGTERM
                and looks after each batch, of a prediction and behind the last of a test never.
        """
        self.signal, self._at_once = None, at_once
        if threading.current_thread() is threading.main_thread() and not self._previous:
            self._previous = {s: signal.signal(s, self._receive) for s in _SIGNALS}

    def remove(self) -> None:
        """Restores the handlers that were there before."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._at_once or self.signal is not None:
            raise Stopped(number)
        self.signal = number
        if os.environ.get("LOCAL_RANK", "0") == "0":
            sys.stderr.write("\nstopping after this step; once more to stop at once\n")

    def agreed(self, trainer: Trainer, *, now: bool = False) -> bool:
        """Whether any process was asked to stop; all ranks get the same answer.

        One process answers for itself. More must talk, which they do on logging steps only.

        Args:
            trainer: The running trainer.
            now: All ranks are here, so ask whatever the step.
        """
        if trainer.world_size == 1:
            return self.signal is not None
        if not now and trainer.global_step % log_interval(trainer):
            return False
        return trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False)
