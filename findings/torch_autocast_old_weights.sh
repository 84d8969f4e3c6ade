#!/usr/bin/env bash
# torch 2.14.1, two updates of a network inside one torch.autocast, as in a training step of a GAN.
# One would guess: a forward pass after optimizer.step() uses the weights of the step.
# True: autocast keeps the bfloat16 copy of each weight until the context ends, and nothing tells it that the
# weight has changed. All critic steps of one context are forward passes of the first weights, with their
# gradient; clipped weights and swapped averages are not seen either. The loss does go down, from one
# training step to the next. Leave the context before each step, or use cache_enabled=False, as Lightning's
# plugin does, so that a loop moved out of Lightning changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "torch==2.14.1" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
import torch
from torch import nn

print("torch", torch.__version__)


def losses(**options: bool) -> list[float]:
    """Of five steps of gradient descent in one context."""
    torch.manual_seed(0)
    critic = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    x = torch.randn(64, 8)
    target = x.sum(1, keepdim=True)
    found = []
    with torch.autocast("cpu", torch.bfloat16, **options):
        for _ in range(5):
            loss = (critic(x).float() - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(round(loss.item(), 3))
    return found


found = {
    "autocast": losses(),
    "cache_enabled=False": losses(cache_enabled=False),
    "float32 (enabled=False)": losses(enabled=False),
}
for name, values in found.items():
    print(f"{name}: losses of five steps {values}")
stale, fresh, single = found.values()
kept = (
    len(set(stale)) == 1
    and all(later < 0.9 * earlier for values in (fresh, single) for earlier, later in zip(values, values[1:]))
)
raise SystemExit(0 if kept else "another behaviour")
PY
