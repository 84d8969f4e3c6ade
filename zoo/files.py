"""Files and folders that are written whole or not at all."""

import errno
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

STDOUT = "/dev/stdout"
_DESCRIPTOR = re.compile(r"/dev/std(out|err)|/dev/fd/(\d+)|/proc/self/fd/(\d+)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_OF_RUN = (
    "config.yaml", "metrics.csv", "results.json", "report.html", ".lock", ".unsaved",
    "predictions*.pt", "checkpoints/*.ckpt", "samples/*.png", "report/*.json", "report/*.npz",
    "config.json", "model.safetensors",
)  # fmt: skip
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def printable(text: str) -> str:
    """The text with escapes for what no line and no UTF-8 can hold, as names of files may have."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def visible(text: str) -> str:
    r"""The text with escapes for what a terminal obeys and no table holds.

    Tabs and line ends stay.

    >>> visible("a\x1b[2J\tb\0")
    'a\\x1b[2J\tb\\x00'
    """
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def temporary_beside(path: Path) -> Path:
    """Where this process writes what becomes `path`: `.NAME.PID.tmp` in the same folder.

    A writer that is killed leaves it behind; no other file of the zoo has such a name, so that
    what matches `.*.*.tmp` and whose PID no longer runs can be removed.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def check_run(folder: Path) -> None:
    """Raises ValueError if a folder is no run's alone, whose files are regular ones.

    The reader and the writer of a FIFO hang; an exported model stands for the checkpoints.
    """
    for name in ("checkpoints", "samples", "report"):
        if (folder / name).exists() and not (folder / name).is_dir():
            raise ValueError(f"{folder / name} is no folder, where a run keeps one: move it away")
    for path in (path for pattern in _OF_RUN for path in sorted(folder.glob(pattern))):
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is no regular file, where a run keeps one: move it away")
    if (folder / "config.json").is_file() and _checkpoints(folder):
        raise ValueError(
            f"{folder} holds a run and an exported model: move config.json and model.safetensors "
            "away, or name a .ckpt of it"
        )


def check_no_run(folder: str | Path) -> None:
    """Raises ValueError if a run is in a folder for weights, which would hide its checkpoints."""
    if found := _checkpoints(Path(folder)):
        raise ValueError(f"{folder} holds a run ({found[0].name}): name another folder")


def _checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("*.ckpt"))


def keep_read(
    flag: str, out: str | Path | None, *read: str | Path | None, folder: bool = False
) -> None:
    """Refuses an output that would be known to be none only when all is done.

    Args:
        flag: The option that names it.
        out: What is to be written.
        read: What is read.
        folder: Whether a folder may be written.

    Raises:
        ValueError: It is one of those that are read, is a folder, or has a file above it.
    """
    if out and os.path.isdir(out) and not folder:
        raise ValueError(f"{flag} {out} is a folder: give a file")
    above = next((path for path in Path(out or "").parents if path.exists()), None)
    if above is not None and not above.is_dir():
        raise ValueError(f"{flag} {out}: {above} is a file, and no folder")
    for path in read:
        if not out or not path or not os.path.exists(out) or not os.path.exists(path):
            continue
        if os.path.samefile(out, path):
            raise ValueError(f"{flag} {out} is what is read: it would be lost; name another file")


def beside(out: str | Path) -> TextIO:
    """Where a verb says what it wrote: not among it, where that is standard output."""
    descriptor = _DESCRIPTOR.fullmatch(os.path.abspath(out))
    return sys.stdout if descriptor is None or _number(descriptor) != 1 else sys.stderr


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path to write to; what is there takes the place of `path` if all goes well.

    Readers see the old file or the new one, never a part; what stops half-way leaves the old one
    and nothing else. Folders that are missing are made. A symbolic link stays and its target is
    replaced; a file that is there keeps its permissions. What is no regular file (/dev/null,
    /dev/stdout, a FIFO) is written through, once all of it is known. An OSError names `path`.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    descriptor = _DESCRIPTOR.fullmatch(os.path.abspath(path))
    with naming(path):
        for wrong, code in ((path.is_dir(), errno.EISDIR), (target.is_symlink(), errno.ELOOP)):
            if wrong:
                raise OSError(code, os.strerror(code), str(path))
        if descriptor or (os.path.exists(path) and not path.is_file()):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder, "file")
                yield temporary
                with temporary.open("rb") as source, _opened(path, descriptor) as sink:
                    shutil.copyfileobj(source, sink)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(target)
        try:
            yield temporary
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: str | Path, note: str = "") -> Iterator[Path]:
    """A folder to write to, whose files become those of `folder` if all goes well.

    A folder that was not there appears whole or not at all. In one that was, the new files replace
    those of the same names once all of them are written, and others stay. An OSError names it.

    Args:
        folder: The folder.
        note: The file without which the others mean nothing: it goes first and comes last, so that
            no kill leaves old files beside new ones under it.
    """
    folder = Path(folder)
    target = Path(os.path.realpath(folder))
    with naming(folder):
        if os.path.lexists(target) and not target.is_dir():
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        there = target.is_dir()
        temporary = temporary_beside(target / "export" if there else target)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            if there:
                _move_files(temporary, target, note)
            else:
                os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes what a writer says about a full or broken disk an OSError that names `path`.

    Libraries hide it: torch and safetensors raise errors of their own, and a file that is already
    open has no name in its error.
    """
    try:
        yield
    except Exception as error:
        found = _disk_error(error)
        if found is None or found.errno is None:
            raise
        if found.filename and not _is_temporary(str(found.filename)):
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error


def _is_temporary(name: str) -> bool:
    return f".{os.getpid()}.tmp" in name or name.startswith(tempfile.gettempdir())


def _disk_error(error: BaseException) -> OSError | None:
    """The failed write behind an error, if that is what it tells of."""
    unknown = OSError(errno.EIO, "cannot be written (is the disk full?)")
    if isinstance(error, OSError):
        return unknown if error.errno is None and " written" in str(error) else error  # numpy
    seen = error.__cause__ or error.__context__
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            return seen
        seen = seen.__cause__ or seen.__context__
    if code := re.search(r"(?:os error|Os { code:) (\d+)", str(error)):  # safetensors
        return OSError(int(code[1]), os.strerror(int(code[1])))
    if "PytorchStreamWriter" in str(error) or "inline_container" in str(error):  # torch
        return unknown
    return None


def _opened(path: Path, descriptor: re.Match[str] | None) -> BinaryIO:
    """What is no regular file, open to be written.

    A descriptor of this process is taken itself: opened anew by its name, it would have another
    position and write over what the process writes.
    """
    if descriptor is None:
        return path.open("wb")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return os.fdopen(os.dup(_number(descriptor)), "wb")


def _number(descriptor: re.Match[str]) -> int:
    """The number of a descriptor of this process."""
    name, *numbers = descriptor.groups()
    return {"out": 1, "err": 2}[name] if name else int(next(filter(None, numbers)))


def _move_files(source: Path, target: Path, note: str) -> None:
    """Moves every file below `source` to the same place below `target`."""
    if note:
        (target / note).unlink(missing_ok=True)
    for file in sorted(source.rglob("*"), key=lambda file: (file == source / note, file)):
        if file.is_file():
            place = Path(os.path.realpath(target / file.relative_to(source)))
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
