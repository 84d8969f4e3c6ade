"""`zoo`, with a signal at a chosen place: python worker.py ARGUMENTS, the place in $KILL_PLAN."""

import json
import os
import signal
import sys
from pathlib import Path


def arm(plan):
    """Sends `signal` at the `count`-th time that the run comes by `place`.

    Args:
        plan: Keys place, count, signal (a name), and marker: a file that is made just before.
    """
    import torch

    from zoo.training import EMA, AtomicCheckpointIO, MetricsCSV, StepRNG
    from zoo.training.checkpoint import Checkpoint

    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    passed = 0

    def here():
        nonlocal passed
        passed += 1
        return passed == plan["count"]

    def strike():
        Path(plan["marker"]).touch()
        number = getattr(signal, plan["signal"])
        if number == signal.SIGTERM:
            os.kill(os.getpid(), number)
        else:  # Ctrl-C goes to all processes of the terminal, and SIGKILL shall leave no rank
            os.killpg(os.getpgrp(), number)

    def before(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            if here():
                strike()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    def half_written(owner, name):
        original = getattr(owner, name)

        def wrapped(checkpoint, file, **kwargs):
            # PyTorch sends tensors to other processes by the same function, with a keyword.
            if not kwargs and here():
                if plan["signal"] == "SIGKILL":
                    file.write(b"half of a checkpoint")
                    file.flush()
                strike()
            return original(checkpoint, file, **kwargs)

        setattr(owner, name, wrapped)

    def after(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            result = original(*args, **kwargs)
            if here():
                strike()
            return result

        setattr(owner, name, wrapped)

    place = plan["place"]
    if place == "writing":
        half_written(torch, "save")
    else:
        wrap, owner, name = {
            "batch": (before, StepRNG, "on_train_batch_start"),
            "step": (after, EMA, "on_train_batch_end"),
            "validation": (after, EMA, "on_validation_start"),
            "validated": (before, EMA, "on_validation_end"),
            "epoch end": (before, StepRNG, "on_train_epoch_end"),
            "one name given": (after, AtomicCheckpointIO, "save_checkpoint"),
            "saved": (after, Checkpoint, "save_last"),
            "row": (after, MetricsCSV, "_write_row"),
        }[place]
        wrap(owner, name)


def main(arguments):
    from zoo.cli import main as zoo

    if plan := os.environ.get("KILL_PLAN"):
        arm(json.loads(plan))
    return zoo(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
