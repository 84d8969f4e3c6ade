"""The identities of gradient normalisation, where they hold and where they do not."""

import copy

import pytest
import torch
from torch import nn

from tests.wgan.critics import Linear, image_critic, mlp_critic, points
from zoo.wgan.constraints.gradient import norm_of_each, value_and_gradient
from zoo.wgan.constraints.normalization import GradientNormalization, GraN
from zoo.wgan.networks.by_name import make_networks
from zoo.wgan.objectives import Hinge, NonSaturating, Wasserstein

CONSTRAINTS = [GradientNormalization(), GraN(), GradientNormalization(scale=3.0), GraN(scale=0.5)]
CRITICS = {
    "mlp": (lambda: mlp_critic(), (3,)),
    "mlp-leaky": (lambda: mlp_critic("leaky_relu"), (3,)),
    "dcgan": (lambda: image_critic("dcgan"), (2, 8, 8)),
    "resnet": (lambda: image_critic("resnet"), (2, 8, 8)),
}


def normalized(constraint, critic, x):
    """f_hat as a function that autograd differentiates all the way through."""
    f, gradient = (
        critic(x),
        torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0],
    )
    return constraint.normalized(f, norm_of_each(gradient))


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_gradient_of_f_hat_is_at_most_one_and_as_the_formula_says(critic, constraint):
    make, shape = CRITICS[critic]
    critic, x = make(), points(20, *shape).requires_grad_()
    f_hat = normalized(constraint, critic, x)
    exact = norm_of_each(torch.autograd.grad(f_hat.sum(), x)[0])
    value, n, slope = constraint.look(critic, x)
    torch.testing.assert_close(value, f_hat.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(slope, exact, rtol=1e-10, atol=1e-12)
    f = critic(x).detach()
    if type(constraint) is GradientNormalization:
        formula = (n / (n + f.abs())) ** 2
        assert f_hat.abs().max() < constraint.scale
    else:
        formula = n**2 / (n**2 + constraint.epsilon)
    torch.testing.assert_close(exact, constraint.scale * formula, rtol=1e-10, atol=1e-12)
    assert exact.max() <= constraint.scale * (1 + 1e-12)
    assert exact.min() < 0.99 * constraint.scale


def test_gran_exceeds_one_with_elu():
    x = 3 * points(4000, 3).requires_grad_()
    critic = mlp_critic("elu")
    f_hat = normalized(GraN(), critic, x)
    assert norm_of_each(torch.autograd.grad(f_hat.sum(), x)[0]).max() > 1


@pytest.mark.parametrize("network", ["dcgan", "resnet"])
def test_without_biases_the_slope_is_bounded_below(network):
    """‖∇f̂‖ >= 1 / (1 + ‖x‖)²: a piecewise linear f without biases is <∇f, x>."""
    critic, x = image_critic(network), 5 * points(20, 2, 8, 8)
    with torch.no_grad():
        for name, p in critic.named_parameters():
            if "bias" in name:
                p.zero_()
    f, _, slope = GradientNormalization().look(critic, x)
    _, gradient = value_and_gradient(critic, x)
    torch.testing.assert_close((gradient * x).flatten(1).sum(1).detach(), critic(x).detach())
    assert (slope >= (1 + x.flatten(1).norm(dim=1)) ** -2).all()
    assert f.abs().max() > 0.5


def test_values_of_the_published_critics_before_training():
    x = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    seen = {}
    for network in ("dcgan", "resnet"):
        torch.manual_seed(0)
        _, critic = make_networks(network, (3, 32, 32), latent_dim=128)
        f_hat, n, slope = (v.mean() for v in GradientNormalization().look(critic, x))
        seen[network] = (f_hat, n, slope, GraN().look(critic, x)[2].mean())
    _, n, slope, of_gran = seen["dcgan"]
    assert 0.004 < n < 0.012  # 0.0072 in the reference's draw
    assert 0.4 < slope < 0.9
    assert of_gran < 2e-3  # a plateau: n² is far below epsilon
    f_hat, n, slope, _ = seen["resnet"]
    assert 0.1 < n < 0.8
    assert f_hat.abs() > 0.7  # saturated
    assert slope < 0.05


@pytest.mark.parametrize("activation", ["softplus", "silu", "tanh", "elu"])
def test_smooth_activations_break_the_formula_and_are_refused(activation):
    critic, constraint = mlp_critic(activation), GradientNormalization()
    x = points(20, 3).requires_grad_()
    exact = norm_of_each(torch.autograd.grad(normalized(constraint, critic, x).sum(), x)[0])
    slope = constraint.look(critic, x)[2]
    assert (exact - slope).abs().max() > 1e-4
    kind = type(critic.layers[1]).__name__
    with pytest.raises(ValueError, match=rf"critic\.layers\.1 is a {kind}: use critic_activation"):
        constraint.check(critic)


def test_an_unknown_module_is_refused_by_name():
    class Own(nn.Module):
        def forward(self, x):
            return x.sin()

    critic = mlp_critic()
    critic.layers.append(Own())
    with pytest.raises(ValueError, match=r"critic\.layers\.4 is a Own"):
        GraN().check(critic)
    critic.layers[4] = nn.ReLU()
    GraN().check(critic)
    for network in ("dcgan", "resnet"):
        GraN().check(image_critic(network, num_classes=3))


@pytest.mark.parametrize("objective", [Wasserstein(), Hinge(), NonSaturating()])
@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_closed_form_of_the_generator_step_equals_double_backward(critic, constraint, objective):
    make, shape = CRITICS[critic]
    critic, x = make(), points(8, *shape).requires_grad_()
    loss = objective.generator_losses(normalized(constraint, critic, x)).mean()
    (exact,) = torch.autograd.grad(loss, x)
    value, upstream = constraint.generator_gradient(critic, x, None, objective)
    torch.testing.assert_close(value, loss.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(upstream, exact, rtol=0, atol=1e-12)
    assert exact.abs().max() > 1e-4


@pytest.mark.parametrize("constraint", CONSTRAINTS[:2], ids=str)
def test_critic_step_is_autograd_s(constraint):
    critic, real, fake = image_critic(), points(5, 2, 8, 8), points(5, 2, 8, 8, seed=2)
    out = constraint.evaluate(critic, real, fake, None, None)
    ours = torch.autograd.grad(Wasserstein().critic_loss(out.real, out.fake), critic.parameters())
    x = torch.cat([real, fake]).requires_grad_()
    f_hat = normalized(constraint, critic, x)
    theirs = torch.autograd.grad(f_hat[5:].mean() - f_hat[:5].mean(), critic.parameters())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_hinge_is_the_wasserstein_loss_plus_two():
    critic, constraint = mlp_critic(), GradientNormalization()
    out = constraint.evaluate(critic, points(9, 3), points(9, 3, seed=2), None, None)
    hinge = Hinge().critic_loss(out.real, out.fake)
    wasserstein = Wasserstein().critic_loss(out.real, out.fake)
    torch.testing.assert_close(hinge, 2 + wasserstein, rtol=0, atol=1e-14)
    # ... and the loss of the first GAN is confined to above these floors.
    assert NonSaturating().critic_loss(out.real, out.fake) >= 0.6265
    assert (NonSaturating().generator_losses(out.fake) >= 0.3132).all()


def test_scale_of_the_critic_changes_gn_nothing_and_gran_something():
    critic, x = mlp_critic(), points(9, 3)
    larger = copy.deepcopy(critic)
    with torch.no_grad():
        larger.linear.weight *= 7
        larger.linear.bias *= 7
    for constraint, same in [(GradientNormalization(), True), (GraN(), False)]:
        a, b = (constraint.look(c, x)[0] for c in (critic, larger))
        assert torch.allclose(a, b, rtol=0, atol=1e-14) == same
    out = GradientNormalization().evaluate(critic, x, points(9, 3, seed=2), None, None)
    last = [critic.linear.weight, critic.linear.bias]
    grads = torch.autograd.grad(Hinge().critic_loss(out.real, out.fake), last)
    radial = sum((g * p).sum() for g, p in zip(grads, last, strict=True))
    assert radial.abs() < 1e-14 * 100 < sum(g.square().sum() for g in grads).sqrt()


def test_f_hat_is_the_distance_to_the_decision_surface():
    """d / (1 + d) with d = |f| / n, in units of the input."""
    w = torch.tensor([3.0, 4.0], dtype=torch.float64)
    x = points(9, 2)
    f_hat = GradientNormalization().look(lambda x, labels: x @ w, x)[0]
    d = x @ w / 5
    torch.testing.assert_close(f_hat, d / (1 + d.abs()))


def test_f_hat_jumps_between_linear_pieces():
    """Why "1-Lipschitz" is true of each piece only: f is continuous, and n is not."""
    torch.manual_seed(0)
    critic = mlp_critic(dim=1)
    t = torch.linspace(-3, 3, 200_001, dtype=torch.float64)[:, None]
    for constraint, least in [(GradientNormalization(), 1e-2), (GraN(), 1e-3)]:
        f_hat, _, slope = constraint.look(critic, t)
        jump = f_hat.diff().abs()
        assert slope.max() <= 1 + 1e-12
        assert jump.max() > least > 10 * float(t.diff(dim=0).max())
        # Where n does not change, the bound holds from point to point.
        n = constraint.look(critic, t)[1]
        inside = n.diff().abs() < 1e-12
        assert (jump[inside] <= t.diff(dim=0)[0] * (1 + 1e-9)).all()


@pytest.mark.parametrize("constraint", CONSTRAINTS[:2], ids=str)
def test_a_dead_critic_gives_zeros_not_nan(constraint):
    """f = 0 and n = 0 at once: 0 / 0 in the published formula."""
    critic = mlp_critic()
    with torch.no_grad():
        for p in critic.parameters():
            p.zero_()
        critic.layers[0].bias.fill_(-1)
    out = constraint.evaluate(critic, points(4, 3), points(4, 3, seed=2), None, None)
    assert (out.real == 0).all()
    grads = torch.autograd.grad(
        Wasserstein().critic_loss(out.real, out.fake), critic.parameters(), allow_unused=True
    )
    assert all(torch.isfinite(g).all() for g in grads if g is not None)
    _, upstream = constraint.generator_gradient(critic, points(4, 3), None, Wasserstein())
    assert (upstream == 0).all()


def test_slope_of_the_generator_s_loss():
    fake = points(5)
    for objective in (Wasserstein(), Hinge(), NonSaturating()):
        value = fake.clone().requires_grad_()
        (exact,) = torch.autograd.grad(objective.generator_losses(value).sum(), value)
        torch.testing.assert_close(objective.generator_slopes(fake), exact)


def test_the_gradient_is_that_of_each_sample():
    critic, x = image_critic(), points(4, 2, 8, 8)
    _, together = value_and_gradient(critic, x)
    alone = torch.cat([value_and_gradient(critic, x[i : i + 1])[1] for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1e-22, 1e-23, 1e-25])
def test_a_tiny_gradient_is_no_0_by_0(length):
    """In float32 the square of n + |f| is 0 before n is."""
    critic = Linear(torch.full((3,), length, dtype=torch.float32))
    x = points(4, 3).float()
    value, upstream = GradientNormalization().generator_gradient(critic, x, None, Wasserstein())
    assert value.isfinite()
    assert upstream.isfinite().all()
