import math

import pytest
import torch

from tests.vae.exact_models import PPCA, Sphere, quantiles
from zoo.vae.density.ais import Annealer, Euclidean, Spheres, schedule


def test_schedule_is_the_sigmoids():
    beta = schedule(11)
    assert beta[0] == 0
    assert beta[-1] == 1
    s = [1 / (1 + math.exp(-(-4 + 0.8 * i))) for i in range(11)]
    expected = [(v - s[0]) / (s[-1] - s[0]) for v in s]
    torch.testing.assert_close(beta.tolist(), expected, rtol=1e-12, atol=1e-14)


def ppca(n):
    """PPCA data with the codes that they were made of."""
    model = PPCA(data_dim=6, latent_dim=4, s=0.8)
    g = torch.Generator().manual_seed(7)
    z = torch.randn(n, 4, generator=g).double()
    x = model.m + z @ model.W.T + model.s * torch.randn(n, 6, generator=g).double()
    return model, Euclidean(), x, z


def sphere(n):
    model = Sphere(d=10, kappa_x=15.0)
    g = torch.Generator().manual_seed(7)
    z = torch.nn.functional.normalize(torch.randn(n, 10, generator=g).double(), dim=1)
    w = torch.from_numpy(quantiles(10, 15.0)(torch.randn(n, 1, generator=g).numpy()))
    v = torch.randn(n, 10, generator=g).double()
    v = torch.nn.functional.normalize(v - (v * z).sum(1, keepdim=True) * z, dim=1)
    return model, Spheres([10]), w * z + torch.sqrt(1 - w**2) * v, z


@pytest.mark.parametrize(("make", "temperatures"), [(ppca, 250), (sphere, 80)])
def test_bounds_bracket_the_exact_value(make, temperatures):
    n = 24
    model, space, x, z = make(n)
    options = {"chains": 16, "temperatures": temperatures, "leapfrog": 5}
    annealer = Annealer(model, space, x, torch.arange(n), **options)
    lower, upper = annealer.lower(), annealer.upper(z)
    exact = model.log_p(x)
    for bound, sign in ((lower, 1), (upper, -1)):
        slack = sign * (exact - bound.value)  # on average not negative, and small
        error = slack.std().item() / math.sqrt(n)
        assert -3 * error < slack.mean().item() < 0.03 + 3 * error
        assert error < 0.1
        spread = (slack.square().mean() / bound.standard_error.square().mean()).sqrt().item()
        # The chains of an upper bound have one start, which its error does not see.
        assert 0.6 < spread < (1.6 if sign > 0 else 3)
        assert 0.4 < bound.acceptance.mean() < 0.99
    # One temperature less than two is importance sampling from the prior, and worse.
    coarse = Annealer(model, space, x, torch.arange(n), chains=16, temperatures=2, leapfrog=1)
    assert (exact - coarse.lower().value).mean() > 10 * abs((exact - lower.value).mean())


def test_a_datum_does_not_feel_the_batch():
    model, space, x, z = ppca(5)
    options = {"chains": 4, "temperatures": 20, "leapfrog": 3, "seed": 2}
    whole = Annealer(model, space, x, torch.arange(5), **options)
    index = torch.tensor([3, 1])
    part = Annealer(model, space, x[index], index, **options)
    for a, b in (
        (whole.lower(), part.lower()),
        (whole.upper(z), part.upper(z[index])),
    ):
        torch.testing.assert_close(a.value[index], b.value, rtol=1e-9, atol=1e-9)


def test_motion_on_spheres():
    space = Spheres([3, 5])
    g = torch.Generator().manual_seed(0)
    z = space.prior(torch.randn(4, 2, 8, generator=g).double())
    v = space.tangent(z, torch.randn(4, 2, 8, generator=g).double())
    step = torch.full((2, 1), 0.3).double()
    to, velocity = space.move(z, v, step)
    for part in (slice(0, 3), slice(3, 8)):
        a, b = to[..., part], velocity[..., part]
        torch.testing.assert_close(a.norm(dim=-1), torch.ones(4, 2).double())
        torch.testing.assert_close((a * b).sum(-1), torch.zeros(4, 2).double(), atol=1e-12, rtol=0)
        torch.testing.assert_close(b.norm(dim=-1), v[..., part].norm(dim=-1))
        # The angle that was passed is speed times time.
        angle = torch.arccos((a * z[..., part]).sum(-1))
        torch.testing.assert_close(angle, 0.3 * v[..., part].norm(dim=-1))
    back, _ = space.move(to, -velocity, step)
    torch.testing.assert_close(back, z)


def test_mistakes():
    model, space, x, _ = ppca(2)
    with pytest.raises(ValueError, match="chains=1"):
        Annealer(model, space, x, torch.arange(2), chains=1)
