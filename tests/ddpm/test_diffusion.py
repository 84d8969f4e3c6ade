import copy
import math

import pytest
import torch

from zoo.ddpm.diffusion import Diffusion
from zoo.ddpm.schedule import Chain, make_betas

CHAINS = {name: Chain.from_betas(make_betas(name)) for name in ("linear", "post", "cosine")}
SHAPE = (64, 2, 4, 4)


def draws(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    t = torch.randint(0, 1000, shape[:1], generator=g)
    t[:2] = torch.tensor([0, 999])
    x0 = torch.rand(shape, generator=g, dtype=torch.float64) * 2 - 1
    return x0, t, torch.randn(shape, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("schedule", CHAINS)
@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
def test_target_means_the_image(schedule, objective):
    process = Diffusion(CHAINS[schedule], objective=objective, dtype=torch.float64)
    x0, t, noise = draws(*SHAPE)
    x_t = process.q_sample(x0, t, noise)
    target = process.target(x0, t, noise)
    ab = CHAINS[schedule].alpha_bar[t].reshape(-1, 1, 1, 1)
    expected = {"eps": noise, "x0": x0, "v": ab.sqrt() * noise - (1 - ab).sqrt() * x0}[objective]
    torch.testing.assert_close(x_t, ab.sqrt() * x0 + (1 - ab).sqrt() * noise)
    torch.testing.assert_close(target, expected)
    torch.testing.assert_close(process.predict_x0(target, x_t, t), x0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
def test_q_sample_is_the_chain_of_single_steps(objective):
    # Moments of x_t by composing x_t = sqrt(1 - beta) x_{t-1} + sqrt(beta) eps.
    process = Diffusion(CHAINS["post"], objective=objective, dtype=torch.float64)
    scale, variance = 1.0, 0.0
    for i, beta in enumerate(make_betas("post").tolist()):
        scale, variance = scale * math.sqrt(1 - beta), (1 - beta) * variance + beta
        assert process.sqrt_alpha_bar[i].item() == pytest.approx(scale, rel=1e-10)
        assert process.sqrt_one_minus_alpha_bar[i].item() ** 2 == pytest.approx(variance, rel=1e-10)


def test_min_snr_weighs_the_same_error_alike():
    """For one error of x_0 the loss is min(SNR, 5) times its square, whatever is predicted."""
    x0, t, noise = draws(*SHAPE)
    error = draws(*SHAPE, seed=1)[2] * 0.1
    snr = CHAINS["linear"].snr[t]
    expected = snr.clamp(max=5) * (error**2).flatten(1).mean(1)
    for objective in ("eps", "x0", "v"):
        process = Diffusion(
            CHAINS["linear"], objective=objective, weighting="min_snr", dtype=torch.float64
        )
        x_t = process.q_sample(x0, t, noise)
        ab = CHAINS["linear"].alpha_bar[t].reshape(-1, 1, 1, 1)
        guess = x0 + error
        guess_noise = (x_t - ab.sqrt() * guess) / (1 - ab).sqrt()
        output = process.target(guess, t, guess_noise)
        loss = process.loss(output, x0, x_t, t, noise)
        torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("schedule", CHAINS)
def test_sum_is_the_mean_times_the_number_of_pixels(schedule):
    x0, t, noise = draws(*SHAPE)
    output = draws(*SHAPE, seed=2)[2]
    mean, total = (
        Diffusion(CHAINS[schedule], loss=reduction, dtype=torch.float64).loss(
            output, x0, x0, t, noise
        )
        for reduction in ("mean", "sum")
    )
    torch.testing.assert_close(total, 32 * mean)
    torch.testing.assert_close(mean, ((output - noise) ** 2).mean((1, 2, 3)))


@pytest.mark.parametrize(
    ("schedule", "s2", "floor"),
    [
        ("linear", 1, 0.2755132334),
        ("cosine", 1, 0.4955775126),
        ("linear", 0.25, 0.1730534061),
        ("cosine", 0.25, 0.3276534273),
    ],
)
def test_loss_floor_of_gaussian_data(schedule, s2, floor):
    """Mean over t of the Bayes predictor's loss; the sign choices make the expectation exact."""
    process = Diffusion(CHAINS[schedule], dtype=torch.float64)
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64).repeat(1000, 1)
    x0, noise = (s2**0.5 * signs[:, :1]).reshape(-1, 1, 1, 1), signs[:, 1:].reshape(-1, 1, 1, 1)
    t = torch.arange(1000).repeat_interleave(4)
    x_t = process.q_sample(x0, t, noise)
    ab = CHAINS[schedule].alpha_bar[t].reshape(-1, 1, 1, 1)
    output = (1 - ab).sqrt() * x_t / (ab * s2 + 1 - ab)
    assert process.loss(output, x0, x_t, t, noise).mean().item() == pytest.approx(floor, abs=1e-10)
    # A network that says zero has a loss of 1.
    assert process.loss(0 * output, x0, x_t, t, noise).mean().item() == pytest.approx(1, abs=1e-12)


def test_variances():
    chain = CHAINS["linear"]
    beta, tilde = chain.beta, chain.beta_tilde
    small = Diffusion(chain, variance="fixed_small", dtype=torch.float64).log_variance.exp()
    large = Diffusion(chain, variance="fixed_large", dtype=torch.float64).log_variance.exp()
    torch.testing.assert_close(small[1:], tilde[1:])
    torch.testing.assert_close(large[1:], beta[1:])
    # Ho's convention: both have the posterior's second value at t = 0.
    assert small[0].item() == pytest.approx(5.4531876613e-05, rel=1e-10)
    assert large[0].item() == pytest.approx(5.4531876613e-05, rel=1e-10)
    assert (Diffusion(chain, variance="zero").log_variance.exp() == 0).all()


@pytest.mark.parametrize("schedule", CHAINS)
def test_learned_range_reaches_from_beta_tilde_to_beta(schedule):
    chain = CHAINS[schedule]
    process = Diffusion(chain, variance="learned_range", dtype=torch.float64)
    x0, t, noise = draws(*SHAPE)
    x_t = process.q_sample(x0, t, noise)
    for fraction, expected in [(-1.0, process.log_beta_tilde), (1.0, process.log_beta)]:
        output = torch.cat([noise, torch.full_like(noise, fraction)], 1)
        mean, log_variance = process.reverse(output, x_t, t, clip=False)
        torch.testing.assert_close(log_variance[:, 0, 0, 0], expected[t])
        torch.testing.assert_close(mean, process.posterior_mean(x0, x_t, t), rtol=1e-7, atol=1e-7)
    # lucidrains' floor at t = 0 is log(1e-20) = -46.05.
    if schedule == "linear":
        assert process.log_beta_tilde[0].item() == pytest.approx(-9.8167, abs=1e-4)


def test_hybrid_loss_trains_the_variance_by_the_bound_alone():
    process = Diffusion(CHAINS["linear"], variance="learned_range", dtype=torch.float64)
    plain = Diffusion(CHAINS["linear"], dtype=torch.float64)
    x0, t, noise = draws(16, 1, 4, 4)
    x0 = (x0 * 127.5).round() / 127.5
    x_t = process.q_sample(x0, t, noise)
    output = torch.cat([noise + 0.1, 0.3 * noise], 1).requires_grad_()
    loss = process.loss(output, x0, x_t, t, noise)
    bound = process.bound_term(output, x0, x_t, t, clip=False)
    simple = plain.loss(output[:, :1], x0, x_t, t, noise)
    torch.testing.assert_close(loss, simple + 0.001 * 1000 * bound)
    # Eq. 16 of arXiv 2102.09672: the mean sees the simple loss, the variance the bound.
    (grad,) = torch.autograd.grad(loss.sum(), output)
    (of_simple,) = torch.autograd.grad(plain.loss(output[:, :1], x0, x_t, t, noise).sum(), output)
    (of_bound,) = torch.autograd.grad(
        process.bound_term(output, x0, x_t, t, clip=False).sum(), output
    )
    torch.testing.assert_close(grad[:, :1], of_simple[:, :1])
    torch.testing.assert_close(grad[:, 1:], of_bound[:, 1:])
    summed = Diffusion(CHAINS["linear"], variance="learned_range", loss="sum", dtype=torch.float64)
    torch.testing.assert_close(summed.loss(output, x0, x_t, t, noise), 16 * loss)


def test_weights_do_not_depend_on_the_schedule():
    # Schedule tables in a state dict break checkpoints when the schedule changes (lucidrains).
    assert Diffusion(CHAINS["linear"]).state_dict() == {}


def test_tables_keep_their_precision():
    process = Diffusion(CHAINS["linear"])
    before = process.sqrt_one_minus_alpha_bar.clone()
    for cast in (copy.deepcopy(process).bfloat16(), copy.deepcopy(process).half().float()):
        assert torch.equal(cast.sqrt_one_minus_alpha_bar, before)
        assert cast.timesteps.dtype == torch.int64


def test_every_grey_level_survives_the_way_there_and_back():
    v = torch.arange(256)
    x = v.float() / 127.5 - 1
    assert torch.equal(((x + 1) * 127.5).round().long(), v)
    # Truncating ((x + 1) / 2 * 255) instead would change 63 levels.
    assert int((((x + 1) / 2 * 255).long() != v).sum()) == 63


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "noise"}, "objective='noise': choose one of eps, x0, v"),
        ({"variance": "learned"}, "variance='learned': choose one of fixed_small"),
        ({"loss": "l1"}, "loss='l1': choose one of mean, sum"),
        ({"weighting": "snr"}, "weighting='snr': choose one of uniform, min_snr"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma=0.0"),
        ({"vlb_weight": -1.0}, "vlb_weight=-1.0"),
        ({"levels": 1}, "levels=1"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Diffusion(CHAINS["linear"], **options)
