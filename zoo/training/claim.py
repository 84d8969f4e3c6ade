"""One run directory, one owner: a lock that the system releases when its process ends."""

import fcntl
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from zoo.files import check_run

LOCK = ".lock"
UNSAVED = ".unsaved"  # the run has begun, but written no checkpoint yet
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
_held: set[int] = set()  # descriptors, which children would keep open, and so the locks


class InUseError(ValueError):
    """Another process trains in this run directory."""


class HoldsRunError(ValueError):
    """The run directory of a new run holds one."""


class Claim:
    """A run directory that is this process's until it releases it or ends, however it ends.

    The folder is made if it is not there; InUseError says that it is another's.
    """

    def __init__(self, folder: Path) -> None:
        check_run(folder)
        if (folder / "config.json").is_file():
            raise ValueError(
                f"{folder} holds an exported model, which would stand for the run: choose another "
                "--run_dir"
            )
        self.folder = folder
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        self._process = os.getpid()
        self._descriptor = self._lock()
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()} {socket.gethostname()} {_launch()}".encode(), 0)
        _held.add(self._descriptor)
        remove_leftovers(folder)

    def _lock(self) -> int:
        path = self.folder / LOCK
        for attempt in range(1000):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                there = isinstance(error, FileExistsError)
                if there and not self.folder.exists():  # a start that failed has just removed it
                    continue
                why = "a file is there" if there else error.strerror
                raise ValueError(f"--run_dir {self.folder} cannot be made: {why}") from error
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # a start that failed has just removed the folder
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                who = os.pread(descriptor, 100, 0).decode(errors="replace").split()
                os.close(descriptor)
                if attempt < 3:  # another rank may only be looking whose it is
                    time.sleep(0.1)
                    continue
                raise InUseError(
                    f"{self.folder} is in use: process {' on '.join(who[:2]) or 'another'} trains "
                    "in it; wait until it ends, or choose another --run_dir"
                ) from None
            except OSError:  # a file system without locks
                return descriptor
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            os.close(descriptor)  # of an owner that has just removed it
        raise InUseError(f"{path} cannot be locked: choose another --run_dir")

    def release(self) -> None:
        """Gives the folder free; one that this process made and left empty goes."""
        if self._descriptor not in _held or os.getpid() != self._process:
            return
        _held.discard(self._descriptor)
        (self.folder / LOCK).unlink(missing_ok=True)
        os.close(self._descriptor)
        with suppress(OSError):
            for path in self._made:
                path.rmdir()


def _forget() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


def _launch() -> str:
    """What the processes of one launch have in common, and no two launches at a time."""
    names = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID")
    return "/".join(os.environ.get(name, "") for name in names)


def follow_rank_zero(folders: Iterator[Path], timeout: float = 300.0) -> Path:
    """The folder that rank 0 of this launch has claimed; TimeoutError if it claims none."""
    candidates = list(folders)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for folder in candidates:
            with suppress(FileNotFoundError), (folder / LOCK).open() as file:
                if file.read().split()[2:] == [_launch()]:
                    try:
                        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    except BlockingIOError:
                        return folder
        time.sleep(0.5)
    raise TimeoutError("rank 0 has chosen no run directory: give --run_dir DIR")


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of writers that were killed."""
    for place in (folder, folder / "checkpoints", folder / "samples"):
        for path in place.glob(".*.tmp"):
            match = _TEMPORARY.fullmatch(path.name)
            if match is None or _runs(int(match[1])):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()


def holds_run(folder: Path) -> list[str]:
    """What there is of a run in a folder; one that ended before its first checkpoint is none."""
    checkpoints = sorted(str(p.relative_to(folder)) for p in folder.glob("checkpoints/*.ckpt"))
    if not checkpoints and (folder / UNSAVED).is_file():
        return []
    names = [name for name in ("config.yaml", "metrics.csv") if (folder / name).is_file()]
    return names + checkpoints


def why_afresh(run_dir: Path) -> str:
    """Why a job that is always started with `last` may begin at the beginning.

    It may not, and FileNotFoundError says so, where a run or a link to one lacks its checkpoint.
    """
    file = run_dir / "checkpoints" / "last.ckpt"
    for path in (run_dir, file.parent, file):
        if path.is_symlink() and not path.exists():
            raise FileNotFoundError(
                f"--ckpt_path last: {path} is a link to {os.readlink(path)}, which is not there"
            )
    found = holds_run(run_dir)
    if found:
        raise FileNotFoundError(
            f"--ckpt_path last: {run_dir} holds a run ({', '.join(found[:3])}) but no "
            "checkpoints/last.ckpt: put it back, name another with --ckpt_path FILE, or choose "
            "another --run_dir"
        )
    unsaved = (run_dir / UNSAVED).is_file()
    why = "ended before its first checkpoint" if unsaved else "holds no run yet"
    return f"{run_dir} {why}: starting afresh"
