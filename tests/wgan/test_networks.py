"""Parameter counts of the published models, and what the layers do."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.wgan.networks.by_name import make_networks
from zoo.wgan.networks.layers import BatchNorm2d, ConditionalBatchNorm2d, Head, init_weights


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("network", "size", "generator", "critic"),
    [  # of GN-GAN's official code
        ("dcgan", 32, 3_813_379, 5_860_865),
        ("dcgan", 48, 5_134_339, 5_871_105),
        ("resnet", 32, 4_276_739, 1_053_825),
        ("resnet", 48, 4_878_083, 4_859_073),
        ("resnet", 128, 32_150_787, 38_419_137),
    ],
)
def test_parameter_counts_of_gn_gan(network, size, generator, critic):
    with torch.device("meta"):
        made = make_networks(network, (3, size, size), latent_dim=128)
    assert [count(m) for m in made] == [generator, critic]


def conv(a, b, k):
    return a * b * k * k + b


def test_parameter_counts_of_wgan_gp_by_hand():
    """Improved WGAN's CIFAR-10 networks: 128 channels everywhere."""
    with torch.device("meta"):
        g, d = make_networks("resnet", (3, 32, 32), latent_dim=128, generator_widths=[128] * 4)
    block = 2 * conv(128, 128, 3) + conv(128, 128, 1) + 2 * 2 * 128
    assert count(g) == 129 * 128 * 16 + 3 * block + 2 * 128 + conv(128, 3, 3)
    first = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1)
    plain = 2 * conv(128, 128, 3)
    assert count(d) == first + plain + conv(128, 128, 1) + 2 * plain + 129


def test_parameter_counts_of_sn_gan():
    """As GN-GAN's, but the last layer has no bias."""
    with torch.device("meta"):
        _, d = make_networks(
            "resnet", (3, 32, 32), latent_dim=128, critic_bias=False, critic_pooling="sum"
        )
    assert count(d) == 1_053_825 - 1


def test_dcgan_64_by_hand():
    with torch.device("meta"):
        g, d = make_networks("dcgan", (3, 64, 64), latent_dim=128)
        g32, d32 = make_networks("dcgan", (3, 32, 32), latent_dim=128)
    assert count(g) - count(g32) == 129 * 512 * (64 - 16)
    assert count(d) - count(d32) == 512 * (64 - 16)


@pytest.mark.parametrize(
    ("network", "size", "options"),
    [
        ("mlp", None, {}),
        ("dcgan", 28, {"generator_widths": [16, 8, 4], "critic_widths": [4, 8, 16]}),
        ("dcgan", 8, {"generator_widths": [16, 8], "critic_widths": [8, 16]}),
        ("resnet", 64, {"generator_widths": [8] * 5, "critic_widths": [8] * 5}),
        (
            "resnet",
            8,
            {"generator_widths": [8, 8], "critic_widths": [8, 8], "critic_halvings": 1},
        ),
    ],
)
def test_shapes_and_range(network, size, options):
    shape = (2,) if size is None else (1, size, size)
    g, d = make_networks(network, shape, latent_dim=5, **options)
    x = g(torch.randn(3, 5))
    assert x.shape == (3, *shape)
    assert d(x).shape == (3,)
    if size is not None:
        assert x.abs().max() < 1


@pytest.mark.parametrize("network", ["dcgan", "resnet"])
def test_classes_change_both_networks(network):
    torch.manual_seed(0)
    g, d = make_networks(
        network,
        (3, 32, 32),
        latent_dim=4,
        num_classes=3,
        init="kaiming",
        **{
            "generator_widths": [8] * 4,
            "critic_widths": [8] * 4,
        },
    )
    z, labels = torch.randn(1, 4).expand(3, 4), torch.arange(3)
    x = torch.randn(1, 3, 32, 32).expand(3, -1, -1, -1)
    values = d(x, labels)
    assert (values[0] - values[1]).abs() > 1e-4
    for e in [m for m in g.modules() if isinstance(m, nn.Embedding)]:
        assert e.weight.abs().max() == 0  # begins as batch normalisation without classes
        nn.init.normal_(e.weight)
    images = g.eval()(z, labels)
    assert (images[0] - images[1]).abs().max() > 1e-2


