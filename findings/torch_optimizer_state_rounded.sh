#!/usr/bin/env bash
# An optimiser keeps its averages in float32 beside parameters in bfloat16; torch's own foreach and
# fused Adam take such a state, and state_dict() writes it as it is.
# One would guess: load_state_dict of that very state_dict brings back the same numbers.
# True: every floating-point state (but for `step`) is cast to its parameter's dtype, so that the
# averages come back rounded to eight bits, without a word. A run that is resumed goes on with
# other numbers than the one that was not stopped.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check "torch==2.14.1" "numpy==2.2.6"
cat >program.py <<'PY'
import torch

print("torch", torch.__version__)


class Mean(torch.optim.Optimizer):
    """Descent along a running mean of the gradient, which is kept in float32."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                mean = state.setdefault("mean", torch.zeros_like(p, dtype=torch.float32))
                mean.lerp_(p.grad.float(), 0.1)
                p.sub_(group["lr"] * mean)


weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
optimizer = Mean([weight])
for _ in range(3):
    weight.grad = torch.full_like(weight, 0.3)
    optimizer.step()
saved = optimizer.state_dict()
again = Mean([weight])
again.load_state_dict(saved)
before, after = (o.state[weight]["mean"] for o in (optimizer, again))
print("saved: ", before.dtype, before[0].item())
print("loaded:", after.dtype, after[0].item())
assert before.dtype == torch.float32
assert after.dtype == torch.bfloat16
assert after[0].item() != before[0].item()
PY
venv/bin/python program.py
