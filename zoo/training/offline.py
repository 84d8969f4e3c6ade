"""One history of a W&B run that was killed and goes on, of the files that `wandb sync` sends."""

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger

_HEADER, _BLOCK = 7, 32768  # of LevelDB's log, which a .wandb file is after 7 bytes of its own
_WHOLE, _FIRST, _LAST = 1, 2, 4
_TAIL = 64  # blocks in which the last row is looked for


def rows_written(logger: WandbLogger, patience: float = 2.0) -> int:
    """How many rows the history has; waits until they are in the file, but not for ever."""
    run = logger.experiment
    count, end = int(run.step), time.monotonic() + patience
    if run.offline:
        file = Path(run.dir).parent / f"run-{run.id}.wandb"
        while _last(file) < count - 1 and time.monotonic() < end:
            time.sleep(0.02)
    return count


def _last(file: Path) -> int:
    if not file.is_file():  # yet
        return -1
    return max((number for _, number in _rows(file, _TAIL)), default=-1)


def go_on_at(logger: WandbLogger, row: int) -> None:
    """Makes `row` the number of the next row of the history.

    Rows of an earlier part that are not behind it, logged after the checkpoint, leave its file, if
    that was not sent yet: they are logged again.

    Args:
        logger: Of the run, which goes on.
        row: How many rows the history had at the checkpoint.
    """
    run = logger.experiment
    if not run.offline:  # the server numbers the rows
        return
    own = Path(run.dir).parent
    for file in own.parent.glob(f"offline-run-*-{run.id}/*.wandb"):
        if file.parent != own and not Path(f"{file}.synced").exists():
            cut(file, row)
    run.log({}, step=row, commit=False)


def cut(file: Path, row: int) -> None:
    """Ends a .wandb file before its first history row whose number is `row` or more."""
    for start, number in _rows(file):
        if number >= row:
            os.truncate(file, start)
            return


def _rows(file: Path, tail: int | None = None) -> Iterator[tuple[int, int]]:
    """Where history rows begin, and their numbers; of the last `tail` blocks alone if given."""
    from wandb.proto.wandb_internal_pb2 import Record

    size = file.stat().st_size
    first = 0 if tail is None else max(0, size // _BLOCK - tail) * _BLOCK
    with file.open("rb") as opened:
        opened.seek(first)
        data = opened.read()
    for start, content in records(data, 0 if first else _HEADER):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") == "history":
            yield first + start, record.history.step.num


def records(data: bytes, position: int = _HEADER) -> Iterator[tuple[int, bytes]]:
    """Where each record of a .wandb file begins, and what it is; one that was cut off ends it.

    Args:
        data: The file, or its end from a block on.
        position: Where to begin, in a file after its header; a record's later part is passed over.
    """
    start, content = -1, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        end = position + _HEADER + size
        if kind == 0 or end > len(data):
            return
        if kind in (_WHOLE, _FIRST):
            start, content = position, b""
        content += data[position + _HEADER : end]
        position = end
        if kind in (_WHOLE, _LAST) and start >= 0:
            yield start, content
