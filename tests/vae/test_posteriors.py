import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from zoo.vae.posteriors import GaussianPosterior

F64 = {"dtype": torch.float64}


def gaussian(b=4, d=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    mean, log_std = (
        torch.randn(b, d, generator=g, **F64),
        0.5 * torch.randn(b, d, generator=g, **F64),
    )
    return mean.requires_grad_(), log_std.requires_grad_()


def reference(mean, log_std):
    return Independent(Normal(mean, log_std.exp()), 1), Independent(
        Normal(torch.zeros_like(mean), 1.0), 1
    )


def test_gaussian_draws_and_ratios_are_torchs():
    mean, log_std = gaussian()
    q, p = reference(mean, log_std)
    posterior = GaussianPosterior(mean, log_std)
    noise = torch.randn(5, 4, 3, **F64)
    z, ratio = posterior.draw(noise)
    torch.testing.assert_close(z, mean + log_std.exp() * noise)
    torch.testing.assert_close(ratio, q.log_prob(z) - p.log_prob(z))
    torch.testing.assert_close(posterior.log_ratio(z), ratio)
    torch.testing.assert_close(posterior.log_prob(z), q.log_prob(z))
    torch.testing.assert_close(posterior.kl(), kl_divergence(q, p))
    torch.testing.assert_close(posterior.kl_per_dimension().sum(1), posterior.kl())
    assert posterior.noise_dim == 3
    assert posterior.center is posterior.mean


def test_gaussian_gradients_are_those_of_log_q_of_z():
    mean, log_std = gaussian()
    noise = torch.randn(5, 4, 3, **F64)
    q, p = reference(mean, log_std)
    z = q.rsample((5,)).detach() * 0 + mean + log_std.exp() * noise
    expected = torch.autograd.grad((q.log_prob(z) - p.log_prob(z)).sum(), [mean, log_std])
    _, ratio = GaussianPosterior(mean, log_std).draw(noise)
    for a, b in zip(torch.autograd.grad(ratio.sum(), [mean, log_std]), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_path_only_keeps_the_value_and_drops_the_score():
    mean, log_std = gaussian()
    posterior = GaussianPosterior(mean, log_std)
    noise = torch.randn(5, 4, 3, **F64)
    z, whole = posterior.draw(noise)
    z_path, path = posterior.draw(noise, path_only=True)
    assert torch.equal(z, z_path)
    torch.testing.assert_close(path, whole)
    got = torch.autograd.grad(path.sum(), [mean, log_std])
    q, p = reference(mean.detach(), log_std.detach())
    z = mean + log_std.exp() * noise
    expected = torch.autograd.grad((q.log_prob(z) - p.log_prob(z)).sum(), [mean, log_std])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_every_code_meets_every_posterior():
    mean, log_std = gaussian()
    posterior = GaussianPosterior(mean, log_std)
    z = torch.randn(6, 3, **F64)
    table = posterior.log_prob(z[:, None])
    assert table.shape == (6, 4)
    one = GaussianPosterior(mean[2:3], log_std[2:3])
    torch.testing.assert_close(table[:, 2:3], one.log_prob(z[:, None]))


def test_widening_scales_the_deviation_only():
    mean, log_std = gaussian()
    wide = GaussianPosterior(mean, log_std).widen(1.2)
    torch.testing.assert_close(wide.log_std.exp(), 1.2 * log_std.exp())
    assert wide.mean is mean
    assert not GaussianPosterior(mean, log_std).detach().log_std.requires_grad


@pytest.mark.parametrize("log_std", [-12.0, 5.0])
def test_gaussian_ratio_in_float32_at_extreme_widths(log_std):
    mean, noise = torch.full((1, 2), 3.0), torch.tensor([[[0.7, -1.3]]])
    narrow = GaussianPosterior(mean, torch.full((1, 2), log_std))
    _, ratio = narrow.draw(noise)
    exact = GaussianPosterior(mean.double(), torch.full((1, 2), log_std, **F64)).draw(
        noise.double()
    )
    torch.testing.assert_close(ratio.double(), exact[1], rtol=1e-6, atol=1e-5)
    assert narrow.kl().dtype == torch.float32


def test_small_kl_keeps_its_digits():
    tiny = torch.full((1, 1), 1e-4)
    kl = GaussianPosterior(torch.zeros(1, 1), tiny).kl()
    exact = GaussianPosterior(torch.zeros(1, 1, **F64), tiny.double()).kl()
    torch.testing.assert_close(kl.double(), exact, rtol=2e-3, atol=0)


def test_half_precision_heads_are_taken_in_float32():
    mean = torch.randn(2, 3, dtype=torch.bfloat16)
    assert GaussianPosterior(mean, mean).kl().dtype == torch.float32
