"""Precision, recall, density, coverage against naive loops and cases that are known."""

import pytest
import torch
from torch import Tensor

from zoo.metrics import manifold
from zoo.metrics.manifold import manifold_metrics, neighbour_radii


def cloud(count: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator).double() * scale + shift


def naive(real: Tensor, fake: Tensor, k_pr: int, k_dc: int) -> list[float]:
    """As the reference code of the two papers, one pair at a time."""

    def radius(points: Tensor, i: int, k: int) -> float:
        distances = [float((points[i] - p).norm()) for j, p in enumerate(points) if j != i]
        return sorted(distances)[k - 1]

    n, m = len(real), len(fake)
    distance = [[float((r - f).norm()) for f in fake] for r in real]
    real_pr = [radius(real, i, k_pr) for i in range(n)]
    fake_pr = [radius(fake, j, k_pr) for j in range(m)]
    real_dc = [radius(real, i, k_dc) for i in range(n)]
    precision = sum(any(distance[i][j] <= real_pr[i] for i in range(n)) for j in range(m)) / m
    recall = sum(any(distance[i][j] <= fake_pr[j] for j in range(m)) for i in range(n)) / n
    density = sum(distance[i][j] < real_dc[i] for i in range(n) for j in range(m)) / (k_dc * m)
    coverage = sum(min(distance[i]) < real_dc[i] for i in range(n)) / n
    return [precision, recall, density, coverage]


@pytest.mark.parametrize("chunk", [2**24, 100])
@pytest.mark.parametrize(("n", "m"), [(40, 40), (25, 50), (50, 20)])
def test_equals_naive_loops(n: int, m: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifold, "_CHUNK", chunk)
    real, fake = cloud(n, 0, shift=1e3), cloud(m, 1, 1.5, 1e3 + 0.8)
    ours = manifold_metrics(real, fake, k_precision=1, k_density=2)
    values = [float(v) for v in ours]
    assert values == pytest.approx(naive(real, fake, 1, 2), abs=1e-12)
    assert sum(0 < value < 1 for value in values) >= 3  # the case is not a trivial one


def test_radii_count_duplicates_but_never_the_point_itself() -> None:
    x = torch.tensor([[0.0], [0.0], [1.0], [3.0]]).double()
    assert neighbour_radii(x, 1).tolist() == [0, 0, 1, 4]
    assert neighbour_radii(x, 2).tolist() == [1, 1, 1, 9]


def test_copies_of_the_real_set_are_perfect_and_far_ones_worthless() -> None:
    real = cloud(60, 2)
    same = manifold_metrics(real, real.clone())
    assert (float(same.precision), float(same.recall), float(same.coverage)) == (1, 1, 1)
    far = manifold_metrics(real, cloud(60, 3, shift=100.0))
    assert [float(v) for v in far] == [0, 0, 0, 0]


def test_a_collapsed_generator_is_precise_but_does_not_cover() -> None:
    real = cloud(100, 4)
    collapsed = real[:1] + cloud(100, 5, 1e-3)
    values = manifold_metrics(real, collapsed)
    assert float(values.precision) == 1
    assert float(values.recall) < 0.05
    assert float(values.coverage) < 0.2


def test_expected_density_of_the_same_distribution_is_one() -> None:
    # 2002.09797, appendix: E[density] = 1 and E[coverage] = 1 - Π (M-1..M-k)/(2M-1..) -> 1 - 2^-k
    values = manifold_metrics(cloud(2000, 6), cloud(2000, 7), k_density=5)
    assert float(values.density) == pytest.approx(1, abs=0.05)
    assert float(values.coverage) == pytest.approx(1 - 2**-5, abs=0.02)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 5 images a set, got 5 real and 9 generated"):
        manifold_metrics(cloud(5, 0), cloud(9, 1))


@pytest.mark.parametrize("chunk", [2**24, 1000, 300])
@pytest.mark.parametrize("dim", [37, 50, 64])
def test_duplicates_are_equal_whatever_rounding_does(
    dim: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every point thrice: balls of radius 0 for k = 2, and balls with points at their surface. The
    # distance of a point to its copy rounds to another number near 0 in a block of another shape.
    monkeypatch.setattr(manifold, "_CHUNK", chunk)
    for seed in range(3):
        points = torch.randn(30, dim, generator=torch.Generator().manual_seed(seed)) * 10
        real, fake = points.repeat(3, 1), points[:17].repeat_interleave(3, 0)
        zero = manifold_metrics(real, fake, k_precision=2, k_density=2)
        assert [float(v) for v in zero] == pytest.approx([1, 17 / 30, 0, 0], abs=1e-12)
        # k = 3: to the nearest other point, at the surface; inside are the three copies.
        other = manifold_metrics(real, fake, k_precision=3, k_density=3)
        assert [float(v) for v in other[2:]] == pytest.approx([1, 17 / 30], abs=1e-12)
        assert float(other.precision) == 1
