import gc
import weakref

import pytest
import torch

from tests.processes import in_new_process
from zoo.ddpm.diffusion import Diffusion
from zoo.ddpm.sampler import Coefficients, ancestral, ddim, run
from zoo.ddpm.schedule import Chain, make_betas, spaced_timesteps
from zoo.layers.counter_rng import normal

LINEAR = Chain.from_betas(make_betas())


def process(dtype=torch.float64, chain=LINEAR, **options):
    return Diffusion(chain, dtype=dtype, **options)


def sample(predict, plan, x, seed=0, index=None, **options):
    """The state after the last step."""
    index = torch.arange(len(x)) if index is None else index
    *_, last = run(predict, plan, x, seed=seed, index=index, **options)
    return last


def bayes(chain, s2=1.0, objective="eps"):
    """The Bayes predictor for data from N(0, s2)."""

    def predict(x, t):
        ab = chain.alpha_bar[t].to(x).reshape(-1, 1, 1, 1)
        total = ab * s2 + 1 - ab
        x0, eps = ab.sqrt() * s2 * x / total, (1 - ab).sqrt() * x / total
        return {"eps": eps, "x0": x0, "v": ab.sqrt() * eps - (1 - ab).sqrt() * x0}[objective]

    return predict


def bounded(x, t):
    """A network whose x_0 exceeds 1 here and there."""
    return torch.sin(3 * x + 0.01 * t.reshape(-1, 1, 1, 1))


STEPS = [1, 2, 10, 20, 50, 100, 1000]
SHRINK = {
    "leading": [
        0.9999499987, 0.2884952931, 0.8316958768, 0.9125317078, 0.9640792715, 0.9818508346,
        0.9981242940,
    ],
    "trailing": [
        0.0063528181, 0.2695872765, 0.8293692348, 0.9112856572, 0.9635509837, 0.9815817868,
        0.9981242940,
    ],
    "linspace": [
        None, 0.0163514810, 0.8145861834, 0.9081977918, 0.9633825538, 0.9816749351, 0.9981242940,
    ],
    "quadratic": [
        None, 0.0488148858, 0.8550580775, 0.9285090681, 0.9715825969, 0.9857653118, 0.9979934052,
    ],
}  # fmt: skip


@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
@pytest.mark.parametrize("spacing", SHRINK)
def test_ddim_shrinks_standard_normal_data(spacing, objective):
    """x_0 / x_T is the product of cos(theta_t - theta_prev), theta = arccos sqrt(alpha_bar)."""
    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for steps, expected in zip(STEPS, SHRINK[spacing], strict=True):
        if expected is None:
            continue
        kept = spaced_timesteps(1000, steps, spacing)
        plan = ddim(process(objective=objective), kept, clip=False)
        got = sample(bayes(LINEAR, objective=objective), plan, start)
        assert got.item() == pytest.approx(expected, abs=6e-11)


def test_ddim_in_float32():
    plan = ddim(process(torch.float32), spaced_timesteps(1000, 50, "linspace"), clip=False)
    got = sample(bayes(LINEAR), plan, torch.ones(1, 1, 1, 1))
    assert got.item() == pytest.approx(0.9633825538, abs=2e-6)


def test_ddim_goes_to_the_step_it_visits_next():
    """diffusers assumes t - T // S, wrong for linspace and where S does not divide T."""
    for spacing, steps in [("linspace", 10), ("trailing", 13), ("trailing", 300), ("leading", 7)]:
        kept = spaced_timesteps(1000, steps, spacing)
        x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        for t, prev in zip(kept, [*kept[1:], None], strict=True):
            ab = LINEAR.alpha_bar[t]
            to = LINEAR.alpha_bar[prev] if prev is not None else torch.ones(())
            eps = (1 - ab).sqrt() * x
            x = to.sqrt() * (x - (1 - ab).sqrt() * eps) / ab.sqrt() + (1 - to).sqrt() * eps
        got = sample(bayes(LINEAR), ddim(process(), kept, clip=False), torch.ones_like(x))
        torch.testing.assert_close(got, x, rtol=1e-12, atol=0)


def final_variance(plan):
    """Variance of the sample for standard normal data and start, by the linear recursion."""
    variance = 1.0
    for t, row in zip(plan.timesteps, plan.table, strict=True):
        step, eps = Coefficients(*row), (1 - LINEAR.alpha_bar[t]).sqrt()
        x0 = step.x0_of_xt + step.x0_of_output * eps
        variance = (step.prev_x0 * x0 + step.prev_xt) ** 2 * variance + step.sigma**2
    return variance.item()


