"""Folders of prepared data: where they lie, whose they are, and who writes them."""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from zoo.files import replacing
from zoo.reading import decoded, parsed, read_bytes

INDEX, PROGRESS = "index.json", "progress.json"
_LOCK = ".lock"
_SETTLED = 2.0  # seconds after which a change of a file changes its times too


def user_cache() -> Path:
    """The zoo's folder in the user's cache, $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "zoo").expanduser()


def cache_folder() -> Path:
    """Where prepared data lie unless it is said: $ZOO_CACHE, or zoo in the user's cache."""
    own = os.environ.get("ZOO_CACHE")
    return Path(own).expanduser() if own else user_cache()


def key_of(made: Any) -> str:
    """A short hash of what something is made of."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def stamp(file: Path) -> list[int]:
    """What changes when a file does: its size, times and place on the disk."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def remembered(files: Sequence[Path], what: str, compute: Callable[[], str]) -> str:
    """A text that is a function of files, taken from the user's cache while they do not change.

    Args:
        files: The files.
        what: What is computed, in a word.
        compute: Gives it; what it raises is not remembered.
    """
    stamps = [stamp(file) for file in files]
    note = (
        cache_folder() / "remembered" / key_of([what, [os.path.abspath(f) for f in files], stamps])
    )
    with suppress(OSError, UnicodeDecodeError):
        return note.read_text("utf-8")
    found = compute()
    settled = time.time() - max(max(times[1:3]) for times in stamps) / 1e9 > _SETTLED
    if settled and stamps == [stamp(file) for file in files]:
        with suppress(OSError), replacing(note) as path:
            path.write_text(found, "utf-8")
    return found


def check_ours(out: Path, made: dict[str, Any], what: str, ours: str = "") -> None:
    """Refuses a folder that holds something else, or what was made otherwise.

    Args:
        out: The folder, which need not be there.
        made: What is to be made of what.
        what: What is prepared, in a word.
        ours: Pattern of the names of files that an unfinished folder may hold without a note.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder to write")
    for note in (out / INDEX, out / PROGRESS):
        if note.is_file():
            try:
                before = dict(parsed(decoded(read_bytes(note), note))["made"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{note} is damaged, or of no prepared {what}: choose another folder"
                ) from error
            if other := [key for key, value in made.items() if before.get(key) != value]:
                raise ValueError(
                    f"{out} holds {what} prepared with another {', '.join(other)}: choose another "
                    "folder, or remove it"
                )
            return
    names = [file.name for file in out.iterdir()] if out.is_dir() else []
    if strange := [n for n in names if not n.startswith(".") and not re.fullmatch(ours, n)]:
        raise ValueError(f"{out} holds {strange[0]} and no prepared {what}: choose a new folder")


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Waits until no other process prepares in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            rank_zero_info(f"waiting for another process, which prepares {what} in {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield
