"""The bound against closed forms: Gaussian and two-point data with the Bayes predictor."""

import math

import pytest
import torch

from zoo.ddpm.diffusion import Diffusion
from zoo.ddpm.gaussian import discretized_log_prob, normal_kl
from zoo.ddpm.likelihood import histogram_bits_per_dim, variational_bound
from zoo.ddpm.schedule import Chain, make_betas, spaced_timesteps
from zoo.layers.counter_rng import normal


def diffusion(schedule="linear", **options):
    chain = Chain.from_betas(make_betas(schedule))
    return Diffusion(chain, dtype=torch.float64, **options)


def bayes_eps(process, x_t, t, s2):
    """E[eps | x_t] for data from N(0, s2)."""
    ab = process.chain.alpha_bar[t].reshape(-1, 1, 1, 1)
    return (1 - ab).sqrt() * x_t / (ab * s2 + 1 - ab)


def gaussian_bound(process, s2):
    """Exact bound in bits for data from N(0, s2), with the decoder's density at the data for L_0.

    Every term is quadratic in (x_0, eps), so that the mean over the four sign choices is exact.
    """
    T = len(process.chain)
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    x0, noise = signs.repeat(T, 1).reshape(4 * T, 2, 1, 1).split(1, dim=1)
    x0, t = s2**0.5 * x0, torch.arange(T).repeat_interleave(4)
    x_t = process.q_sample(x0, t, noise)
    output = bayes_eps(process, x_t, t, s2)
    terms = process.bound_term(output, x0, x_t, t, clip=False).reshape(T, 4).mean(1)
    mean, log_var = process.reverse(output[:4], x_t[:4], t[:4], clip=False)
    density = -0.5 * (math.log(2 * math.pi) + log_var + (x0[:4] - mean) ** 2 / log_var.exp())
    decoder = -density.mean() / math.log(2)
    return (process.prior_term(x0).mean() + decoder + terms[1:].sum()).item()


GAUSSIAN = {  # s2: exact, beta at every step, fixed_large, fixed_small, optimal variance
    1: (2.0470955852, 2.0470955852, 2.2111336563, 2.8818314991, 2.0470955852),
    0.25: (1.0470955852, 1.0486713765, 1.2125290661, 1.8693249003, 1.0470955855),
    0.04: (-0.2748325097, -0.2640029792, -0.1014049373, 0.5111717344, -0.2748325092),
    1e-4: (-4.5967606046, -4.1459764510, -4.2826494511, -4.5439817834, -4.5967606040),
}


