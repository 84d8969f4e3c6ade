"""Pieces of text work as tasks of datatrove: on this machine, on SLURM or on Ray."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from zoo.data.cache import key_of
from zoo.data.text.pieces import Encoded, encode
from zoo.data.workers import Pool, cores
from zoo.files import replacing

Executor = Literal["local", "slurm", "ray"]
T = TypeVar("T")
_WAIT = 5.0  # seconds between looks at what SLURM has done


class Task(NamedTuple):
    """A step of a pipeline: makes every n-th of the pieces that are not made yet."""

    function: Callable[[Any, Any], Any]
    pieces: list[Any]
    how: Any
    folder: Path

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """What task `rank` of `world_size` does.

        A piece that is refused stays unmade: it is made again where its error is told in a line.
        """
        for piece in self.pieces[rank::world_size]:
            path = self.file(piece)
            if not path.is_file():
                try:
                    found = self.function(piece, self.how)
                except ValueError:
                    continue
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, *map(_array, found))

    def file(self, piece: Any) -> Path:
        """Where is what is made of a piece."""
        return self.folder / f"{key_of([self.function.__name__, piece, self.how])}.npz"

    def result(self, piece: Any) -> Any:
        """What was made of a piece; it is made now where that is missing or damaged."""
        try:
            with self.file(piece).open("rb") as file, np.load(file) as held:
                values: list[Any] = [_value(held[name]) for name in held.files]
        except Exception:  # a damaged file can raise nearly anything
            return self.function(piece, self.how)
        return Encoded(*values) if self.function is encode else tuple(values)

    def __repr__(self) -> str:
        return f"{self.function.__name__} of {len(self.pieces)} pieces"


class TaskPool(Pool):
    """A pool whose pieces are worked on by the tasks of one of datatrove's executors.

    Args:
        executor: local, slurm or ray.
        tasks: How many tasks share the pieces.
        folder: A folder that all machines see, for what is made of pieces until it is written.
        processes: How many tasks run at a time on this machine.
    """

    def __init__(
        self, executor: Executor, tasks: int, folder: Path, processes: int | None = None
    ) -> None:
        super().__init__(1)
        self.executor, self.tasks, self.folder = executor, tasks, folder
        self.workers = min(processes or cores(), tasks)

    def map(
        self, function: Callable[[Any, Any], T], pieces: Iterable[Any], how: Any
    ) -> Iterator[T]:
        """What the function makes of each piece, in order, when all of them are made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        task = Task(function, list(pieces), how, self.folder.resolve())
        logs = task.folder / f"logs-{key_of([self.tasks, repr(task), task.pieces, how])}"
        executor = self._executor(task, str(logs))
        executor.run()
        if self.executor == "slurm":
            _wait_for(executor, logs)
        for piece in task.pieces:
            yield task.result(piece)

    def _executor(self, task: Task, logs: str) -> Any:
        try:
            from datatrove.executor import local, ray, slurm
        except ImportError as error:
            raise ValueError(
                f'--executor {self.executor} needs datatrove: pip install "lightning-model-zoo'
                '[datatrove]"'
            ) from error
        if self.executor == "local":
            return local.LocalPipelineExecutor(
                [task], tasks=self.tasks, workers=self.workers, logging_dir=logs
            )
        if self.executor == "ray":
            return ray.RayPipelineExecutor([task], tasks=self.tasks, logging_dir=logs)
        if "SBATCH_PARTITION" not in os.environ:
            raise ValueError(
                "--executor slurm: set SBATCH_PARTITION (and SBATCH_TIMELIMIT), as for sbatch"
            )
        return slurm.SlurmPipelineExecutor(
            [task],
            tasks=self.tasks,
            time=os.environ.get("SBATCH_TIMELIMIT", "24:00:00"),
            partition=os.environ["SBATCH_PARTITION"],
            qos="",
            env_command=f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
            logging_dir=logs,
        )


def _wait_for(executor: Any, logs: Path) -> None:
    """Waits until the tasks that SLURM was given are done; ValueError if some ended before."""
    while executor.get_incomplete_ranks():
        queue = ["squeue", "--noheader", "--jobs", str(executor.job_id)]
        waiting = subprocess.run(queue, capture_output=True, text=True, check=False).stdout.strip()
        if not waiting and (left := executor.get_incomplete_ranks()):
            raise ValueError(
                f"--executor slurm: {len(left)} tasks of job {executor.job_id} ended before they "
                f"were done, first {left[0]}: see {logs}/slurm_logs; the same command goes on"
            )
        time.sleep(_WAIT)


def _array(value: Any) -> Any:
    """A value as an array: itself, or its JSON."""
    return value if isinstance(value, np.ndarray) else np.array(json.dumps(value))


def _value(array: Any) -> Any:
    return json.loads(str(array)) if array.dtype.kind == "U" else array
