"""Penalties by closed forms, weight constraints by their bounds, and the faults of public code."""

import copy

import pytest
import torch
from torch import nn

from tests.wgan.critics import Linear, image_critic, mlp_critic, points
from zoo.wgan.constraints.by_name import CONSTRAINTS, make_constraint
from zoo.wgan.constraints.gradient import norm_of_each
from zoo.wgan.constraints.normalization import GradientNormalization
from zoo.wgan.constraints.penalties import (
    DRAGAN,
    R1,
    DivergencePenalty,
    GradientPenalty,
    LipschitzPenalty,
)
from zoo.wgan.constraints.weights import SpectralNormalization, Unconstrained, WeightClipping
from zoo.wgan.objectives import Hinge, NonSaturating, Wasserstein

SHAPE = (2, 8, 8)


def evaluate(constraint, critic, seed=0, labels=None):
    real, fake = points(6, *SHAPE), points(6, *SHAPE, seed=2)
    torch.manual_seed(seed)
    return constraint.evaluate(critic, real, fake, labels, constraint.noise(real))


def linear(length, n=128):
    w = points(n, seed=5)
    return Linear(w * length / w.norm())


@pytest.mark.parametrize("length", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize(
    ("constraint", "value"),
    [
        (GradientPenalty(weight=10), lambda n: 10 * (n - 1) ** 2),
        (DRAGAN(weight=7), lambda n: 7 * (n - 1) ** 2),
        (LipschitzPenalty(weight=10), lambda n: 10 * max(0, n - 1) ** 2),
        (DivergencePenalty(weight=2, power=6), lambda n: 2 * n**6),
        (R1(weight=10), lambda n: 5 * n**2),
    ],
    ids=lambda c: getattr(c, "name", ""),
)
def test_penalty_on_a_linear_critic(constraint, value, length):
    """The norm is over all dimensions of a sample: a norm over channels alone would be smaller."""
    out = evaluate(constraint, linear(length))
    assert out.penalty.item() == pytest.approx(value(length), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", ["gp", "lp", "div", "r1", "dragan", "gn", "gran"])
def test_gradient_at_a_zero_norm_is_finite(name):
    """sqrt(sum(g^2)) has a gradient of NaN at 0."""
    critic = linear(0.0)
    out = evaluate(make_constraint(name), critic)
    loss = Wasserstein().critic_loss(out.real, out.fake)
    loss = loss if out.penalty is None else loss + out.penalty
    (gradient,) = torch.autograd.grad(loss, critic.w)
    assert torch.isfinite(gradient).all()


def test_the_penalty_is_a_mean_over_samples_of_each_one_s_norm():
    """Not a norm over the batch: checked by a loop over samples with jacobians."""
    critic, constraint = image_critic(), GradientPenalty()
    real, fake = points(6, *SHAPE), points(6, *SHAPE, seed=2)
    alpha = torch.rand(6, 1, 1, 1, dtype=torch.float64)
    out = constraint.evaluate(critic, real, fake, None, alpha)
    terms = []
    for i in range(6):
        x = alpha[i] * real[i] + (1 - alpha[i]) * fake[i]
        g = torch.autograd.functional.jacobian(lambda x: critic(x[None])[0], x)
        terms.append(10 * (g.flatten().norm() - 1) ** 2)
    torch.testing.assert_close(out.penalty, torch.stack(terms).mean())
    torch.testing.assert_close(out.real, critic(real))
    torch.testing.assert_close(out.fake, critic(fake))


def test_every_sample_has_its_own_alpha():
    alpha = GradientPenalty().noise(points(500, *SHAPE))
    assert alpha.shape == (500, 1, 1, 1)
    assert len(alpha.unique()) == 500
    assert abs(float(alpha.mean()) - 0.5) < 0.06
    assert DRAGAN().noise(points(5, *SHAPE)).shape == (5, *SHAPE)


def test_dragan_s_points_are_around_the_real_ones():
    real, constraint = 3 * points(50, *SHAPE), DRAGAN()
    torch.manual_seed(0)
    noise = constraint.noise(real)
    torch.manual_seed(0)
    alpha, u = torch.rand(50, 1, 1, 1, dtype=real.dtype), torch.rand_like(real)
    x = constraint.points(real, -real, noise)
    torch.testing.assert_close(x, real + alpha * 0.5 * real.std() * u)


@pytest.mark.parametrize("name", ["gp", "lp", "div", "r1", "dragan"])
def test_parameter_gradients_are_those_of_finite_differences(name):
    critic, constraint = mlp_critic("softplus"), make_constraint(name)
    real, fake = points(6, 3), points(6, 3, seed=2)
    torch.manual_seed(0)
    noise = constraint.noise(real)
    names, values = zip(*critic.named_parameters(), strict=True)

    def loss(*parameters):
        def call(x, labels=None):
            return torch.func.functional_call(critic, dict(zip(names, parameters, strict=True)), x)

        out = constraint.evaluate(call, real, fake, None, noise)
        return Wasserstein().critic_loss(out.real, out.fake) + out.penalty

    assert torch.autograd.gradcheck(loss, values, atol=1e-4, fast_mode=True)


def test_calls_of_the_critic():
    """Real and fake go through the critic together, and R1 takes no gradient of the fakes."""

    def sizes(name):
        seen = []
        critic = image_critic()

        def call(x, labels=None):
            seen.append((len(x), x.requires_grad))
            return critic(x, labels)

        evaluate(make_constraint(name), call)
        return seen

    assert sizes("none") == sizes("clip") == sizes("spectral_norm") == [(12, False)]
    assert sizes("gp") == sizes("lp") == sizes("dragan") == [(12, False), (6, True)]
    assert sizes("gn") == sizes("gran") == sizes("div") == [(12, True)]
    assert sizes("r1") == [(6, True), (6, False)]


def test_labels_reach_the_critic():
    critic = image_critic(num_classes=3)
    labels = torch.arange(6) % 3
    for name in CONSTRAINTS:
        a, b = (evaluate(make_constraint(name), critic, labels=y) for y in (labels, 0 * labels))
        assert (a.real[[1, 2, 4, 5]] - b.real[[1, 2, 4, 5]]).abs().min() > 1e-6
        torch.testing.assert_close(a.fake[[0, 3]], b.fake[[0, 3]])


def test_clipping_keeps_every_parameter_within_its_bound():
    critic = mlp_critic()
    before = copy.deepcopy(critic)
    WeightClipping(0.2).project(critic)
    for p, q in zip(critic.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, q.clamp(-0.2, 0.2), rtol=0, atol=0)
    assert max(p.abs().max() for p in critic.parameters()) == 0.2


def test_spectral_norm_divides_by_the_largest_singular_value():
    critic = image_critic("resnet", num_classes=3)
    constraint = SpectralNormalization()
    constraint.prepare(critic)
    for _ in range(200):  # each access is a step of power iteration
        critic(points(1, *SHAPE), torch.zeros(1, dtype=torch.long))
    critic.eval()
    layers = [m for m in critic.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        torch.testing.assert_close(largest, torch.ones_like(largest), rtol=1e-4, atol=0)
    assert len(layers) == 10


def test_a_frozen_spectral_norm_does_not_move():
    critic, constraint = mlp_critic(), SpectralNormalization()
    constraint.prepare(critic)
    before = copy.deepcopy(critic.state_dict())
    with constraint.frozen(critic):
        constraint.generator_gradient(critic, points(4, 3), None, Hinge())
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name]), name
    evaluate_points = points(4, 3), points(4, 3, seed=2)
    constraint.evaluate(critic, *evaluate_points, None, None)
    assert any(not torch.equal(v, before[k]) for k, v in critic.state_dict().items())


@pytest.mark.parametrize(
    ("critic", "shape"),
    [
        (mlp_critic(), (3,)),
        (image_critic("dcgan"), SHAPE),
        (image_critic("resnet"), SHAPE),
    ],
    ids=["mlp", "dcgan", "resnet"],
)
def test_one_power_iteration_a_critic_step(critic, shape):
    """In PyTorch each access of a weight is one; three forwards would be three."""
    constraint = SpectralNormalization()
    constraint.prepare(critic)
    norms = [m for m in critic.modules() if isinstance(m, nn.utils.parametrize.ParametrizationList)]
    expected = [
        nn.functional.normalize(norm.original.detach().flatten(1) @ norm[0]._v, dim=0)
        for norm in norms
    ]
    constraint.evaluate(critic, points(4, *shape), points(4, *shape, seed=2), None, None)
    for norm, u in zip(norms, expected, strict=True):
        torch.testing.assert_close(norm[0]._u, u, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["gp", "lp", "div", "r1", "dragan", "gn", "gran"])
def test_batch_norm_is_refused_where_the_gradient_is_a_sample_s(name):
    critic = image_critic(critic_batch_norm=True)
    with pytest.raises(ValueError, match=r"critic\.layers\.3 is a BatchNorm2d"):
        make_constraint(name).check(critic)
    for harmless in ("none", "clip", "spectral_norm"):
        make_constraint(harmless).check(critic)


@pytest.mark.parametrize("objective", [Wasserstein(), Hinge(), NonSaturating()])
@pytest.mark.parametrize("name", ["none", "clip", "spectral_norm"])
def test_the_generator_s_gradient_goes_through_batch_norm(name, objective):
    """Through the values of the other samples too, and past the running statistics."""
    critic, x = image_critic(critic_batch_norm=True).train(), points(6, *SHAPE)
    with torch.no_grad():
        critic.head.linear.weight *= 10
    constraint = make_constraint(name)
    before = copy.deepcopy(critic.state_dict())
    with constraint.frozen(critic):
        loss, upstream = constraint.generator_gradient(critic, x, None, objective)
    assert all(torch.equal(v, before[k]) for k, v in critic.state_dict().items())
    x = x.requires_grad_()
    exact = objective.generator_losses(critic(x)).mean()
    torch.testing.assert_close(loss, exact.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(upstream, torch.autograd.grad(exact, x)[0], rtol=0, atol=1e-12)
    assert any(not torch.equal(v, before[k]) for k, v in critic.state_dict().items())


def test_batch_norm_would_leak_between_samples():
    """Why: the sum of the values has, at one sample, gradients of the others' values too."""
    critic, x = image_critic(critic_batch_norm=True).train(), points(6, *SHAPE).requires_grad_()
    g = torch.autograd.grad(critic(x)[0], x)[0]
    own, others = g[0].norm(), g[1:].flatten().norm()
    assert others > 0.05 * own
    plain = image_critic()
    g = torch.autograd.grad(plain(x)[0], x)[0]
    assert g[1:].abs().max() == 0


def test_unconstrained_is_the_critic():
    critic = image_critic()
    out = evaluate(Unconstrained(), critic)
    torch.testing.assert_close(out.real, critic(points(6, *SHAPE)))
    assert out.penalty is None
    f, n, n_hat = Unconstrained().look(critic, points(6, *SHAPE))
    torch.testing.assert_close(n, n_hat)
    torch.testing.assert_close(f, out.real.detach())


def test_norms_are_float32_in_half_precision():
    gradient = torch.full((1, 70_000), 1e-3, dtype=torch.bfloat16)
    exact = gradient.double().norm()
    assert norm_of_each(gradient).dtype == torch.float32
    torch.testing.assert_close(norm_of_each(gradient)[0].double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_names_and_options(name):
    made = make_constraint(name)
    assert made.name == name
    assert made.inner_gradient == (name not in ("none", "clip", "spectral_norm"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wgan", {}, "did you mean|choose"),
        (
            "spectral_norm",
            {"penalty": 10.0},
            "no effect on lipschitz=spectral_norm",
        ),
        ("gp", {"clip_value": 0.1}, "clip_value=0.1 has no effect on lipschitz=gp"),
        ("gn", {"gran_epsilon": 0.1}, "gran_epsilon=0.1 has no effect on lipschitz=gn"),
        ("gp", {"penalty": -1.0}, "penalty=-1.0"),
        ("clip", {"clip_value": 0.0}, "clip_value=0.0"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_constraint(name, **options)


def test_options_reach_the_constraint():
    assert make_constraint("gp", penalty=0.1) == GradientPenalty(weight=0.1)
    assert make_constraint("clip", clip_value=0.1) == WeightClipping(0.1)
    assert make_constraint("gn", lipschitz_constant=2.0) == GradientNormalization(2.0)
    assert make_constraint("div", div_power=2.0) == DivergencePenalty(power=2.0)
