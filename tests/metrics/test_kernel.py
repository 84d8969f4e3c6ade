"""The kernel distance against naive loops, a closed form and torchmetrics."""

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.metrics.kernel import kernel_distance, squared_mmd


def features(count: int, dim: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, generator=generator).double() + shift


def test_unbiased_estimate_is_the_naive_double_sum() -> None:
    x, y = features(7, 3, 0), features(5, 3, 1, 0.3)

    def k(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    within_x = sum(k(x[i], x[j]) for i in range(7) for j in range(7) if i != j) / (7 * 6)
    within_y = sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / (5 * 4)
    between = sum(k(a, b) for a in x for b in y) / 35
    expected = within_x + within_y - 2 * between
    assert float(squared_mmd(x, y)) == pytest.approx(expected, rel=1e-12)


def test_two_points_have_a_closed_form() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, -1.0]])
    # k(a, a) + k(b, b) - 2 k(a, b) with k = (x·y / 2 + 1)³
    expected = 3.5**3 + 1.5**3 - 2 * 0.0**3
    mean, deviation = kernel_distance(a.expand(30, 2), b.expand(40, 2), subsets=4, subset_size=10)
    assert float(mean) == pytest.approx(expected, rel=1e-12)
    assert float(deviation) == pytest.approx(0, abs=1e-12)


def test_the_estimate_is_unbiased() -> None:
    # of one distribution: the mean over 400 pairs of sets is 0 within 4 standard errors
    estimates = torch.stack(
        [squared_mmd(features(20, 2, 2 * i), features(20, 2, 2 * i + 1)) for i in range(400)]
    )
    assert abs(estimates.mean()) < 4 * estimates.std() / 20


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
def test_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, x: Tensor) -> Tensor:
            return x.double().flatten(1) / 255

    generator = torch.Generator().manual_seed(5)
    real = torch.randint(0, 256, (60, 3, 2, 2), generator=generator, dtype=torch.uint8)
    fake = torch.randint(0, 200, (60, 3, 2, 2), generator=generator, dtype=torch.uint8)
    theirs = KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=60)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours, _ = kernel_distance(Flat()(real), Flat()(fake))
    assert float(ours) == pytest.approx(float(theirs.compute()[0]), rel=1e-5)


def test_subsets_are_seeded_and_their_mean_is_near_the_whole() -> None:
    x, y = features(400, 4, 0), features(300, 4, 1, 0.5)
    first = kernel_distance(x, y, subsets=50, subset_size=100, seed=1)
    again = kernel_distance(x, y, subsets=50, subset_size=100, seed=1)
    other = kernel_distance(x, y, subsets=50, subset_size=100, seed=2)
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(first[0], other[0])
    whole = squared_mmd(x, y)
    assert abs(first[0] - whole) < 4 * first[1] / 50**0.5


def test_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 images a set, got 1, 9"):
        kernel_distance(features(1, 2, 0), features(9, 2, 1))


@pytest.mark.parametrize("subset_size", [0, 1])
def test_subsets_of_one_image_are_refused(subset_size: int) -> None:
    with pytest.raises(ValueError, match=f"subsets of {subset_size}"):
        kernel_distance(features(9, 2, 0), features(9, 2, 1), subset_size=subset_size)


def test_features_of_numpy_of_whole_numbers_and_of_halves() -> None:
    x, y = (100 * features(20, 4, seed) for seed in range(2))
    given, _ = kernel_distance(np.asarray(x), np.asarray(y))  # type: ignore[arg-type]
    assert torch.equal(given, kernel_distance(x, y)[0])
    assert torch.equal(kernel_distance(x.long(), y.long())[0], squared_mmd(x.trunc(), y.trunc()))
    short = squared_mmd(x.half(), y.half())  # whose cubes are beyond a half's 65504
    assert float(short) == pytest.approx(float(squared_mmd(x, y)), rel=1e-2)
