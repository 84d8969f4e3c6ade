import itertools
import math

import pytest
import torch

from zoo.ddpm.schedule import Chain, make_betas, spaced_timesteps


def close(actual, expected, digits=10):
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.tensor(expected, dtype=torch.float64),
        rtol=10**-digits,
        atol=0,
    )


@pytest.fixture(scope="module")
def linear():
    return Chain.from_betas(make_betas("linear"))


def test_linear_values(linear):
    close(linear.alpha_bar[[0, 499, 999]], [0.9999, 0.0785872429, 4.035830e-05], 6)
    close(linear.alpha_bar[499], 0.0785872429, 9)
    close(linear.alpha_bar[-1].sqrt(), 6.352818e-03, 6)
    close(linear.beta_tilde[[1, 500, 999]], [5.4531876613e-05, 1.0051335779e-02, 1.9999983527e-02])
    close(linear.posterior_x0[[1, 999]], [0.5452914995, 1.2835148717e-04], 9)
    close(linear.posterior_xt[[1, 999]], [0.4547084990, 0.9899486783], 9)
    close(linear.snr[[0, 499]], [9999, 0.0852899446], 8)
    close(linear.snr[999], 4.03599e-05, 6)
    assert int((linear.snr < 5).nonzero()[0]) == 130
    sigma = linear.snr**-0.5
    close(sigma[[0, 999]], [0.010001, 157.4073], 4)
    assert linear.beta_tilde[0] == 0
    assert linear.beta_tilde_clipped[0] == linear.beta_tilde[1]


def test_post_values():
    T = 1000
    betas = make_betas("post", T)
    close(betas[[0, 999]], [2e-5, 0.02])
    # In the post's letters: alpha_t = sqrt(1 - 0.02 t / T), and their product at T.
    alphas = [math.sqrt(1 - 0.02 * t / T) for t in range(1, T + 1)]
    close(
        Chain.from_betas(betas).alpha_bar.sqrt(),
        torch.tensor(alphas).double().cumprod(0).tolist(),
        6,
    )
    last = Chain.from_betas(betas).alpha_bar[-1]
    close(last.log() / 2, -5.03872, 6)
    close(last.sqrt(), 6.4820e-3, 4)


def test_cosine_values():
    chain = Chain.from_betas(make_betas("cosine"))
    close(chain.beta[[0, 998, 999]], [4.128422e-05, 0.749999, 0.999], 6)
    close(chain.alpha_bar[499], 0.49384359, 7)
    close(chain.alpha_bar[999], 2.4288e-09, 4)
    close(chain.snr[999] ** -0.5, 20291, 4)
    close(make_betas("cosine", 4000)[0], 9.865819e-06, 6)
    close(Chain.from_betas(make_betas("cosine", 4000)).alpha_bar[-1], 1.5180e-10, 4)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")]
)
def test_equals_diffusers(ours, theirs):
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.DDPMScheduler(beta_schedule=theirs, beta_start=1e-4, beta_end=0.02)
    torch.testing.assert_close(make_betas(ours).float(), scheduler.betas, rtol=0, atol=3e-8)


def test_float64_is_needed():
    # The float32 product is off by more than 1e-4 where 1 - alpha_bar is small.
    rough = 1 - torch.cumprod(1 - make_betas("linear").float(), 0).double()
    exact = 1 - Chain.from_betas(make_betas("linear")).alpha_bar
    assert ((rough - exact) / exact).abs().max() > 1e-4


def test_posterior_by_bayes_rule(linear):
    # q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0): add precisions.
    beta, prev = linear.beta[1:], linear.alpha_bar_prev[1:]
    precision = (1 - beta) / beta + 1 / (1 - prev)
    close(linear.beta_tilde[1:], (1 / precision).tolist())
    close(linear.posterior_xt[1:], ((1 - beta).sqrt() / beta / precision).tolist())
    close(linear.posterior_x0[1:], (prev.sqrt() / (1 - prev) / precision).tolist())


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("leading", list(range(980, -1, -20))),
        ("trailing", list(range(999, 18, -20))),
        ("linspace", [round(999 * i / 49) for i in range(49, -1, -1)]),
    ],
)
def test_fifty_steps(spacing, expected):
    assert spaced_timesteps(1000, 50, spacing) == expected
    schedulers = pytest.importorskip("diffusers.schedulers")
    scheduler = schedulers.DDPMScheduler(timestep_spacing=spacing)
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == expected


def test_quadratic_is_the_published_list():
    kept = spaced_timesteps(1000, 10, "quadratic")
    assert kept == [int((math.sqrt(800) * i / 9) ** 2 + 1e-9) for i in range(9, -1, -1)]


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "quadratic"])
@pytest.mark.parametrize(("T", "S"), [(1000, 1000), (1000, 300), (1000, 13), (1000, 7), (37, 10)])
def test_any_number_of_steps_spans_the_process(spacing, T, S):
    kept = spaced_timesteps(T, S, spacing)
    assert kept == sorted(set(kept), reverse=True)
    assert len(kept) == S or (spacing == "quadratic" and len(kept) < S)
    gap = (T - 1) / (S - 1) if spacing == "linspace" else T / S
    # diffusers' leading starts at 897 for 300 of 1000 steps.
    first = {"quadratic": 0.8 * T - 1}.get(spacing, T - 1 - gap)
    assert T > kept[0] >= first
    assert 0 <= kept[-1] < (gap if spacing == "trailing" else 1)
    if spacing == "quadratic":
        return
    assert max(a - b for a, b in itertools.pairwise(kept)) <= gap + 1.5


def test_respaced_chain_is_the_marginal_process(linear):
    kept = linear.keep(spaced_timesteps(1000, 10, "trailing"))
    assert kept.timesteps.tolist() == list(range(99, 1000, 100))
    close((1 - kept.beta).cumprod(0), linear.alpha_bar[99::100].tolist())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_betas("sigmoid"), "schedule='sigmoid': choose one of linear, post, cosine"),
        (lambda: make_betas("linear", 1), "timesteps=1"),
        (lambda: make_betas("linear", 10, 0.1, 0.01), "beta_start=0.1"),
        (lambda: make_betas("linear", 10, 0.1, 1.5), "beta_end=1.5"),
        (lambda: make_betas("cosine", beta_end=0.1), "beta_end=0.1 has no effect"),
        (lambda: make_betas("post", beta_start=1e-3), "beta_start=0.001 has no effect"),
        (lambda: spaced_timesteps(1000, 0), "steps=0"),
        (lambda: spaced_timesteps(1000, 1001), "steps=1001"),
        (lambda: spaced_timesteps(1000, 1, "linspace"), "steps=1: linspace"),
        (lambda: spaced_timesteps(1000, 5, "even"), "spacing='even'"),
        *(
            (lambda betas=betas: Chain.from_betas(torch.tensor(betas)), "betas are one or more")
            for betas in ([], [0.0, 0.1], [0.1, math.nan], [0.1, 1.0], [[0.1]], [1])
        ),
        (lambda: Chain.from_betas(make_betas()).keep([]), "keep one or more of the steps 0 to 999"),
        (lambda: Chain.from_betas(make_betas()).keep([1000]), "keep one or more of the steps"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
