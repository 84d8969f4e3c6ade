#!/usr/bin/env bash
# torchmetrics 1.9.0, retrieval of sentences by cosine, by a negative distance or by raw scores.
# One would guess: a metric of ranks depends on the order of the scores only; any increasing function of
# them gives the same mean reciprocal rank.
# True: RetrievalMRR, MAP, Precision and Recall count a relevant item as irrelevant where its score is not
# above 0. The same ranking has an MRR of 0.52 by scores + 10 and of 0 by negative distances, and a little less
# than it should by scores of both signs, which nobody notices. RetrievalNormalizedDCG, HitRate and
# RPrecision of the same package do depend on the order only.
# Give sigmoid(score), or any increasing function that is positive.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "torchmetrics==1.9.0" "torch==2.14.1" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
import torch
import torchmetrics
from torchmetrics import retrieval

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)
queries, documents = 200, 20
scores = torch.randn(queries, documents, generator=torch.Generator().manual_seed(0))
scores[:, 0] += 1.5  # the relevant document
relevant = torch.zeros(queries, documents, dtype=torch.long)
relevant[:, 0] = 1
query = torch.arange(queries)[:, None].expand(queries, documents)
same_order = {"sigmoid": scores.sigmoid(), "+ 10": scores + 10, "as they are": scores, "- 10": scores - 10}
reciprocal = (1 / (1 + (scores > scores[:, :1]).sum(1))).mean().item()
print(f"mean reciprocal rank, counted: {reciprocal:.4f}")
found = {}
for name in ("RetrievalMRR", "RetrievalMAP", "RetrievalNormalizedDCG", "RetrievalRPrecision"):
    metric = getattr(retrieval, name)()
    found[name] = [
        metric(s.flatten(), relevant.flatten(), indexes=query.flatten()).item() for s in same_order.values()
    ]
    print(name, {key: round(value, 4) for key, value in zip(same_order, found[name])})
mrr = found["RetrievalMRR"]
kept = (
    all(abs(value - reciprocal) < 1e-5 for value in mrr[:2])
    and mrr[2] < reciprocal - 1e-3
    and mrr[3] == found["RetrievalMAP"][3] == 0
    and all(max(v) - min(v) < 1e-5 for k, v in found.items() if k not in ("RetrievalMRR", "RetrievalMAP"))
)
raise SystemExit(0 if kept else "another behaviour")
PY
