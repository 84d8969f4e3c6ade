"""DPM-Solver++(2M) and steps even in log-SNR."""

import itertools

import pytest
import torch

import zoo
from tests.ddpm.test_sampler import LINEAR, bayes, bounded, process, sample
from zoo.ddpm.sampler import ancestral, ddim, run
from zoo.ddpm.schedule import CLEANEST, NOISIEST, Chain, make_betas, spaced_timesteps
from zoo.layers.counter_rng import normal

CHAINS = {
    "linear": LINEAR,
    "post": Chain.from_betas(make_betas("post")),
    "cosine": Chain.from_betas(make_betas("cosine")),
    "digits": Chain.from_betas(make_betas("linear", 100, 0.02, 0.18)),
    "short": Chain.from_betas(make_betas("linear", 37, 0.01, 0.3)),
}


def spaced(chain, steps, spacing="logsnr"):
    return spaced_timesteps(len(chain), steps, spacing, chain.snr.log())


def dpmpp(diffusion, timesteps=None, **options):
    return ddim(diffusion, timesteps, multistep=True, **{"clip": False, **options})


def even_in_log_snr(steps, low=-9.0, high=8.0):
    """A process of our own whose steps are even in log-SNR, and none of which is left out."""
    return Chain(
        torch.linspace(high, low, steps, dtype=torch.float64).sigmoid(), torch.arange(steps)
    )


# The steps


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 36])
def test_steps_are_the_nearest_to_even_log_snrs(name, steps):
    """A loop over all steps for each level; of two with one nearest step, the noisier moves."""
    chain = CHAINS[name]
    log_snr = chain.snr.log().tolist()
    first, last = max(log_snr[-1], NOISIEST), min(log_snr[0], CLEANEST)
    expected = []
    for i in range(steps):  # from the cleanest up
        level = last + (first - last) * i / (steps - 1) if steps > 1 else first
        nearest = min(range(len(chain)), key=lambda t: abs(log_snr[t] - level))
        expected.append(max(nearest, expected[-1] + 1) if expected else nearest)
    expected = [min(t, len(chain) - steps + i) for i, t in enumerate(expected)]
    assert spaced(chain, steps) == expected[::-1]


