"""One output made by several processes, or by one that may be stopped: parts, joined in order."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from zoo.files import replacing
from zoo.training.distributed import place, wait_for_all
from zoo.untrusted import sha256
from zoo.version import zoo_version
from zoo.waiting import Bar

T = TypeVar("T")


@contextmanager
def in_parts(
    out: str | Path | None, make: Callable[[int, int], T], count: int, size: int, options: Any
) -> Iterator[Iterator[T]]:
    """What `make(start, stop)` gives for `count` items, `size` at a time and in order.

    Under torchrun or srun part i is made by process i modulo their number; then the first process
    gets all of them, and the others end here. Which items are together does not depend on the
    processes, so that their number changes nothing. A part is written as soon as it is made, to a
    folder beside `out` that is removed when the block ends well; the same call takes it from there.

    Args:
        out: The file that is to be written; without one, or if it is no regular file, no parts are.
        make: Gives tensors, numbers, texts, and lists, tuples and dicts of them.
        count: Number of items.
        size: Items of a part.
        options: All that the result is a function of, by name; of files and folders that it names,
            what is in them counts.

    Raises:
        ValueError: There are several processes and no regular file to write.
    """
    rank, processes = place()
    starts = range(0, count, size)
    bounds = [(start, min(start + size, count)) for start in starts]
    regular = out is not None and (Path(out).is_file() or not os.path.lexists(out))
    if processes > 1 and not regular:
        raise ValueError(f"{processes} processes need a file to write: give one (now {out})")
    with Bar("done", count, shown=len(bounds) > 1) as bar:

        def made(start: int, stop: int) -> T:
            value = make(start, stop)
            bar.update(stop - start)
            return value

        if not regular or (processes == 1 and len(bounds) == 1):
            yield (made(*each) for each in bounds)
            return
        assert out is not None
        folder = Path(f"{os.path.realpath(out)}.{_digest(options)}.parts")
        paths = [folder / f"{start}-{stop}.pt" for start, stop in bounds]

        def parts() -> Iterator[T]:
            for path, each in list(zip(paths, bounds, strict=True))[rank::processes]:
                if (value := _read(path)) is None:
                    value = made(*each)
                    with replacing(path) as temporary:
                        torch.save(value, temporary)
                if processes == 1:
                    yield value
            if processes > 1:
                wait_for_all()
                if rank:
                    raise SystemExit(0)
                for path in paths:
                    if (value := _read(path)) is None:
                        raise ValueError(
                            f"{path} is missing: all processes must see the same files"
                        )
                    yield value

        yield parts()
        shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> Any:
    """A part; None if it is not there or cut off."""
    try:
        return torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError):
        return None


def _digest(options: dict[str, Any]) -> str:
    """Of the options, and of what is in the files and folders that they name."""
    found = hashlib.sha256(zoo_version().encode())
    for name, value in sorted(options.items()):
        for one in value if isinstance(value, list) else [value]:
            found.update(f"{name}={one!r}\n".encode())
        path = Path(value) if isinstance(value, str | Path) else None
        if path and path.is_file():
            found.update(sha256(path).encode())
        elif path and path.is_dir():
            for file in sorted(path.rglob("*")):
                if file.is_file():
                    stat = file.stat()
                    told = (str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns)
                    found.update(repr(told).encode())
    return found.hexdigest()[:16]
