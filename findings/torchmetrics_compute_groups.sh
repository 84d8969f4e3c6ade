#!/usr/bin/env bash
# torchmetrics 1.9.0, a MetricCollection of one metric at several thresholds.
# One would guess: each metric of a collection has the value that it has alone; groups that share a state
# are an optimisation.
# True: two metrics whose states are equal after the first batch are taken for one and share a state from
# then on. Accuracy at 0.5 and at 0.9 have equal counts on a first batch of clear scores, as of a fitted
# model or of a small batch, and then report one number for ever, that of the first. It depends on the
# order of the data. compute_groups=False gives each its own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "torchmetrics==1.9.0" "torch==2.14.1" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAccuracy

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
clear = (torch.tensor([0.95, 0.1, 0.97, 0.2]), torch.tensor([1, 0, 1, 0]))
unclear = (torch.tensor([0.6, 0.7, 0.8, 0.6]), torch.tensor([0, 0, 1, 0]))
thresholds = (0.5, 0.9)


def accuracies(batches: list, **options: bool) -> list[float]:
    metrics = {f"at {round(100 * t)} %": BinaryAccuracy(threshold=t) for t in thresholds}
    collection = MetricCollection(metrics, **options)
    for batch in batches:
        collection.update(*batch)
    return [round(value.item(), 4) for value in collection.compute().values()]


alone = []
for t in thresholds:
    metric = BinaryAccuracy(threshold=t)
    for batch in (clear, unclear):
        metric.update(*batch)
    alone.append(round(metric.compute().item(), 4))
found = {
    "each alone": alone,
    "collection, clear batch first": accuracies([clear, unclear]),
    "collection, unclear batch first": accuracies([unclear, clear]),
    "compute_groups=False": accuracies([clear, unclear], compute_groups=False),
}
for name, values in found.items():
    print(f"{name}: accuracy at {thresholds} is {values}")
wrong = found.pop("collection, clear batch first")
kept = all(values == [0.625, 0.875] for values in found.values()) and wrong == [0.625, 0.625]
raise SystemExit(0 if kept else "another behaviour")
PY