@pytest.mark.parametrize("steps", [1000, 250, 100, 50, 10])
def test_ancestral_variance_on_standard_normal_data(steps):
    small = {1000: 0.9910673764, 250: 0.9662180423, 100: 0.9215991648, 50: 0.8574339089,
             10: 0.5482073402}  # fmt: skip
    kept = spaced_timesteps(1000, steps, "leading")
    large = ancestral(process(variance="fixed_large"), kept, clip=False)
    assert final_variance(large) == pytest.approx(0.9999, abs=1e-10)
    plan = ancestral(process(variance="fixed_small"), kept, clip=False)
    assert final_variance(plan) == pytest.approx(small[steps], abs=1e-10)
    # DDIM with eta = 1 is ancestral sampling with the posterior's variance.
    other = ddim(process(), kept, eta=1.0, clip=False)
    for name in ("x0_of_xt", "x0_of_output", "prev_x0", "prev_xt", "sigma"):
        got, expected = (getattr(each.columns, name) for each in (other, plan))
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_ancestral_samples_have_that_variance():
    kept = spaced_timesteps(1000, 50, "leading")
    plan = ancestral(process(torch.float32, variance="fixed_small"), kept, clip=False)
    index = torch.arange(2000)
    start = normal(7, index, 1000, (1, 4, 4))
    got = sample(bayes(LINEAR), plan, start, seed=7, index=index).double()
    error = (2 / got.numel()) ** 0.5  # relative standard error of a variance
    assert got.var().item() == pytest.approx(0.8574339089, rel=4 * error)
    assert abs(got.mean().item()) < 4 * (0.857 / got.numel()) ** 0.5


TS = [999, 998, 500, 100, 10, 1, 0]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("objective", ["eps", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_step_equals_diffusers(variance, objective, clip):
    schedulers = pytest.importorskip("diffusers.schedulers")
    name = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[objective]
    theirs = schedulers.DDPMScheduler(
        variance_type=variance, prediction_type=name, clip_sample=clip
    )
    plan = ancestral(process(variance=variance, objective=objective), clip=clip)
    g = torch.Generator().manual_seed(0)
    for t in TS:
        x, output = torch.randn(2, 4, 3, 8, 8, generator=g)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        expected = theirs.step(output, t, x, generator=torch.Generator().manual_seed(t))
        step = Coefficients(*plan.table[999 - t])
        x0 = step.x0_of_xt * x.double() + step.x0_of_output * output.double()
        x0 = x0.clamp(-1, 1) if clip else x0
        got = step.prev_x0 * x0 + step.prev_xt * x.double() + step.sigma * noise.double()
        scale = got.abs().max()
        assert ((got - expected.prev_sample).abs().max() / scale).item() < 2e-4


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("leading", 50), ("trailing", 50), ("leading", 1000)]
)
@pytest.mark.parametrize("objective", ["eps", "v"])
def test_ddim_equals_diffusers_where_it_is_right(spacing, steps, objective, clip):
    schedulers = pytest.importorskip("diffusers.schedulers")
    name = {"eps": "epsilon", "v": "v_prediction"}[objective]
    theirs = schedulers.DDIMScheduler(
        timestep_spacing=spacing, prediction_type=name, clip_sample=clip
    )
    theirs.set_timesteps(steps)
    g = torch.Generator().manual_seed(1)
    start = torch.randn(4, 3, 8, 8, generator=g)
    x = start
    for t in theirs.timesteps:
        output = bounded(x, t.expand(len(x)))
        # Only so does diffusers keep (x_0, noise) consistent with x_t after clipping.
        x = theirs.step(output, t, x, use_clipped_model_output=clip).prev_sample
    kept = spaced_timesteps(1000, steps, spacing)
    plan = ddim(process(torch.float32, objective=objective), kept, clip=clip)
    got = sample(bounded, plan, start)
    # A contraction of this length amplifies rounding: compare where both are O(1).
    torch.testing.assert_close(got, x, rtol=2e-3, atol=2e-3)


def test_diffusers_is_wrong_for_linspace():
    """The reason why our test does not compare with it: 0.85044 instead of 0.81459."""
    schedulers = pytest.importorskip("diffusers.schedulers")
    theirs = schedulers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    theirs.set_timesteps(10)
    x = torch.ones(1, 1, 1, 1)
    for t in theirs.timesteps:
        x = theirs.step(bayes(LINEAR)(x, t.reshape(1)), t, x).prev_sample
    assert x.item() == pytest.approx(0.85044, abs=1e-5)