def test_projection_is_the_inner_product_with_the_class():
    torch.manual_seed(0)
    head, h, y = Head(5, 3), torch.randn(4, 5), torch.tensor([0, 2, 1, 2])
    expected = [
        h[i] @ (head.linear.weight[0] + head.projection.weight[y[i]]) + head.linear.bias[0]
        for i in range(4)
    ]
    torch.testing.assert_close(head(h, y), torch.stack(expected))


def test_conditional_batch_norm_of_one_class_is_batch_norm():
    torch.manual_seed(0)
    ours, theirs = ConditionalBatchNorm2d(4, 2), nn.BatchNorm2d(4)
    nn.init.normal_(ours.gain.weight)
    nn.init.normal_(ours.bias.weight)
    theirs.weight.data, theirs.bias.data = 1 + ours.gain.weight[1], ours.bias.weight[1]
    x = torch.randn(6, 4, 5, 5)
    y = ours(x, torch.ones(6, dtype=torch.long))
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(ours.norm.running_var, theirs.running_var)


def test_batch_norm_alone_is_torch_s():
    torch.manual_seed(0)
    ours, theirs, x = BatchNorm2d(4), nn.BatchNorm2d(4), torch.randn(6, 4, 5, 5)
    for _ in range(2):
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)


def test_the_shortcut_of_a_down_block_does_not_see_the_relu():
    """A public fault: an in-place first ReLU feeds relu(x) to the shortcut."""
    torch.manual_seed(0)
    _, d = make_networks("resnet", (3, 32, 32), latent_dim=4, critic_widths=[8] * 4)
    block, x = d.model[2], torch.randn(2, 8, 8, 8)  # one with an identity shortcut
    kept = x.clone()
    inner = block.residual[3](F.relu(block.residual[1](F.relu(x))))
    torch.testing.assert_close(block(x), x + inner)
    torch.testing.assert_close(x, kept, rtol=0, atol=0)


def test_glorot_s_gain_in_residual_branches():
    torch.manual_seed(0)
    _, d = make_networks("resnet", (3, 32, 32), latent_dim=4)
    init_weights(d, "glorot")
    for weight, gain in [
        (d.model[1].residual[1].weight, 2**0.5),
        (d.model[1].shortcut[1].weight, 1.0),
    ]:
        fan = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
        assert weight.abs().max() <= gain * (6 / fan) ** 0.5
        assert weight.abs().max() > 0.99 * gain * (6 / fan) ** 0.5


@pytest.mark.parametrize(
    ("network", "shape", "options", "message"),
    [
        ("dcgan", (3, 30, 30), {}, "30x30 is not divisible by 8"),
        ("resnet", (3, 40, 40), {}, "knows the sides 32, 48, 64, 128"),
        ("mlp", (2,), {"num_classes": 3}, "takes no classes"),
        ("mlp", (2,), {"critic_batch_norm": True}, "use dcgan"),
        ("dcgan", (3, 32, 32), {"critic_pooling": "sum"}, "use resnet"),
        ("unet", (3, 32, 32), {}, "choose mlp, dcgan or resnet"),
        ("dcgan", (3, 32, 32), {"critic_activation": "gelu"}, "choose leaky_relu"),
        ("dcgan", (3, 32, 32), {"init": "zeros"}, "choose normal"),
        ("dcgan", (3, 32, 32), {"generator_widths": []}, r"generator_widths=\[\]: give"),
        ("mlp", (2,), {"critic_widths": [4, 0]}, r"critic_widths=\[4, 0\]: give"),
        ("resnet", (3, 32, 32), {"critic_halvings": 0}, r"critic_halvings=\[0\]: give"),
        ("dcgan", (3, 8), {}, "channels, height and width"),
        ("resnet", (3, 32, 32), {"num_classes": -1}, "num_classes=-1"),
    ],
)
def test_mistakes_are_named(network, shape, options, message):
    with pytest.raises(ValueError, match=message):
        make_networks(network, shape, latent_dim=4, **options)
