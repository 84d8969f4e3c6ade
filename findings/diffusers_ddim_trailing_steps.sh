#!/usr/bin/env bash
# diffusers 0.42.1, DDIMScheduler of 1,000 steps with timestep_spacing "trailing" or "linspace".
# One would guess: from each step of set_timesteps it goes to the next one of the list, so that any number
# of steps samples the same distribution, a little better with more.
# True: step goes to t - 1000 // n, and the list to another step where n does not divide 1,000. With 500 steps
# the samples are right; with 501 each step of two takes away the noise of one, and so much noise stays
# that they are more than twice as wide as the data. No warning; a sweep over n reads as "more steps hurt". "leading"
# goes by 1000 // n in both places, but its 501 steps begin at step 500, where there is no pure noise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check "diffusers==0.42.1" "torch==2.14.1" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
import diffusers
import torch
from diffusers import DDIMScheduler

print("diffusers", diffusers.__version__, "torch", torch.__version__)
mean, std = 0.5, 0.2  # the data: N(mean, std^2), for which the best prediction of the noise is known


def sample(spacing: str, n: int) -> tuple[int, float, float]:
    """First step, mean and standard deviation of 4,000 samples with the exact network."""
    scheduler = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(n)
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in scheduler.timesteps:
        a = scheduler.alphas_cumprod[t].double()
        noise = (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * std**2 + 1 - a)
        x = scheduler.step(noise, t, x).prev_sample
    return int(scheduler.timesteps[0]), x.mean().item(), x.std().item()


found = {}
for spacing in ("trailing", "linspace", "leading"):
    for n in (100, 400, 500, 501, 600):
        found[spacing, n] = first, m, s = sample(spacing, n)
        print(f"{spacing}, {n} steps from {first}: samples N({m:.3f}, {s:.3f}^2), the data N({mean}, {std}^2)")
wide = {key: s / std for key, (_, _, s) in found.items()}
kept = (
    all(abs(wide["trailing", n] - 1) < 0.1 for n in (100, 500))
    and all(wide[spacing, 501] > 2 for spacing in ("trailing", "linspace"))
    and all(wide["trailing", n] > 1.2 for n in (400, 600))
    and (found["leading", 500][0], found["leading", 501][0]) == (998, 500)
)
raise SystemExit(0 if kept else "another behaviour")
PY