@pytest.mark.parametrize("fraction", [-1.0, 1.0])
def test_learned_range_at_its_ends(fraction):
    """At its ends the learned variance is that of fixed_small and of fixed_large."""
    fixed = "fixed_small" if fraction < 0 else "fixed_large"
    kept = spaced_timesteps(1000, 20, "trailing")
    predict = bayes(LINEAR)
    start, index = torch.ones(3, 1, 2, 2, dtype=torch.float64), torch.arange(3)

    def with_fraction(x, t):
        return torch.cat([predict(x, t), torch.full_like(x, fraction)], 1)

    model = process(variance="learned_range")
    got = sample(with_fraction, ancestral(model, kept), start, seed=3, index=index)
    expected = sample(predict, ancestral(process(variance=fixed), kept), start, seed=3, index=index)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    override = ancestral(model, kept, variance=fixed)
    again = sample(with_fraction, override, start, seed=3, index=index)
    torch.testing.assert_close(again, expected, rtol=1e-10, atol=1e-12)
    # DDIM takes its variance from eta, whatever the network says.
    assert not ddim(model, kept).stochastic
    expected = sample(predict, ddim(process(), kept, eta=0.5), start, index=index)
    got = sample(with_fraction, ddim(model, kept, eta=0.5), start, index=index)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("make", [ancestral, lambda p: ddim(p, eta=0.7)])
def test_samples_do_not_depend_on_the_batch_split(make):
    plan = make(process(torch.float32, chain=LINEAR.keep(list(range(0, 1000, 25)))))
    start = normal(5, torch.arange(7), 1000, (1, 3, 5))
    whole = sample(bounded, plan, start, seed=5)
    parts = [
        sample(bounded, plan, part, seed=5, index=index)
        for part, index in zip(start.split(3), torch.arange(7).split(3), strict=True)
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(sample(bounded, plan, start, seed=6), whole)


def test_noise_of_a_step_is_that_of_its_number():
    """A step draws the same noise in the whole process and in a part of it."""
    full = process(variance="fixed_large")
    kept = [999, 400, 0]
    x = torch.zeros(2, 1, 2, 2, dtype=torch.float64)
    plan = ancestral(full, kept)
    states = list(run(lambda x, t: 0 * x, plan, x, seed=9, index=torch.tensor([4, 8])))
    noise = normal(9, torch.tensor([4, 8]), 999, (1, 2, 2)).double()
    torch.testing.assert_close(states[0], plan.columns.sigma[0] * noise)


def test_no_noise_at_the_last_step_and_none_drawn_without_need():
    for variance in ("fixed_small", "fixed_large"):
        plan = ancestral(process(variance=variance))
        assert plan.columns.sigma[-1] == 0
        assert (plan.columns.sigma[:-1] > 0).all()
        assert plan.stochastic
    assert not ancestral(process(variance="zero")).stochastic
    assert not ddim(process()).stochastic
    assert ancestral(process(variance="learned_range")).columns.noisy[-1] == 0


def test_loop_holds_one_state_at_a_time():
    """lucidrains' loops keep all T images."""
    alive = []
    x = torch.zeros(1, 1, 4, 4)
    loop = run(bounded, ddim(process(torch.float32)), x, seed=0, index=torch.arange(1))
    refs = []
    for state in loop:
        refs.append(weakref.ref(state))
        del state
        gc.collect(0)
        alive.append(sum(r() is not None for r in refs))
        if len(refs) == 20:
            break
    assert max(alive) == 1


def test_network_may_compute_in_less_precision():
    plan = ddim(process(torch.float32), spaced_timesteps(1000, 10))
    dtypes = []

    def predict(x, t):
        dtypes.append(x.dtype)
        return bounded(x, t).bfloat16()

    got = sample(predict, plan, torch.ones(1, 1, 2, 2))
    assert got.dtype == torch.float32
    assert set(dtypes) == {torch.float32}


@pytest.mark.slow
def test_compiled_loop_equals_the_plain_one():
    in_new_process(compile_the_loop)


def compile_the_loop():
    start, index = torch.ones(3, 1, 4, 4), torch.arange(3)
    for variance in ("fixed_large", "learned_range"):
        plan = ancestral(process(torch.float32, variance=variance), list(range(0, 1000, 100)))

        def predict(x, t, double=variance == "learned_range"):
            return torch.cat([bounded(x, t), x.tanh()], 1) if double else bounded(x, t)

        expected = sample(predict, plan, start, index=index)
        got = sample(predict, plan, start, index=index, compile=True)
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"eta=1\.5"):
        ddim(process(), eta=1.5)
    with pytest.raises(ValueError, match="variance=learned_range: this model was trained with"):
        ancestral(process(), variance="learned_range")
