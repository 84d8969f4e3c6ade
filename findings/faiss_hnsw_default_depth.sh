#!/usr/bin/env bash
# faiss-cpu 1.12.0, IndexHNSWFlat with its default search depth.
# One would guess: a graph index with the usual 32 links finds nearly all of the ten nearest vectors, as
# the plots of its authors show.
# True: efSearch is 16 unless it is set, and the ten nearest of 50,000 random directions of 128 numbers
# are found for fewer than a third; no message says so. At efSearch 512 it is over nine tenths.
# Recall has to be measured against exact search, and the depth set by it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "faiss-cpu==1.12.0" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
import faiss
import numpy as np

print("faiss", faiss.__version__, "numpy", np.__version__)
draw = np.random.default_rng(0)
base, queries = (draw.standard_normal((n, 128)).astype(np.float32) for n in (50_000, 500))
for vectors in (base, queries):
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
exact = faiss.IndexFlatIP(128)
exact.add(base)
_, right = exact.search(queries, 10)
graph = faiss.IndexHNSWFlat(128, 32, faiss.METRIC_INNER_PRODUCT)
graph.add(base)
recalls = {}
for depth in (None, 64, 512):
    if depth is not None:
        graph.hnsw.efSearch = depth
    _, found = graph.search(queries, 10)
    recalls[graph.hnsw.efSearch] = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(right, found)])
for depth, recall in recalls.items():
    print(f"efSearch {depth}: recall at 10 is {recall:.2f}")
kept = 16 in recalls and recalls[16] < 1 / 3 and recalls[512] > 0.9
raise SystemExit(0 if kept else "another behaviour")
PY
