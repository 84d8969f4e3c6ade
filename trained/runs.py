"""Trains, exports and tests one model of the list, going on where an earlier call was cut off."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from trained.entries import Entry, Goal
from trained.nanogpt import write_split
from zoo.training.pictures import processor

PRETRAINED = Path(__file__).parents[1] / "zoo" / "pretrained"
RESULTS = Path(__file__).with_name("results")  # of the models that do not ship
_POINTS = 24  # of a curve in the record
_EXAMPLES = 100


def train(entry: Entry, data: Path, runs: Path, more: list[str]) -> None:
    """Trains to the end, and keeps in the run's trained.json what it took.

    Args:
        entry: The model.
        data: Folder of the data sets.
        runs: Folder of the run directories.
        more: Flags of this machine's, such as its precision.
    """
    run = runs / entry.folder
    begun = (run / "checkpoints" / "last.ckpt").is_file()
    record = read(run / "trained.json") or {"hours": None if begun else 0.0}  # None: not known
    arguments = [*entry.fit(data, runs), *more]
    if entry.data.get("split") == "nanoGPT":
        write_split(runs / "tinyshakespeare")
    if record.get("done") == arguments:
        return
    before = _cpu_hours()
    try:
        zoo(run, "fit", *arguments, "--run_dir", run, "--ckpt_path", "last")
        record["done"] = arguments
    finally:
        if record["hours"] is not None:
            record["hours"] += _cpu_hours() - before
        write(run / "trained.json", {**record, "flags": more, "processor": processor()})


def measure(entry: Entry, data: Path, runs: Path) -> None:
    """Exports what ships, tests that very file, and puts both where they belong.

    Where the file is in half precision, the checkpoint is tested too, unless the list says no.
    """
    run = runs / entry.folder
    shipped, tested, whole = run / "shipped", run / "tested", run / "tested-float32"
    target = PRETRAINED / entry.name if entry.ships else None
    record_file = target / "results.json" if target else RESULTS / f"{entry.folder}.json"
    checkpoint = run / "checkpoints" / f"{entry.checkpoint}.ckpt"
    config = shipped / "config.json"
    if not config.is_file() or config.stat().st_mtime < checkpoint.stat().st_mtime:
        zoo(run, "export", checkpoint, shipped, "--dtype", entry.dtype)
    test = [flag.format(data=data, runs=runs) for flag in (*entry.root, *entry.test)]
    weights = read(config)["sha256"]
    found = read(record_file)
    if found.get("weights") != weights or found.get("test") != list(entry.test):
        found = _tested(tested, shipped, weights, *test)
        if entry.ships:  # which a test of the repository measures again
            part = _tested(run / "part", shipped, weights, *test, *entry.part)
            found["part"] = _part(entry, part["metrics"])
        if entry.ships and entry.twice:
            found["float32"] = _tested(whole, checkpoint, weights, *test)["metrics"]
    record = {**_record(entry, run), "weights": weights, "test": list(entry.test)}
    kept = ("metrics", "protocol", "part", "float32")
    record |= {key: found[key] for key in kept if key in found}
    best = _of_validation(entry, run)
    record["metrics"] |= best
    record["protocol"] |= dict.fromkeys(best, "the best validation of the training")
    if target:
        from zoo.pretrained.card import card

        shutil.copytree(shipped, target, dirs_exist_ok=True)
        kind = read(config)["zoo_class"].rpartition(".")[2]
        (target / "README.md").write_text(card(entry.name, kind, record), "utf-8")
        if entry.data.get("examples"):
            _write_examples(target, entry.root[0].partition("=")[2].format(data=data))
    write(record_file, record)


def _tested(folder: Path, weights: Path, digest: str, *test: str) -> dict[str, Any]:
    """Results of a test in `folder`, which is run unless it was, of these weights, to its end."""
    asked, mark = {"weights": digest, "test": list(test)}, folder / "asked.json"
    if read(mark) != asked:
        zoo(folder.parent, "test", *test, "--ckpt_path", weights, "--run_dir", folder)
        write(mark, asked)
    return read(folder / "results.json")


def _record(entry: Entry, run: Path) -> dict[str, Any]:
    """What RESULTS.md and the card say of the training."""
    from zoo.loading import load, read_checkpoint

    trained = read(run / "trained.json")
    checkpoint = read_checkpoint(run / "checkpoints" / f"{entry.checkpoint}.ckpt")
    last = read_checkpoint(run / "checkpoints" / "last.ckpt")
    model = load(run / "shipped")
    return {
        "name": entry.name,
        "command": " ".join(["zoo fit", *entry.fit(Path("data"), Path("runs"))]),
        "seed": entry.seed,
        "step": checkpoint["global_step"],
        "steps": last["global_step"],
        "hours": trained.get("hours"),
        "processor": trained.get("processor"),
        "flags": trained.get("flags", []),
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": entry.data["title"],
        "licence": entry.data["licence"],
        "examples": _EXAMPLES if entry.data.get("examples") else 0,
        "headline": [entry.goals[0].metric, entry.goals[0].name],
        "curve": _curve(run / "metrics.csv"),
    }


def _write_examples(target: Path, root: str) -> None:
    """The first test images, for who has not the data: `zoo density NAME` takes them."""
    import numpy as np
    import torch

    from zoo.data.images.pixels import to_uint8
    from zoo.loading import load
    from zoo.sources import EXAMPLES, open_source

    source = open_source(load(target), str(target), None, root, "test")
    batch = next(source.batches(_EXAMPLES, _EXAMPLES, torch.device("cpu")))
    np.save(target / EXAMPLES, to_uint8(batch.images).numpy())


def _part(entry: Entry, metrics: dict[str, float]) -> dict[str, Any]:
    """A number of a short test, for a test to measure again (tests/test_names.py)."""
    metric = next(goal.metric for goal in entry.goals if goal.metric.startswith("test/"))
    root = entry.data.get("root", "")
    return {"flags": entry.part, "root": root, "metric": metric, "value": metrics[metric]}


def _of_validation(entry: Entry, run: Path) -> dict[str, float]:
    """The best of each number of the validation that is a goal."""
    goals = [goal for goal in entry.goals if goal.metric.startswith("val/")]
    return {goal.metric: _best(goal, run / "metrics.csv") for goal in goals}


def _best(goal: Goal, path: Path) -> float:
    values = [value for _, value in _column(path, goal.metric)]
    return max(values) if goal.at_most is None else min(values)


def _curve(path: Path) -> list[tuple[int, float]]:
    """Steps and losses of the validation, thinned out."""
    points = _column(path, "val/loss")
    return points[:: -(-len(points) // _POINTS) or 1]


def _column(path: Path, name: str) -> list[tuple[int, float]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["step"], row.get(name)) for row in csv.DictReader(file)]
    return [(int(step) + 1, float(value)) for step, value in rows if value]


def zoo(run: Path, verb: str, *arguments: str | Path) -> None:
    """Runs `zoo VERB` on one thread; what it says goes to a log beside the run directory.

    Raises:
        RuntimeError: It failed.
    """
    log = run.with_name(f"{run.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "zoo.cli", verb, *map(str, arguments)]
    with log.open("a") as file:
        print(" ".join(["zoo", *command[3:]]), file=file, flush=True)
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        code = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
    if code:
        said = log.read_text(errors="replace").strip().splitlines()[-1]
        raise RuntimeError(f"zoo {verb} ended with {code}: {said} ({log})")


def _cpu_hours() -> float:
    """CPU hours of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) / 3600


def read(path: Path) -> dict[str, Any]:
    """A JSON file; empty if there is none."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return content


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
