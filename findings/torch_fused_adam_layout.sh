#!/usr/bin/env bash
# torch 2.14.1, Adam(fused=True) on the CPU, resumed with the model in channels_last.
# One would guess: a memory format is a matter of speed; a checkpoint of a contiguous model goes on in a
# channels_last one with the same numbers, as it does without fused.
# True: load_state_dict keeps the strides of the moments that were saved, and the fused kernel reads the
# i-th number in memory of weight, gradient and moment for one and the same. Each weight of a
# convolution is then updated with the moments of another, and nothing is said.
# The same with a gradient of other strides, as torch.autograd.grad may give one. Bring
# the state into the strides of its weight after loading: torch.empty_like(weight).copy_(moment).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "torch==2.14.1" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
import copy

import torch
from torch import nn

print("torch", torch.__version__)


def resumed(fused: bool, layout: torch.memory_format, laid_out: bool = False) -> torch.Tensor:
    """Weights after five steps as they come, five after a resume in this layout."""
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(5):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    model = nn.Conv2d(4, 8, 3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=fused)
    train(model, optimizer)
    weights, state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model = nn.Conv2d(4, 8, 3)
    model.load_state_dict(weights)
    model.to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=fused)
    optimizer.load_state_dict(state)
    if laid_out:
        for weight, moments in optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = torch.empty_like(weight).copy_(moments[name])
    train(model, optimizer)
    return model.weight.detach().contiguous()


right = resumed(False, torch.contiguous_format)
found = {}
for fused in (False, True):
    for layout in (torch.contiguous_format, torch.channels_last):
        found[fused, layout] = (resumed(fused, layout) - right).abs().max().item()
        print(f"fused {fused}, resumed in {layout}: weights differ by up to {found[fused, layout]:.2g}")
laid_out = (resumed(True, torch.channels_last, laid_out=True) - right).abs().max().item()
print(f"fused True, state laid out as the weights: {laid_out:.2g}; a step of Adam is up to 0.01")
wrong = found.pop((True, torch.channels_last))
kept = wrong > 0.02 and laid_out < 1e-4 and all(difference < 1e-4 for difference in found.values())
raise SystemExit(0 if kept else "another behaviour")
PY
