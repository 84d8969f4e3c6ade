"""Trains, tests and exports the models of list.toml, one after another, and writes RESULTS.md.

python -m trained --data DATA --runs RUNS [--only NAME] [--research] [--stage train] [-- FLAGS]

What was cut off goes on where it was, and what is done is skipped. A run directory is RUNS/NAME
with - for /. FLAGS go to `zoo fit` alone: what this machine is quick with.
"""

import argparse
import sys
import time
from pathlib import Path

from trained.entries import read_list
from trained.report import write_report
from trained.runs import measure, train


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m trained", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--only", default="*", help="names, such as ddpm/mnist or 'vae/*'")
    parser.add_argument("--research", action="store_true", help="those that do not ship instead")
    parser.add_argument("--stage", choices=("all", "train", "measure", "report"), default="all")
    parser.add_argument("--list", action="store_true", help="say what there is, and stop")
    parser.add_argument("flags", nargs="*", help="after --: more flags of zoo fit")
    own = parser.parse_args()
    entries = [e for e in read_list(own.only) if e.ships is not own.research or own.only != "*"]
    failed = []
    for entry in entries:
        if own.list:
            command = " ".join(["zoo fit", *entry.fit(own.data, own.runs)])
            print(f"{entry.name:<24}{entry.hours:>6.2g} h  {command}")
            continue
        print(f"{time.strftime('%T')} {entry.name}: {entry.hours:g} core hours", flush=True)
        try:
            if own.stage in ("all", "train"):
                train(entry, own.data, own.runs, own.flags)
            if own.stage in ("all", "measure"):
                measure(entry, own.data, own.runs)
        except RuntimeError as error:
            failed.append(entry.name)
            print(f"{entry.name}: {error}", file=sys.stderr, flush=True)
    if not own.list and own.stage != "train":
        write_report(read_list())
    print(f"failed: {', '.join(failed)}" if failed else "done", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
