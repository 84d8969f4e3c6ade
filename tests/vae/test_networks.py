import pytest
import torch
from torch import nn

from zoo.vae.networks import (
    ConvDecoder,
    MLPDecoder,
    Pyramid,
    Residual,
    draw_the_mean,
    glorot,
    make_networks,
)

SIZES = {"hidden": [20, 12], "activation": "tanh", "width": 4, "multipliers": [1, 2], "blocks": 1}


def test_perceptrons_are_the_papers():
    encoder, decoder = make_networks("mlp", (1, 4, 4), 1, 3, **SIZES)
    x, z = torch.randn(5, 1, 4, 4), torch.randn(5, 3)
    a, b = encoder.layers[0], encoder.layers[2]
    hidden = torch.tanh(x.flatten(1) @ a.weight.T + a.bias)
    torch.testing.assert_close(encoder(x), torch.tanh(hidden @ b.weight.T + b.bias))
    widths = [layer.out_features for layer in decoder.layers if isinstance(layer, nn.Linear)]
    assert widths == [12, 20]
    out = decoder.out(decoder.layers(z)).reshape(5, 1, 4, 4)
    torch.testing.assert_close(decoder(z), out)


@pytest.mark.parametrize("shape", [(3, 8, 12), (1, 28, 28)])
def test_convolutions_halve_and_double(shape):
    encoder, decoder = make_networks("conv", shape, 2 * shape[0], 3, **SIZES)
    features = encoder(torch.randn(2, *shape))
    assert features.shape == (2, encoder.features) == (2, 12)
    assert decoder(torch.randn(2, 3)).shape == (2, 2 * shape[0], *shape[1:])
    assert decoder.coarse == (8, shape[1] // 2, shape[2] // 2)


def test_every_pixel_reaches_the_code_and_every_code_every_pixel():
    torch.manual_seed(0)
    encoder, decoder = make_networks("conv", (1, 8, 8), 1, 3, **SIZES)
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    encoder(x).sum().backward()
    assert (x.grad != 0).all()
    z = torch.randn(1, 3)
    for i in range(3):
        moved = decoder(z + nn.functional.one_hot(torch.tensor([i]), 3)) - decoder(z)
        assert (moved != 0).all()


def test_residual_block_begins_as_the_identity_up_to_its_bias():
    block, x = Residual(4, "relu"), torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x + block.conv2.bias[:, None, None])


def test_glorot_bounds():
    layer = nn.Linear(30, 50)
    glorot(nn.Sequential(layer))
    bound = (6 / 80) ** 0.5
    assert 0.9 * bound < layer.weight.abs().max() <= bound
    assert (layer.bias == 0).all()


def test_bias_draws_the_mean_image():
    mean = torch.rand(1, 4, 4)
    mean[0, 0, 0] = 0.0
    decoder = MLPDecoder(3, (1, 4, 4), [8], "relu")
    nn.init.zeros_(decoder.out.weight)
    draw_the_mean(decoder, mean)
    torch.testing.assert_close(decoder(torch.randn(1, 3)).sigmoid()[0], mean.clamp(0.001, 0.999))
    conv = ConvDecoder(3, (1, 4, 4), Pyramid(4, [1, 2], 1, 8, "relu"))
    nn.init.zeros_(conv.out.weight)
    draw_the_mean(conv, mean)
    torch.testing.assert_close(conv(torch.randn(1, 3)).sigmoid()[0], mean.mean().expand(1, 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "vit"}, "network='vit'"),
        ({"activation": "sine"}, "activation='sine'"),
        ({"name": "conv", "multipliers": [1, 1, 1, 1]}, "cannot be halved 3 times"),
        ({"name": "conv", "multipliers": []}, "at least one multiplier"),
    ],
)
def test_mistakes_are_named(options, message):
    arguments = {"name": "mlp", "shape": (1, 4, 4), "output_channels": 1, "latent_dim": 3}
    with pytest.raises(ValueError, match=message):
        make_networks(**{**arguments, **SIZES, **options})
