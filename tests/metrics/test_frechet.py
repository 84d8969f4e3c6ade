"""The Fréchet distance against closed forms, scipy and torchmetrics."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scipy.linalg import sqrtm
from torch import Tensor, nn

from zoo.metrics.frechet import FeatureMoments, frechet_distance, gaussian_distance


def spd(dim: int, seed: int) -> Tensor:
    a = torch.randn(dim, 2 * dim, generator=torch.Generator().manual_seed(seed)).double()
    return a @ a.T / dim


def test_commuting_covariances_have_a_closed_form() -> None:
    # |μ1 - μ2|² + Σ (σ1 - σ2)² in a common eigenbasis
    basis = torch.linalg.qr(spd(6, 0)).Q
    s1, s2 = torch.tensor([0.0, 0.5, 1, 2, 3, 4]).double(), torch.arange(6.0).double()
    cov_1, cov_2 = (basis @ torch.diag(s**2) @ basis.T for s in (s1, s2))
    mean = torch.arange(6.0).double()
    expected = mean.square().sum() + (s1 - s2).square().sum()
    zero = torch.zeros(6)
    torch.testing.assert_close(
        gaussian_distance(mean, cov_1, zero, cov_2), expected, rtol=1e-9, atol=0
    )


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
    distance = gaussian_distance(torch.zeros(64), cov, torch.zeros(64), cov)
    assert distance <= 1e-6 * cov.trace()
    point = gaussian_distance(torch.zeros(64), torch.zeros(64, 64), torch.zeros(64), cov)
    torch.testing.assert_close(point, cov.trace())


def test_moments_of_uneven_batches_are_those_of_the_whole() -> None:
    # a mean a million times the deviation: a sum of squares would lose all digits
    x = torch.randn(101, 5, generator=torch.Generator().manual_seed(4)).double() + 1e6
    moments = FeatureMoments(5)
    for part in x.split([1, 0, 37, 2, 61]):
        moments.update(part)
    torch.testing.assert_close(moments.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(moments.covariance, torch.cov(x.T), rtol=0, atol=1e-8)
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
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    x = torch.load(f"{folder}/x.pt")
    moments = FeatureMoments(4)
    moments.update(x[:70] if rank == 0 else x[70:])
    moments.all_reduce()
    torch.save((moments.count, moments.mean, moments.covariance), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_with_uneven_shares_give_the_moments_of_all(tmp_path: Path) -> None:
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(6)).double() + 1e3
    torch.save(x, tmp_path / "x.pt")
    mp.start_processes(_worker, args=(str(tmp_path),), nprocs=2, start_method="fork")
    for rank in range(2):
        count, mean, covariance = torch.load(tmp_path / f"{rank}.pt")
        assert count == 100
        torch.testing.assert_close(mean, x.mean(0), rtol=1e-13, atol=0)
        torch.testing.assert_close(covariance, torch.cov(x.T), rtol=0, atol=1e-10)
