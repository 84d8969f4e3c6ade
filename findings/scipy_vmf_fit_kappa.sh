#!/usr/bin/env bash
# SciPy 1.16.3, scipy.stats.vonmises_fisher for embeddings of 128 numbers and more.
# One would guess: fit gives the concentration that maximises the likelihood in any dimension, and where
# the density cannot be computed it raises.
# True: Bessel functions of order d/2 underflow for small arguments. From 68 dimensions on fit starts
# its search at such an argument, takes the 0/0 for an answer and returns kappa = 1e-8, "uniform",
# for data that are far from it; logpdf is inf for a small kappa. A RuntimeWarning about a division is
# all, where warnings are shown. Below that both are right.
# The formula of Banerjee et al. and the power series of log I, below, have no such limit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "scipy==1.16.3" "numpy==2.2.6"
"$work/venv/bin/python" - <<'PY'
import warnings

import numpy as np
import scipy
from scipy.special import gammaln, logsumexp
from scipy.stats import vonmises_fisher

print("SciPy", scipy.__version__, "NumPy", np.__version__)
warnings.simplefilter("ignore", RuntimeWarning)


def log_density_at_mean(d: int, kappa: float) -> float:
    """From the power series of I, summed as logarithms."""
    v, j = d / 2 - 1, np.arange(400)
    series = 2 * j * np.log(kappa / 2) - gammaln(j + 1) - gammaln(v + j + 1)
    log_bessel = v * np.log(kappa / 2) + logsumexp(series)
    return float(v * np.log(kappa) - d / 2 * np.log(2 * np.pi) - log_bessel + kappa)


fits, densities = {}, {}
for d in (16, 64, 128, 384):
    mean = np.eye(1, d)[0]
    x = vonmises_fisher(mean, float(d)).rvs(2000, random_state=0)
    r = np.linalg.norm(x.mean(0))
    fits[d] = (float(vonmises_fisher.fit(x)[1]), r * (d - r**2) / (1 - r**2))
    print(f"d = {d}, drawn with kappa {d}: fit {fits[d][0]:.4g}, Banerjee et al. {fits[d][1]:.4g}")
for d in (16, 384):
    densities[d] = (float(vonmises_fisher(mean[:d], 2.0).logpdf(mean[:d])), log_density_at_mean(d, 2.0))
    print(f"d = {d}, kappa 2, at the mean: logpdf {densities[d][0]:.6g}, by the series {densities[d][1]:.6g}")
kept = (
    all(abs(fits[d][0] / fits[d][1] - 1) < 0.05 for d in (16, 64))
    and all(fits[d][0] < 1e-6 and abs(fits[d][1] / d - 1) < 0.1 for d in (128, 384))
    and abs(densities[16][0] - densities[16][1]) < 1e-6
    and np.isinf(densities[384][0])
    and np.isfinite(densities[384][1])
)
raise SystemExit(0 if kept else "another behaviour")
PY
