import math

import numpy as np
import pytest
import torch
from torch import nn

from zoo.vae.coding.bits_back import Codec
from zoo.vae.likelihoods import Bernoulli, DiscretizedLogistic, Gaussian
from zoo.vae.posteriors import GaussianPosterior


class TinyVAE(nn.Module):
    """A VAE of 1 x 4 x 5 images with random weights, which are as good as trained ones here."""

    def __init__(self, likelihood, latent_dim=3, hidden=16, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.shape = (1, 4, 5)
        self.dimensions = 20
        self.likelihood = likelihood
        channels = likelihood.output_channels
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(20, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, 20 * channels),
            nn.Unflatten(1, (channels, 4, 5)),
        )  # fmt: skip
        # Of numpy: torch's normal numbers are others without AVX2, and with them the model and how
        # far its code is from the ideal one.
        draw = np.random.default_rng(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                shape, scale = module.weight.shape, 1 / math.sqrt(module.in_features)
                module.weight.data = torch.from_numpy(draw.normal(0, scale, shape)).float()
                bias = draw.uniform(-scale, scale, shape[0])
                module.bias.data = torch.from_numpy(bias).float()

    def log_likelihood(self, x, z):
        output = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return self.likelihood.log_prob(x, output)

    def posterior(self, x):
        mean, log_std = self.encoder(x).chunk(2, dim=1)
        return GaussianPosterior(2 * mean, log_std - 1)


LIKELIHOODS = {
    "bernoulli": lambda: Bernoulli(1),
    "17 levels": lambda: DiscretizedLogistic(1, 0.2, 17),
    "256 levels": lambda: DiscretizedLogistic(1, "predicted", 256),
}


def images(n, levels, seed=0):
    return np.random.default_rng(seed).integers(0, levels, (n, 20))


def encode(codec, data, seed=0):
    message = codec.message(seed)
    for first in range(0, len(data), codec.chains):
        codec.encode(message, data[first : first + codec.chains])
    return message


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize(
    ("chains", "heads", "refine"), [(1, 1, 0), (1, 6, 0), (4, 64, 0), (1, 6, 1), (4, 64, 2)]
)
def test_round_trip_through_bytes(name, chains, heads, refine):
    model = TinyVAE(LIKELIHOODS[name]())
    codec = Codec(model, chains=chains, heads=heads, refine=refine)
    data = images(14, codec.levels)
    message = encode(codec, data, seed=9)
    # The decoder has its own copy of everything.
    other = Codec(TinyVAE(LIKELIHOODS[name]()), chains=chains, heads=heads, refine=refine)
    assert other.check() == codec.check()
    shape = message.heads.shape
    again = type(message).from_bytes(message.to_bytes(), shape, seed=9)
    for first in reversed(range(0, len(data), chains)):
        batch = data[first : first + chains]
        assert np.array_equal(other.decode(again, len(batch)), batch)
    assert again.is_spent()


@pytest.mark.parametrize("name", ["bernoulli", "17 levels"])
def test_code_length_is_minus_elbo(name):
    model = TinyVAE(LIKELIHOODS[name]())
    codec = Codec(model, chains=2, heads=8)
    data = images(600, codec.levels)
    message = codec.message()
    codec.encode(message, data[:2])
    before, drawn = message.content, message.drawn
    ideal = torch.cat([codec.encode(message, data[i : i + 2]) for i in range(2, 600, 2)])
    length = message.content - before - 32 * (message.drawn - drawn)
    assert length == pytest.approx(ideal.sum().item(), rel=1e-3)
    # -ELBO by the model itself, with other draws.
    x = torch.from_numpy(2 / (codec.levels - 1) * data[2:] - 1).float().view(-1, 1, 4, 5)
    with torch.no_grad():
        q = model.posterior(x)
        z, log_ratio = q.draw(torch.randn(200, len(x), 3, generator=torch.manual_seed(1)))
        output = model.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        elbo = (model.likelihood.log_prob(x, output) - log_ratio).double()
    bits = -elbo.mean(0).sum().item() / math.log(2)
    spread = elbo.var(0).sum().sqrt().item() / math.log(2)
    assert length == pytest.approx(bits, abs=4 * spread + 1e-3 * bits)
    assert 4 * spread < 0.02 * bits


def test_refined_posteriors_make_the_code_shorter():
    model = TinyVAE(Bernoulli(1))
    data = images(300, 2)
    lengths = []
    for refine in (0, 3):
        codec = Codec(model, chains=10, heads=8, refine=refine)
        message = codec.message()
        codec.encode(message, data[:10])
        before, drawn = message.content, message.drawn
        ideal = torch.cat([codec.encode(message, data[i : i + 10]) for i in range(10, 300, 10)])
        lengths.append(message.content - before - 32 * (message.drawn - drawn))
        assert lengths[-1] == pytest.approx(ideal.sum().item(), rel=2e-3)
    # The encoder's weights are random and its posteriors far from p(z|x); the refined are not.
    x = torch.from_numpy(2.0 * data[10:] - 1).view(-1, 1, 4, 5)
    z = torch.randn(4000, 3, generator=torch.manual_seed(0)).double()
    with torch.no_grad():
        output = codec.model.decoder(z)
        log_p = torch.stack([model.likelihood.log_prob(image, output) for image in x])
    exact = -(log_p.logsumexp(1) - math.log(4000)).sum().item() / math.log(2)
    assert exact < lengths[1] < exact + 0.1 * (lengths[0] - exact)


def test_an_image_does_not_feel_how_many_come_with_it():
    model = TinyVAE(Bernoulli(1))
    codec = Codec(model, chains=3)
    data = images(3, 2)
    ideal = codec.encode(codec.message(), data)
    torch.testing.assert_close(codec.encode(codec.message(), data[:2]), ideal[:2], rtol=0, atol=0)


def test_other_weights_are_noticed():
    model = TinyVAE(Bernoulli(1))
    before = Codec(model).check()
    assert Codec(model).check() == before
    with torch.no_grad():
        model.decoder[2].bias[7] += 1e-3
    assert Codec(model).check() != before


def test_threads_are_given_back():
    torch.set_num_threads(2)
    codec = Codec(TinyVAE(Bernoulli(1)))
    codec.encode(codec.message(), images(1, 2))
    assert torch.get_num_threads() == 2


def test_models_that_cannot_be_coded():
    with pytest.raises(ValueError, match=r"Gaussian cannot .* bernoulli or discretized_logistic"):
        Codec(TinyVAE(Gaussian(1, 1.0)))
    model = TinyVAE(Bernoulli(1))
    model.posterior = lambda x: object()
    with pytest.raises(ValueError, match="needs a Gaussian posterior"):
        Codec(model)
    with pytest.raises(ValueError, match="chains=0"):
        Codec(TinyVAE(Bernoulli(1)), chains=0)
