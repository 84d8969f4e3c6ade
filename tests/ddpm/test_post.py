"""The derivation of kexue.fm/archives/9119, in the post's own letters.

The post's alpha_t = sqrt(1 - 0.02 t / T), beta_t = sqrt(1 - alpha_t^2), and bars for products:
bar_alpha_t = prod alpha, bar_beta_t = sqrt(1 - bar_alpha_t^2). Its network predicts the noise of
one step; Ho's is bar_beta_t / beta_t times that.
"""

import math

import pytest
import torch

from zoo.ddpm.diffusion import Diffusion
from zoo.ddpm.sampler import ancestral, run
from zoo.ddpm.schedule import Chain, make_betas
from zoo.layers.counter_rng import normal

T = 1000
CHAIN = Chain.from_betas(make_betas("post", T))
ALPHA = torch.sqrt(1 - 0.02 * torch.arange(1, T + 1).double() / T)
BETA = torch.sqrt(1 - ALPHA**2)
BAR_ALPHA = ALPHA.cumprod(0)
BAR_BETA = torch.sqrt(1 - BAR_ALPHA**2)


def letters(t):
    """alpha_t, beta_t, bar_alpha_t, bar_beta_t, bar_beta_{t-1}."""
    return ALPHA[t], BETA[t], BAR_ALPHA[t], BAR_BETA[t], BAR_BETA[t - 1]


def test_our_tables_are_the_posts():
    process = Diffusion(CHAIN, dtype=torch.float64)
    torch.testing.assert_close(process.sqrt_alpha_bar, BAR_ALPHA)
    torch.testing.assert_close(process.sqrt_one_minus_alpha_bar, BAR_BETA)
    # The post wants bar_alpha_T near 0: log bar_alpha_T < -0.005 (T + 1).
    assert BAR_ALPHA[-1].log() < -0.005 * (T + 1)


@pytest.mark.parametrize("t", [1, 20, 300, 999])
def test_one_noise_loss_is_the_two_noise_loss_less_a_constant(t):
    """And its gradient has the same mean and less variance: the post's reduction of variance."""
    alpha, beta, bar_alpha, bar_beta, bar_beta_prev = letters(t)
    d, n = 4, 200_000
    g = torch.Generator().manual_seed(t)
    x0 = torch.rand(n, d, generator=g, dtype=torch.float64) * 2 - 1
    eps_bar, eps_t = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    W = torch.randn(d, d, generator=g, dtype=torch.float64) * 0.5
    theta = torch.tensor(0.7, dtype=torch.float64)

    def network(x):  # a fixed function with one parameter theta; and its derivative in theta
        return torch.tanh(theta * x @ W), (1 - torch.tanh(theta * x @ W) ** 2) * (x @ W)

    # ||eps_t - net(bar_alpha_t x_0 + alpha_t bar_beta_{t-1} eps_bar + beta_t eps_t)||^2
    out, slope = network(bar_alpha * x0 + alpha * bar_beta_prev * eps_bar + beta * eps_t)
    two = ((eps_t - out) ** 2).sum(1)
    two_grad = (-2 * (eps_t - out) * slope).sum(1)
    # (beta_t / bar_beta_t)^2 ||eps - bar_beta_t / beta_t net(bar_alpha_t x_0 + bar_beta_t eps)||^2
    eps = (alpha * bar_beta_prev * eps_bar + beta * eps_t) / bar_beta
    out, slope = network(bar_alpha * x0 + bar_beta * eps)
    ratio = beta / bar_beta
    ours = Diffusion(CHAIN, loss="sum", dtype=torch.float64)
    one = ratio**2 * ours.loss(
        out / ratio, x0, bar_alpha * x0 + bar_beta * eps, torch.tensor([t]), eps
    )
    one_grad = (-2 * (ratio * eps - out) * slope).sum(1)

    constant = d * (alpha * bar_beta_prev / bar_beta) ** 2
    for difference, expected in [(two - one, constant), (two_grad - one_grad, 0.0)]:
        error = difference.std() / n**0.5
        assert abs(difference.mean() - expected) < 4 * error
    # Common random numbers make the difference sharp: the bar is below 1 % of the constant.
    assert (two - one).std() / n**0.5 < 0.01 * constant
    assert two_grad.var() > 1.02 * one_grad.var()


def test_the_noises_are_a_rotation():
    """bar_beta eps = alpha bar_beta' eps_bar + beta eps_t, with omega orthogonal to it."""
    for t in (1, 500, 999):
        alpha, beta, _, bar_beta, bar_beta_prev = letters(t)
        R = torch.stack(
            [
                torch.stack([alpha * bar_beta_prev, beta]),
                torch.stack([beta, -alpha * bar_beta_prev]),
            ]
        )
        torch.testing.assert_close(R @ R.T / bar_beta**2, torch.eye(2).double())


def test_mean_of_the_reverse_step():
    """(x_t - beta_t eps_theta) / alpha_t is the posterior mean at the predicted x_0."""
    process = Diffusion(CHAIN, dtype=torch.float64)
    g = torch.Generator().manual_seed(1)
    x_t, ho = torch.randn(2, T, 1, 2, 2, generator=g, dtype=torch.float64)
    t = torch.arange(T)
    mean, _ = process.reverse(ho, x_t, t, clip=False)
    ratio, alpha, beta = ((v[t]).reshape(-1, 1, 1, 1) for v in (BETA / BAR_BETA, ALPHA, BETA))
    torch.testing.assert_close(mean, (x_t - beta * ratio * ho) / alpha, rtol=0, atol=2e-11)


@pytest.mark.parametrize("variance", ["zero", "fixed_large"])
def test_sampling_as_the_post_writes_it(variance):
    """x_{t-1} = (x_t - beta_t eps_theta) / alpha_t, greedy; + beta_t z, random."""
    process = Diffusion(CHAIN, variance=variance, dtype=torch.float64)
    plan = ancestral(process, clip=False)

    def ho(x, t):
        return torch.sin(x + 0.01 * t.reshape(-1, 1, 1, 1))

    index = torch.arange(3)
    x = normal(2, index, T, (1, 2, 2)).double()
    *_, got = run(ho, plan, x, seed=2, index=index)
    for i in reversed(range(T)):
        net = BETA[i] / BAR_BETA[i] * ho(x, torch.full((3,), i))
        x = (x - BETA[i] * net) / ALPHA[i]
        if variance == "fixed_large" and i:
            x = x + BETA[i] * normal(2, index, i, (1, 2, 2)).double()
    torch.testing.assert_close(got, x, rtol=1e-8, atol=1e-8)


def test_sum_loss_of_an_untrained_network_is_the_number_of_pixels():
    process = Diffusion(CHAIN, loss="sum")
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 500, 3, 8, 8, generator=g)
    t = torch.randint(0, T, (500,), generator=g)
    loss = process.loss(torch.zeros_like(x0), x0, process.q_sample(x0, t, noise), t, noise)
    error = math.sqrt(2 * 192 / 500)  # chi squared with 192 degrees of freedom
    assert loss.mean().item() == pytest.approx(192, abs=4 * error)