@pytest.mark.parametrize("s2", GAUSSIAN)
def test_bound_on_gaussian_data(s2):
    exact, beta, large, small, optimal = GAUSSIAN[s2]
    assert exact == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * s2), abs=1e-10)
    process = diffusion(variance="fixed_large")
    assert gaussian_bound(process, s2) == pytest.approx(large, abs=2e-9)
    assert gaussian_bound(diffusion(variance="fixed_small"), s2) == pytest.approx(small, abs=2e-9)
    process.log_variance = process.log_beta
    assert gaussian_bound(process, s2) == pytest.approx(beta, abs=2e-9)
    chain = process.chain
    spread = s2 * (1 - chain.alpha_bar) / (chain.alpha_bar * s2 + 1 - chain.alpha_bar)
    process.log_variance = (chain.beta_tilde + chain.posterior_x0**2 * spread).log()
    assert gaussian_bound(process, s2) == pytest.approx(optimal, abs=2e-9)
    if s2 == 1:  # kexue.fm/archives/9152: beta_t is optimal for standard normal data
        torch.testing.assert_close(process.log_variance.exp(), chain.beta, rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("schedule", "quarter", "one"),
    [("linear", 7.2787e-06, 2.9113e-05), ("cosine", 4.38e-10, 1.75e-09)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prior_term(schedule, quarter, one, dtype):
    process = Diffusion(Chain.from_betas(make_betas(schedule)))
    x0 = torch.tensor([0.5, 1], dtype=dtype).reshape(2, 1, 1, 1)
    digits = 5e-5 if schedule == "linear" else 3e-3
    assert process.prior_term(x0).tolist() == pytest.approx([quarter, one], rel=digits)


TWO_POINT = {
    ("linear", "fixed_large"): (1.48715377, 0.50990788, 0.50982507, 1.99709076),
    ("linear", "fixed_small"): (1.00681174, 0.50990788, 0.50982507, 1.51674873),
    ("cosine", "fixed_large"): (1.43272813, 0.32289994, 0.32269170, 1.75562807),
    ("cosine", "fixed_small"): (1.00374209, 0.32289994, 0.32269170, 1.32664202),
}


def two_point_predictor(process):
    def predict(x_t, t):
        ab = process.chain.alpha_bar[t].reshape(-1, 1, 1, 1)
        x0 = torch.tanh(ab.sqrt() * x_t / (1 - ab))
        return (x_t - ab.sqrt() * x0) / (1 - ab).sqrt()

    return predict


@pytest.mark.parametrize(("schedule", "variance"), TWO_POINT)
def test_bound_on_two_point_data(schedule, variance):
    """x_0 = 1 or -1, exactly 1 bit: exercises the outermost bins and the whole bound."""
    process = diffusion(schedule, variance=variance)
    predict = two_point_predictor(process)
    # By symmetry x_0 = 1 will do; the mean over the noise by the trapezoidal rule.
    grid = torch.linspace(-9, 9, 801, dtype=torch.float64)
    mass = torch.exp(-(grid**2) / 2)
    mass /= mass.sum()
    noise = grid.repeat(1000).reshape(-1, 1, 1, 1)
    x0, t = torch.ones_like(noise), torch.arange(1000).repeat_interleave(len(grid))
    x_t = process.q_sample(x0, t, noise)
    output = predict(x_t, t)
    terms = process.bound_term(output, x0, x_t, t).reshape(1000, -1) @ mass
    first = slice(len(grid))
    erf_term = process.bound_term(output[first], x0[first], x_t[first], t[first], cdf="erf") @ mass
    rate = terms[1:].sum().item()
    decoder = {"tanh": terms[0].item(), "erf": erf_term.item()}
    kl, tanh, erf, total = TWO_POINT[schedule, variance]
    assert rate == pytest.approx(kl, abs=2e-8)
    assert decoder == pytest.approx({"tanh": tanh, "erf": erf}, abs=2e-8)
    prior = process.prior_term(x0[:1]).item()
    assert rate + decoder["tanh"] + prior == pytest.approx(total, abs=2e-8)


def test_variational_bound_is_the_sum_of_its_terms():
    process = Diffusion(Chain.from_betas(make_betas()), variance="fixed_small")
    x0 = torch.where(torch.arange(2 * 3 * 4 * 4) % 2 == 0, 1.0, -1.0).reshape(2, 3, 4, 4)
    index = torch.tensor([5, 2])
    seen = []

    def predict(x_t, t):
        seen.append(int(t[0]))
        return two_point_predictor(process)(x_t.double(), t).to(x_t)

    bound = variational_bound(process, predict, x0, seed=3, index=index)
    assert seen == list(range(1000))
    for i in (0, 1, 500, 999):
        t = torch.full((2,), i)
        x_t = process.q_sample(x0, t, normal(3, index, i, (3, 4, 4)))
        expected = process.bound_term(predict(x_t, t), x0, x_t, t)
        torch.testing.assert_close(bound.steps[:, i], expected)
    torch.testing.assert_close(bound.total, bound.prior + bound.decoder + bound.steps[:, 1:].sum(1))
    # One draw of the noise for 96 independent pixels: within 4 standard errors of the exact value.
    assert bound.total.mean().item() == pytest.approx(1.51674873, abs=0.1)
    alone = variational_bound(process, predict, x0[1:], seed=3, index=index[1:])
    torch.testing.assert_close(alone.steps, bound.steps[1:], rtol=1e-5, atol=1e-6)


def test_bound_of_a_respaced_process():
    # On N(0, 1) data with beta at every step the bound is exact for any subset of the steps.
    process = diffusion(variance="fixed_large").respaced(spaced_timesteps(1000, 20, "leading"))
    process.log_variance = process.log_beta
    assert gaussian_bound(process, 1) == pytest.approx(2.0470955852, abs=1e-9)


def test_zero_variance_has_no_likelihood():
    process = diffusion(variance="zero")
    with pytest.raises(ValueError, match="variance=zero has no likelihood"):
        variational_bound(
            process, lambda x, t: x, torch.zeros(1, 1, 1, 1), seed=0, index=torch.zeros(1).long()
        )


def test_normal_kl_is_that_of_torch():
    g = torch.Generator().manual_seed(0)
    m1, v1, m2, v2 = torch.randn(4, 100, generator=g, dtype=torch.float64)
    p = torch.distributions.Normal(m1, (v1 / 2).exp())
    q = torch.distributions.Normal(m2, (v2 / 2).exp())
    expected = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(normal_kl(m1, v1, m2, v2), expected)


def naive_log_prob(x, mean, log_var, levels, cdf):
    """Ho's form: differences of the distribution function at the bin's edges."""
    s, half = math.exp(log_var / 2), 1 / (levels - 1)

    def phi(z):
        if cdf == "erf":
            return 0.5 * math.erfc(-z / math.sqrt(2))
        return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))

    upper, lower = phi((x + half - mean) / s), phi((x - half - mean) / s)
    if x < -0.999:
        mass = upper
    elif x > 0.999:
        mass = 1 - lower
    else:
        mass = upper - lower
    return math.log(max(mass, 1e-12))