@pytest.mark.parametrize("name", CHAINS)
def test_any_number_of_steps(name):
    T = len(CHAINS[name])
    for steps in {*range(1, 40), T // 2, T - 1, T} - {*range(T + 1, 40)}:
        kept = spaced(CHAINS[name], steps)
        assert len(set(kept)) == steps
        assert kept == sorted(kept, reverse=True)
        assert 0 <= kept[-1] <= kept[0] < T
    assert spaced(CHAINS[name], T) == list(range(T - 1, -1, -1))


def test_cosine_is_without_its_ends():
    assert CHAINS["cosine"].snr[-1].log() < -19
    begin = CHAINS["cosine"].snr[spaced(CHAINS["cosine"], 10)[0]].log()
    assert begin.item() == pytest.approx(NOISIEST, abs=0.2)
    assert spaced(LINEAR, 10)[0] == 999
    end = CHAINS["cosine"].snr[spaced(CHAINS["cosine"], 10)[-1]].log()
    assert end.item() == pytest.approx(CLEANEST, abs=0.1)
    assert spaced(CHAINS["digits"], 10)[-1] == 0


# The solver


def naive(predict_x0, chain, kept, x):
    """Algorithm 2 of arXiv 2211.01095 as it is written, but for the end: x0 itself."""
    alpha, sigma = chain.alpha_bar.sqrt(), (1 - chain.alpha_bar).sqrt()
    lam = (alpha / sigma).log()
    before = None
    for i, t in enumerate(kept):
        x0 = predict_x0(x, torch.full((len(x),), t))
        if i == len(kept) - 1:
            return x0
        to = kept[i + 1]
        h, D = lam[to] - lam[t], x0
        if before is not None:
            r = (lam[t] - lam[kept[i - 1]]) / h
            D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * before
        x = sigma[to] / sigma[t] * x - alpha[to] * torch.expm1(-h) * D
        before = x0
    raise AssertionError


@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
@pytest.mark.parametrize("name", CHAINS)
def test_equals_the_algorithm_of_the_paper(name, objective):
    chain = CHAINS[name]
    start = normal(3, torch.arange(4), 0, (1, 3, 5)).double()
    for steps in (1, 2, 3, 10, 25):
        for spacing in ("logsnr", "trailing", "leading"):
            kept = spaced(chain, steps, spacing)
            plan = dpmpp(process(objective=objective, chain=chain), kept)
            got = sample(bayes(chain, 0.3, objective), plan, start)
            expected = naive(bayes(chain, 0.3, "x0"), chain, kept, start)
            # The division by sqrt(alpha_bar), 5e-5 at the end of a cosine, costs digits.
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def exact(chain, s2, t):
    """x_t / x_T on the probability flow of N(0, s2): the ratio of the standard deviations."""
    deviation = (chain.alpha_bar * s2 + 1 - chain.alpha_bar).sqrt()
    return (deviation[t] / deviation[-1]).item()


@pytest.mark.parametrize(("multistep", "rate"), [(True, 4), (False, 2)])
@pytest.mark.parametrize("s2", [0.04, 0.25, 3.0])
def test_order_of_convergence_on_gaussian_data(s2, multistep, rate):
    """Errors at the cleanest step: a fourth for twice the steps, where DDIM halves them."""
    errors = []
    for steps in (80, 160, 320):
        chain = even_in_log_snr(steps + 1)
        plan = ddim(process(chain=chain), clip=False, multistep=multistep)
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        *_, state, _ = run(bayes(chain, s2), plan, one, seed=0, index=torch.arange(1))
        errors.append(abs(state.item() - exact(chain, s2, 0)))
    for a, b in itertools.pairwise(errors):
        assert a / b == pytest.approx(rate, rel=0.1)
    assert not multistep or errors[-1] < 2e-4


def test_order_of_convergence_on_two_points():
    """x_0 = -1 or 1, whose predictor tanh is not linear; the reference has ten times the steps."""

    def end(steps):
        chain = even_in_log_snr(steps + 1, high=3.0)

        def predict(x, t):
            ab = chain.alpha_bar[t].reshape(-1, 1, 1, 1)
            return torch.tanh(ab.sqrt() * x / (1 - ab))

        start = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(9, 1, 1, 1)
        plan = dpmpp(process(chain=chain, objective="x0"))
        *_, state, _ = run(predict, plan, start, seed=0, index=torch.arange(9))
        return state

    reference = end(1600)
    errors = [(end(steps) - reference).abs().max() for steps in (40, 80, 160)]
    for a, b in itertools.pairwise(errors):
        assert (a / b).item() == pytest.approx(4, rel=0.15)


def wavy(chain, objective):
    """A predictor that no line is, and that float32 does not amplify on the way."""

    def predict(x, t):
        ab = chain.alpha_bar[t].to(x).reshape(-1, 1, 1, 1)
        x0 = bayes(chain, 0.3, "x0")(x, t) + 0.3 * torch.sin(3 * x)
        eps = (x - ab.sqrt() * x0) / (1 - ab).sqrt()
        return {"eps": eps, "x0": x0, "v": ab.sqrt() * eps - (1 - ab).sqrt() * x0}[objective]

    return predict


@pytest.mark.filterwarnings("ignore:__array__")  # numpy's, of diffusers
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("trailing", 10), ("trailing", 50), ("logsnr", 10), ("logsnr", 25)]
)
def test_equals_diffusers_where_it_is_right(spacing, steps, objective, clip):
    schedulers = pytest.importorskip("diffusers.schedulers")
    for eta, algorithm in ((0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")):
        theirs = schedulers.DPMSolverMultistepScheduler(
            prediction_type={"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[objective],
            thresholding=clip,  # with a largest value of 1 this is clipping
            algorithm_type=algorithm,
            timestep_spacing="trailing",
        )
        kept = spaced(LINEAR, steps, spacing)
        given = {"timesteps": kept} if spacing == "logsnr" else {"num_inference_steps": steps}
        theirs.set_timesteps(**given)
        assert theirs.timesteps.tolist() == kept
        index, predict = torch.arange(4), wavy(LINEAR, objective)
        x = start = normal(1, index, 1000, (3, 8, 8))
        for t in theirs.timesteps:
            noise = normal(5, index, int(t), (3, 8, 8))
            output = predict(x, t.expand(len(x)))
            x = theirs.step(output, t, x, variance_noise=noise).prev_sample
        plan = dpmpp(process(torch.float32, objective=objective), kept, eta=eta, clip=clip)
        got = sample(predict, plan, start, seed=5, index=index)
        torch.testing.assert_close(got, x, rtol=2e-3, atol=2e-3)


@pytest.mark.filterwarnings("ignore:__array__")
def test_diffusers_steps_even_in_log_snr_fall_on_one_another():
    """Why `use_lu_lambdas` is not compared above: its steps are rounded, its noise is not."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    theirs = schedulers.DPMSolverMultistepScheduler(use_lu_lambdas=True)
    theirs.set_timesteps(50)
    assert len(theirs.timesteps.unique()) < 50
    told = LINEAR.snr[theirs.timesteps] ** -0.5
    assert (theirs.sigmas[:-1].double() / told).log().abs().max() > 0.05


def test_noise_is_the_first_order_forms():
    """With eta the step has the noise of DDIM, and without steps between the same samples."""
    kept = spaced(LINEAR, 2)
    for eta in (0.0, 0.6, 1.0):
        ours, other = dpmpp(process(), kept, eta=eta), ddim(process(), kept, eta=eta, clip=False)
        assert torch.equal(ours.table, other.table)
    assert not ancestral(process()).multistep
    assert dpmpp(process(), spaced(LINEAR, 3)).multistep


def test_a_network_that_knows_its_variance_is_sampled_without_it():
    start = normal(2, torch.arange(3), 0, (2, 4, 4))
    kept = spaced(LINEAR, 10)
    expected = sample(bounded, dpmpp(process(torch.float32), kept, clip=True), start)
    plan = dpmpp(process(torch.float32, variance="learned_range"), kept, clip=True)
    got = sample(lambda x, t: torch.cat([bounded(x, t), x.cos()], 1), plan, start)
    assert torch.equal(got, expected)


# The model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = zoo.DDPM(
        image_size=[8, 4], channels=2, timesteps=40, width=8, multipliers=[1, 2], groups=4,
        attention_levels=[], num_classes=3, variance="learned_range",
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_ten_steps_are_the_default(model):
    expected = model.sample(3, sampler="dpmpp", steps=10, spacing="logsnr", eta=0)
    assert torch.equal(model.sample(3), expected)
    assert model.sampler_protocol() == ("dpmpp, 10 of 40 steps, logsnr spacing, eta 0, x0 clipped")
    few = zoo.DDPM(
        image_size=8, width=8, multipliers=[1], groups=4, attention_levels=[], timesteps=4
    )
    assert few.plan().timesteps.tolist() == [3, 2, 1, 0]


def test_what_is_configured_for_one_sampler_is_not_meant_for_another(model):
    assert model.plan(sampler="ancestral").timesteps.tolist() == list(range(39, -1, -1))
    kept = spaced_timesteps(40, 8, "trailing")
    assert model.plan(sampler="ddim", steps=8).timesteps.tolist() == kept
    assert "ancestral, 40 of 40 steps, trailing spacing, variance learned_range" in (
        model.sampler_protocol(sampler="ancestral")
    )
    old = zoo.DDPM(
        image_size=8, width=8, multipliers=[1], groups=4, attention_levels=[],
        sampler="ddim", sample_steps=50, spacing="quadratic", eta=0.5,
    )  # fmt: skip
    said = "50 of 1000 steps, quadratic spacing, eta 0.5"
    assert said in old.sampler_protocol()
    assert "50 of 1000 steps, quadratic" in old.sampler_protocol(sampler="ancestral")
    assert "10 of 1000 steps, logsnr spacing, eta 0," in old.sampler_protocol(sampler="dpmpp")
    assert "7 of 1000 steps, leading spacing, eta 1," in (
        old.sampler_protocol(sampler="dpmpp", steps=7, spacing="leading", eta=1.0)
    )


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_samples_do_not_depend_on_the_batch_split(model, eta):
    whole = model.sample(5, eta=eta, guidance=2.0)
    parts = [model.sample(n, first=first, eta=eta, guidance=2.0) for n, first in ((2, 0), (3, 2))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(whole, model.sample(5, guidance=2.0)) == (eta == 0)


@pytest.mark.parametrize("t", [0, 5, 39])
def test_interpolation_begins_at_its_step(model, t):
    plan = model.plan(start=t)
    assert plan.timesteps[0] == t
    assert len(plan.timesteps) == min(10, t + 1)
    assert model.plan(sampler="ddim", start=t).timesteps.tolist() == list(range(t, -1, -1))


def test_mistakes_are_named(model):
    with pytest.raises(
        ValueError, match="variance=zero has no effect on sampler=dpmpp: use sampler"
    ):
        model.sample(1, variance="zero")
    with pytest.raises(ValueError, match="steps=41: sample in 1 to 40 steps"):
        model.sample(1, steps=41)
    with pytest.raises(ValueError, match="steps=0"):
        model.sample(1, steps=0)
    with pytest.raises(ValueError, match="sampler='dpm': choose one of ancestral, ddim, dpmpp"):
        model.sample(1, sampler="dpm")
    with pytest.raises(ValueError, match="quadratic, logsnr"):
        model.sample(1, spacing="even")
