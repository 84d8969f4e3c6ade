import math

import pytest
import torch
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Independent, Normal

from zoo.vae.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian, make_likelihood

F64 = {"dtype": torch.float64}


def grey(levels=17, b=3, c=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (b, c, 4, 5), generator=g).double() * (2 / (levels - 1)) - 1


def test_bernoulli_is_torchs_and_keras_cross_entropy():
    x, output = grey(2), 3 * torch.randn(4, 3, 2, 4, 5, **F64)
    likelihood = Bernoulli(2)
    expected = Independent(TorchBernoulli(logits=output), 3).log_prob((x + 1) / 2)
    torch.testing.assert_close(likelihood.log_prob(x, output), expected)
    x = grey()
    v, p = (x + 1) / 2, output.sigmoid()
    cross = (v * p.log() + (1 - v) * (1 - p).log()).sum((-1, -2, -3))
    torch.testing.assert_close(likelihood.log_prob(x, output), cross)
    torch.testing.assert_close(likelihood.mean(output), 2 * p - 1)


def test_bernoulli_keeps_its_digits_far_out():
    x, output = torch.ones(1, 1, 1, 2), torch.tensor([[[[200.0, -200.0]]]])
    assert Bernoulli(1).log_prob(x, output).item() == -200.0


@pytest.mark.parametrize("scale", [0.3, "learned", "predicted"])
def test_gaussian_is_torchs(scale):
    likelihood = Gaussian(2, scale).double()
    mean, log_scale = torch.randn(4, 3, 2, 4, 5, **F64), torch.tensor(math.log(0.3), **F64)
    output = mean
    if scale == "learned":
        likelihood.log_scale.data = torch.tensor([-1.0, 0.5], **F64).reshape(2, 1, 1)
        log_scale = likelihood.log_scale
    if scale == "predicted":
        log_scale = 0.4 * torch.randn(4, 3, 2, 4, 5, **F64)
        output = torch.cat([mean, log_scale], dim=-3)
    assert output.shape[-3] == likelihood.output_channels
    expected = Independent(Normal(mean, log_scale.exp()), 3).log_prob(grey())
    torch.testing.assert_close(likelihood.log_prob(grey(), output), expected)
    torch.testing.assert_close(likelihood.mean(output), mean.clamp(-1, 1))


def logistic(x, mean, scale, levels):
    """The probability of a level, from its definition."""
    half = 1 / (levels - 1)
    above = torch.where(x > 1 - half, 1.0, torch.sigmoid((x + half - mean) / scale))
    below = torch.where(x < half - 1, 0.0, torch.sigmoid((x - half - mean) / scale))
    return above - below


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_have_the_logistic_probabilities_and_add_up_to_one(levels):
    likelihood = DiscretizedLogistic(1, "predicted", levels).double()
    x = (torch.arange(levels, **F64) * (2 / (levels - 1)) - 1).reshape(-1, 1, 1, 1)
    mean, scale = 0.3, 0.25
    output = (
        torch.tensor([mean, math.log(scale)], **F64).reshape(1, 2, 1, 1).expand(levels, -1, 1, 1)
    )
    log_p = likelihood.log_prob(x, output)
    torch.testing.assert_close(log_p.exp(), logistic(x, mean, scale, levels).flatten())
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_unlikely_levels_keep_their_digits_in_float32():
    """Where the difference of two sigmoids would be 0."""
    likelihood = DiscretizedLogistic(1, 0.01, 256)
    x = torch.tensor(20.0 * 2 / 255 - 1).reshape(1, 1, 1, 1)
    output = torch.tensor(0.9).reshape(1, 1, 1, 1)
    exact = likelihood.log_prob(x.double(), output.double()).item()
    assert exact < -100
    assert likelihood.log_prob(x, output).item() == pytest.approx(exact, rel=1e-5)
    output.requires_grad_()
    likelihood.log_prob(x, output).backward()
    assert output.grad.item() == pytest.approx(-100, rel=1e-3)  # -1 / scale in the tail


@pytest.mark.parametrize(
    ("name", "scale"), [("bernoulli", 1.0), ("gaussian", 0.1), ("discretized_logistic", 0.1)]
)
def test_draws_have_their_mean(name, scale):
    likelihood = make_likelihood(name, 1, scale, 17)
    output = torch.tensor(0.2).expand(20_000, 1, 1, 1)
    g = torch.Generator().manual_seed(0)
    x = likelihood.draw(output, torch.rand(20_000, 1, 1, 1, generator=g))
    error = 4 * x.std().item() / 20_000**0.5
    assert x.mean().item() == pytest.approx(likelihood.mean(output)[0].item(), abs=error + 2e-3)
    if name == "discretized_logistic":
        levels = (x + 1) * 8
        torch.testing.assert_close(levels, levels.round())


def test_log_probs_are_float32_of_half_precision_outputs():
    for name in ("bernoulli", "gaussian", "discretized_logistic"):
        output = torch.randn(2, 1, 4, 5, dtype=torch.bfloat16)
        log_p = make_likelihood(name, 1, 0.5, 17).log_prob(torch.zeros(2, 1, 4, 5), output)
        assert log_p.dtype == torch.float32
        assert log_p.shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("poisson", 1, 0.1, 2), "likelihood='poisson'"),
        (("gaussian", 1, 0.0, 2), "scale=0.0"),
        (("gaussian", 1, "free", 2), "scale='free'"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_likelihood(*arguments)