@pytest.mark.parametrize("cdf", ["tanh", "erf"])
@pytest.mark.parametrize("levels", [256, 17, 2])
def test_decoder_equals_its_definition(cdf, levels):
    x = 2 * torch.arange(levels).double() / (levels - 1) - 1
    for mean, log_var in [(0.1, -2.0), (-0.9, -9.8), (1.2, -3.0), (0.0, 1.0)]:
        expected = torch.tensor(
            [naive_log_prob(v, mean, log_var, levels, cdf) for v in x.tolist()]
        ).double()
        got = discretized_log_prob(x, torch.tensor(mean), torch.tensor(log_var), levels, cdf)
        assert got.exp().sum() == pytest.approx(1, abs=1e-9)
        # Where the naive difference of two numbers near 1 has digits left to compare with.
        known = expected > -24
        torch.testing.assert_close(got[known], expected[known], rtol=1e-4, atol=1e-5)


def test_decoder_keeps_its_digits_in_float32():
    x = (2 * torch.arange(256) / 255 - 1).double()
    mean, log_var = torch.tensor(-0.8).double(), torch.tensor(-5.0).double()
    exact = discretized_log_prob(x, mean, log_var, 256)
    got = discretized_log_prob(x.float(), mean.float(), log_var.float(), 256)
    torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-4)


def test_decoder_of_a_centred_pixel():
    x = torch.tensor(1 / 255).double()
    log_var = Chain.from_betas(make_betas()).beta_tilde_clipped[0].log()
    for v, bits in [(log_var, 1.305665), (torch.tensor(1e-4).log(), 1.713015)]:
        got = -discretized_log_prob(x, x, v, 256) / math.log(2)
        assert got.item() == pytest.approx(bits, abs=1e-6)


def test_histogram_baseline_by_counting():
    levels = 5
    g = torch.Generator().manual_seed(0)
    train = torch.randint(0, levels, (40, 1, 2, 3), generator=g)
    test = torch.randint(0, levels, (7, 1, 2, 3), generator=g)
    total = 0.0
    for image in test:
        for place in range(6):
            count = sum(int(other.flatten()[place] == image.flatten()[place]) for other in train)
            total -= math.log2((count + 1) / (40 + levels))
    as_bytes = [(v * 255 / (levels - 1)).round().to(torch.uint8) for v in (train, test)]
    got = histogram_bits_per_dim(*as_bytes, levels)
    assert got == pytest.approx(total / (7 * 6), rel=1e-12)
