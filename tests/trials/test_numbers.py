"""What users did with the mathematics from Python, as they would."""

import subprocess
import sys

import pytest

SINGULAR = """
import torch
from zoo.metrics.frechet import gaussian_distance
for seed in range(40):
    g, d = torch.Generator().manual_seed(seed), 6 + seed
    basis = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    s1, s2 = (torch.randint(1, 5, (d,), generator=g).double() for _ in range(2))
    s1[: d // 3] = s2[: d // 3] = 0
    a, b = (basis @ torch.diag(s**2) @ basis.T for s in (s1, s2))
    zero, expected = torch.zeros(d), float((s1 - s2).square().sum())
    assert abs(float(gaussian_distance(zero, a, zero, b)) - expected) < 1e-10 * expected
"""
WHOLE = """
import torch
from torch.distributions import kl_divergence
from zoo.vae import HypersphericalUniform, VonMisesFisher
mu, uniform = torch.tensor([1.0, 0, 0, 0]), HypersphericalUniform(4)
q = VonMisesFisher(mu, torch.tensor(20))
assert abs(float(kl_divergence(q, uniform)) - 3.258385442132396) < 1e-6
assert abs(float(q.entropy()) - float(VonMisesFisher(mu, torch.tensor(20.0)).entropy())) < 1e-6
"""
THREE = """
import torch
from zoo.simbert.evaluation import spearman
assert spearman(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])) == 100
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [SINGULAR, WHOLE, THREE], ids=["singular", "whole", "three"])
def test_right_numbers(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
