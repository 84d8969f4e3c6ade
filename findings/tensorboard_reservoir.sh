#!/usr/bin/env bash
# TensorBoard 2.20.0, curves read back with its EventAccumulator.
# One would guess: a reader of event files returns all points of a scalar; thinning is for the page.
# True: it keeps 10,000 of a tag by chance and says nothing. Of 20,000 validations half are gone, the
# best often among them, so that "the best step" of a table made from it is another step, and a curve
# joined to another log by step has holes. size_guidance={"scalars": 0} reads all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "tensorboard==2.20.0" "numpy==2.2.6" "setuptools==80.9.0"
"$work/venv/bin/python" - "$work/log" <<'PY'
import random
import sys

import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

print("TensorBoard", tensorboard.__version__)
steps, log = 20_000, sys.argv[1]
order = list(range(steps))
random.Random(1).shuffle(order)
best = set(order[:100])
writer = EventFileWriter(log)
for step in range(steps):
    value = Summary.Value(tag="validation", simple_value=0.5 if step in best else 1.0)
    writer.add_event(Event(step=step, wall_time=step, summary=Summary(value=[value])))
writer.close()
found = {}
for name, options in (("as it comes", {}), ("scalars: 0", {"size_guidance": {"scalars": 0}})):
    reader = EventAccumulator(log, **options)
    reader.Reload()
    points = reader.Scalars("validation")
    read = {point.step for point in points}
    found[name] = (len(points), len(best & read))
    print(f"{name}: {len(points)} of {steps} points, {len(best & read)} of the 100 lowest")
kept = found["as it comes"][0] == 10_000 and 20 < found["as it comes"][1] < 80
kept = kept and found["scalars: 0"] == (steps, 100)
raise SystemExit(0 if kept else f"another behaviour: {found}")
PY
