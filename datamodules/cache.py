"""Folders of prepared data: where they lie, whose they are, and who writes them."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from zoo.reading import decoded, parsed, read_bytes

INDEX, PROGRESS = "index.json", "progress.json"
_LOCK = ".lock"


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


def check_ours(out: Path, made: dict[str, Any], what: str, ours: tuple[str, ...]) -> None:
    """Refuses a folder that holds something else, or what was made otherwise.

    Args:
        out: The folder, which need not be there.
        made: What is to be made of what.
        what: What is prepared, in a word.
        ours: How the names begin of files that an unfinished folder may hold.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder to write")
    for note in (out / INDEX, out / PROGRESS):
        if note.is_file():
            before = parsed(decoded(read_bytes(note), note)).get("made", {})
            if other := [key for key, value in made.items() if before.get(key) != value]:
                raise ValueError(
                    f"{out} holds {what} prepared with another {', '.join(other)}: choose another "
                    "folder, or remove it"
                )
            return
    names = [file.name for file in out.iterdir()] if out.is_dir() else []
    if strange := [name for name in names if not name.startswith((".", *ours))]:
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
