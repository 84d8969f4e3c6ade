import csv
import math
from pathlib import Path

import pytest
import torch

from zoo.data import Toy2D
from zoo.data.toy2d import mixture
from zoo.wgan.toys import mode_metrics, toy_metrics
from zoo.wgan.transport import exact_w1

CENTRES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def test_collapse_onto_one_mode():
    values = mode_metrics(CENTRES[:1].expand(2500, 2), CENTRES, 0.01)
    assert values["modes"] == 1
    assert values["near"] == values["high_quality"] == 1
    assert values["reverse_kl"] == pytest.approx(math.log(4))


def test_reverse_kl_is_that_of_the_histogram():
    counts = [4, 3, 2, 1]
    samples = torch.cat([c.expand(n, 2) for c, n in zip(CENTRES, counts, strict=True)])
    p = [n / 10 for n in counts]
    expected = sum(q * math.log(q / 0.25) for q in p)
    assert mode_metrics(samples, CENTRES, 0.01)["reverse_kl"] == pytest.approx(expected)


def test_a_mode_counts_from_20_of_2500_samples_near_it():
    for few, modes in ((19, 1), (20, 2)):
        samples = torch.cat([CENTRES[0].expand(2500 - few, 2), CENTRES[1].expand(few, 2)])
        assert mode_metrics(samples, CENTRES, 0.01)["modes"] == modes
    far = CENTRES[1] + torch.tensor([0.11, 0.0])  # outside of the radius of 0.1
    samples = torch.cat([CENTRES[0].expand(2000, 2), far.expand(500, 2)])
    values = mode_metrics(samples, CENTRES, 0.05)
    assert values["modes"] == 1
    assert values["near"] == pytest.approx(0.8)
    assert values["high_quality"] == 1  # within 3 * 0.05


@pytest.mark.parametrize("name", ["8gaussians", "25gaussians"])
def test_real_points_are_perfect(name):
    data = Toy2D(name=name)
    samples, reference = data.reference_points("val"), data.reference_points("test")
    centres, _ = mixture(name)
    values = toy_metrics(samples, name, reference)
    assert values["modes"] == len(centres)
    # P(|N(0, I_2)| <= 3) = 1 - exp(-9 / 2)
    assert values["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.01)
    # K - 1 degrees of freedom: 2 N KL is a chi-square.
    assert values["reverse_kl"] < 3 * len(centres) / (2 * 2500)
    w1 = exact_w1(samples[:1000], reference[:1000]).item()
    assert values["w1"] == w1
    assert values["w1_ratio"] == pytest.approx(w1 / values["w1_real"])
    assert 0.4 < values["w1_ratio"] < 2.5


def test_the_swiss_roll_has_the_distance_only():
    data = Toy2D(name="swissroll")
    shifted = data.reference_points("test")[:1000] + torch.tensor([3.0, 4.0])
    values = toy_metrics(shifted, "swissroll", data.reference_points("test"))
    assert set(values) == {"w1", "w1_real", "w1_ratio"}
    assert values["w1"] == pytest.approx(5.0)


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="1000 samples and 2000 real points, got 999 and 2500"):
        toy_metrics(torch.zeros(999, 2), "8gaussians", torch.zeros(2500, 2))


@pytest.mark.slow
def test_the_gradient_penalty_finds_all_eight_modes(zoo_cli):
    """In 400 iterations, half a minute of one core; twice real points' distance or so."""
    flags = ["--trainer.max_steps", 400, "--trainer.val_check_interval", 400]
    code, _, err = zoo_cli("fit", "-c", "wgan/8gaussians-gp", *flags, "--run_dir", "run")
    assert code == 0, err
    with Path("run/metrics.csv").open(newline="") as file:
        (row,) = [row for row in csv.DictReader(file) if row["val/modes"]]
    assert float(row["val/modes"]) == 8
    assert float(row["val/w1_ratio"]) < 4
