#!/usr/bin/env bash
# W&B, offline, two runs of one Python process with dir="run", a relative folder; between them the
# process goes to another folder, as a notebook or a sweep in one process does.
# One would guess: each run's files are below run/ of the folder in which its init was called.
# True: Python makes the folders there, but the records are written by a process of W&B's own, which
# was started by the first init and stays in that folder. The second run ends without an error, its
# files and media lie in the second folder, and its .wandb file, all that `wandb sync` could send, is
# not among them. An absolute dir, or wandb.teardown() before the second init, brings it back.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "wandb==0.31.0"
cd "$work"
cat >program.py <<'PY'
import os
import sys
from pathlib import Path

import wandb

how, base = sys.argv[1], Path(sys.argv[2]).absolute()
for name in ("first", "second"):
    folder = base / name
    Path(folder, "run").mkdir(parents=True)
    os.chdir(folder)
    place = str(folder / "run") if how == "absolute" else "run"
    run = wandb.init(project="p", dir=place, mode="offline")
    run.log({"loss": 1.0})
    run.finish()
    if how == "teardown":
        wandb.teardown()
wandb.teardown()
found = {name: len([*Path(base, name).rglob("*.wandb")]) for name in ("first", "second")}
print(f"{how}: .wandb files {found}")
expected = {"first": 1, "second": 0 if how == "relative" else 1}
sys.exit(found != expected)
PY
"$work/venv/bin/python" -c 'import wandb; print("wandb", wandb.__version__)'
for how in relative absolute teardown; do
    WANDB_SILENT=true "$work/venv/bin/python" program.py "$how" "$work/$how"
done
