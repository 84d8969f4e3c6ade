"""The Fréchet distance against closed forms, scipy and torchmetrics."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.linalg import sqrtm
from torch import Tensor, nn

from zoo.metrics.frechet import FeatureMoments, frechet_distance, gaussian_distance
from zoo.metrics.kernel import kernel_distance
from zoo.metrics.manifold import manifold_metrics

EPS = torch.finfo(torch.float64).eps


def spd(dim: int, seed: int) -> Tensor:
    a = torch.randn(dim, 2 * dim, generator=torch.Generator().manual_seed(seed)).double()
    return a @ a.T / dim


def turned(squares: Tensor, seed: int = 0) -> Tensor:
    """The covariance of these eigenvalues in an eigenbasis of `seed`."""
    basis = torch.linalg.qr(spd(len(squares), seed)).Q
    return basis @ torch.diag(squares) @ basis.T


def bound_of_covariances(s1: Tensor, s2: Tensor, eps: float = EPS) -> float:
    """How far the distance of rounded covariances of eigenvalues s1², s2² may be off.

    Rounding a covariance and decomposing it moves it by δ = 2 d ε λ, λ its largest eigenvalue (a
    product of d terms, and the backward error of eigh). Eigenvalues of 0 stay below the cut; a root
    of a positive one σ² moves by δ / (2 σ), its vector by δ / σ² and so the root's column by δ / σ:
    each of d terms of the nuclear norm by 2 δ / σ times the other factor's norm. Traces: d δ.
    """
    d, (most_1, most_2) = len(s1), (float(s.max()) for s in (s1, s2))
    least_1, least_2 = (float(s[s > 0].min()) for s in (s1, s2))
    delta_1, delta_2 = (2 * d * eps * most**2 for most in (most_1, most_2))
    roots = 2 * delta_1 / least_1 * most_2 + 2 * delta_2 / least_2 * most_1
    return d * (delta_1 + delta_2) + 2 * d * roots


def test_commuting_covariances_have_a_closed_form() -> None:
    # |μ1 - μ2|² + Σ (σ1 - σ2)² in a common eigenbasis
    s1, s2 = torch.tensor([0.0, 0.5, 1, 2, 3, 4]).double(), torch.arange(6.0).double()
    mean = torch.arange(6.0).double()
    expected = mean.square().sum() + (s1 - s2).square().sum()
    ours = gaussian_distance(mean, turned(s1**2), torch.zeros(6), turned(s2**2))
    assert abs(ours - expected) <= bound_of_covariances(s1, s2) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("d", [6, 45, 128])
def test_directions_without_variance_take_no_digits(d: int, dtype: torch.dtype) -> None:
    # Without the cut, what rounding leaves of 0 has a root: 1e-8 of the distance, 2e-4 in float32.
    generator = torch.Generator().manual_seed(d)
    s1, s2 = (torch.randint(1, 5, (d,), generator=generator).double() for _ in range(2))
    s1[: d // 3] = s2[: d // 2] = 0
    zero, covs = torch.zeros(d), [turned(s**2).to(dtype) for s in (s1, s2)]
    for a, b, expected in ((0, 1, (s1 - s2).square().sum()), (0, 0, torch.tensor(0.0))):
        ours = gaussian_distance(zero, covs[a], zero, covs[b])
        bound = bound_of_covariances(s1, s2, torch.finfo(dtype).eps)
        assert abs(ours - expected) <= bound


def test_covariances_of_integers_are_no_other_ones() -> None:
    zero, one = torch.zeros(2, dtype=torch.int64), torch.eye(2, dtype=torch.int64)
    assert float(gaussian_distance(zero, one, zero + 3, 4 * one)) == pytest.approx(20, rel=1e-14)


def features_of(s: Tensor, count: int, mean: Tensor, seed: int = 0) -> Tensor:
    """Features (count, d) of mean `mean` and the covariance of eigenvalues s², `turned`."""
    d = len(s)
    basis = torch.linalg.qr(spd(d, seed)).Q
    raw = torch.randn(count, d, generator=torch.Generator().manual_seed(count)).double()
    raw[:, s == 0] = 0
    white = torch.linalg.svd(raw - raw.mean(0), full_matrices=False).U
    # The vectors of no variance come last, and are not centred.
    white = white[:, : int((s > 0).sum())] * (count - 1) ** 0.5
    return (white * s[s > 0]) @ basis[:, s > 0].T + mean


@pytest.mark.parametrize(("few", "many", "d"), [(16, 500, 32), (64, 70, 128), (300, 300, 40)])
def test_distance_of_features_keeps_its_digits_near_singularity(
    few: int, many: int, d: int
) -> None:
    generator = torch.Generator().manual_seed(d)
    s1, s2 = (torch.rand(d, generator=generator).double() + 0.5 for _ in range(2))
    s1[few - 1 :], s2[many - 1 :] = 0, 0  # n features have n - 1 directions
    s1[0] = 1e-7  # and one that would be lost beside the others in a covariance
    mean = torch.rand(d, generator=generator).double()
    sets = [features_of(s1, few, mean), features_of(s2, many, torch.zeros(d))]
    expected = float(mean.square().sum() + (s1 - s2).square().sum())
    moments = [FeatureMoments(d), FeatureMoments(d)]
    for moment, x in zip(moments, sets, strict=True):
        for part in x.split(7):
            moment.update(part)
    # QR of n rows is backward stable to n d ε (Higham, Accuracy and Stability, theorem 19.4), and
    # so are the product and the singular values; making the features costs as much.
    scale = float(mean.square().sum() + s1.square().sum() + s2.square().sum())
    bound = 4 * many * d * EPS * scale
    assert float(frechet_distance(*moments)) == pytest.approx(expected, rel=0, abs=bound)
    assert bound < 1e-8
    assert float(frechet_distance(moments[0], moments[0])) <= bound


def test_general_covariances_agree_with_scipys_matrix_root() -> None:
    cov_1, cov_2, mean = spd(12, 1), spd(12, 2), torch.randn(12).double()
    root = torch.from_numpy(sqrtm((cov_1 @ cov_2).numpy())).real
    expected = mean.square().sum() + (cov_1 + cov_2 - 2 * root).trace()
    ours = gaussian_distance(mean, cov_1, torch.zeros(12), cov_2)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        gaussian_distance(torch.zeros(12), cov_2, mean, cov_1), ours, rtol=1e-10, atol=0
    )


def test_singular_covariances_are_no_trouble() -> None:
    # fewer images than features, where scipy's sqrtm of the product is complex or not finite
    low = torch.randn(64, 10, generator=torch.Generator().manual_seed(3)).double()
    cov = low @ low.T
    sigma = torch.linalg.svdvals(low)
    distance = gaussian_distance(torch.zeros(64), cov, torch.zeros(64), cov)
    assert distance <= bound_of_covariances(sigma, sigma) * 6.4  # 64 directions, 10 values
    point = gaussian_distance(torch.zeros(64), torch.zeros(64, 64), torch.zeros(64), cov)
    torch.testing.assert_close(point, cov.trace())


BAD = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [1.0, float("inf")]])


def test_features_that_are_not_finite_are_one_line() -> None:
    good, message = torch.randn(9, 2), r"^features are not finite: 2 of 3 rows hold NaN .* row 1;"
    for call in (
        lambda: FeatureMoments(2).update(BAD),
        lambda: kernel_distance(good, BAD),
        lambda: manifold_metrics(BAD, good, k_precision=1, k_density=1),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    zero, one = torch.zeros(2), torch.eye(2)
    for means, covs in (((zero, zero), (one, one * torch.nan)), ((zero / 0, zero), (one, one))):
        with pytest.raises(ValueError, match="a mean or covariance is not finite"):
            gaussian_distance(means[0], covs[0], means[1], covs[1])


def test_features_of_another_form_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 3\): give a row an image, of 2 numbers"):
        FeatureMoments(2).update(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"shape \(4, 3\): give a row an image, of 5 numbers"):
        kernel_distance(torch.zeros(9, 5), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"shape \(4,\): give a row an image, of 3 numbers"):
        manifold_metrics(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match=r"shapes \(3,\), \(3, 3\), \(3,\), \(2, 2\): give"):
        gaussian_distance(torch.zeros(3), torch.eye(3), torch.zeros(3), torch.eye(2))


def test_moments_of_uneven_batches_are_those_of_the_whole() -> None:
    # a mean a million times the deviation: a sum of squares would lose all digits
    x = torch.randn(101, 5, generator=torch.Generator().manual_seed(4)).double() + 1e6
    moments = FeatureMoments(5)
    for part in x.split([1, 0, 37, 2, 61]):
        moments.update(part)
    torch.testing.assert_close(moments.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.covariance, torch.cov(x.T), rtol=0, atol=1e-8)
    torch.testing.assert_close(moments.factor.T @ moments.factor, moments.covariance)
    assert moments.factor.shape == (5, 5)
    with pytest.raises(ValueError, match="at least 2 images, got 0"):
        _ = FeatureMoments(5).covariance


def test_agrees_with_torchmetrics_on_a_custom_feature_module() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Flat(nn.Module):
        num_features = 12

        def forward(self, x: Tensor) -> Tensor:
            return x.float().flatten(1) / 255

    generator = torch.Generator().manual_seed(5)
    real = torch.randint(0, 256, (200, 3, 2, 2), generator=generator, dtype=torch.uint8)
    fake = torch.randint(0, 200, (150, 3, 2, 2), generator=generator, dtype=torch.uint8)
    theirs = FrechetInceptionDistance(feature=Flat())
    ours = [FeatureMoments(12), FeatureMoments(12)]
    for images, is_real, moments in ((real, True, ours[0]), (fake, False, ours[1])):
        for part in images.split(64):
            theirs.update(part, real=is_real)
            moments.update(Flat()(part))
    torch.testing.assert_close(
        frechet_distance(*ours).float(), theirs.compute().float(), rtol=1e-5, atol=0
    )


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # a process that is forked has no other threads to wait for
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    x, y = torch.load(f"{folder}/x.pt")
    moments = FeatureMoments(4)
    moments.update(x[:70] if rank == 0 else x[70:])
    moments.all_reduce()
    few = FeatureMoments(12)  # fewer features than dimensions, all of them on one process
    few.update(y if rank == 0 else y[:0])
    few.all_reduce()
    whole = FeatureMoments(12)
    whole.update(y)
    numbers = moments.count, moments.mean, moments.covariance, frechet_distance(few, whole)
    torch.save(numbers, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_uneven_shares_give_the_moments_of_all(tmp_path: Path) -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(6)).double() + 1e3
    y = torch.randn(9, 12, generator=torch.Generator().manual_seed(7)).double()
    torch.save((x, y), tmp_path / "x.pt")
    mp.start_processes(_worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    for rank in range(2):
        count, mean, covariance, distance = torch.load(tmp_path / f"{rank}.pt")
        assert count == 100
        torch.testing.assert_close(mean, x.mean(0), rtol=1e-13, atol=0)
        torch.testing.assert_close(covariance, torch.cov(x.T), rtol=0, atol=1e-10)
        # One set twice: 0 to the rounding of the traces, not to its root.
        assert distance <= 9 * 12 * EPS * 2 * torch.cov(y.T).trace()
