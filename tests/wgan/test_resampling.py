"""Convolutions with the mean or the upsampling in them."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.wgan.critics import points
from zoo.wgan.networks.by_name import make_networks
from zoo.wgan.networks.resampling import ConvMean, Double, UpConv, spreading


def conv_then_mean(layer, x):
    return F.avg_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=1), 2)


def up_then_conv(layer, x):
    up = F.interpolate(x, scale_factor=2, mode="nearest")
    return F.conv2d(up, layer.weight, layer.bias, padding=1)


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (2, 2)])
@pytest.mark.parametrize(("kind", "plain"), [(ConvMean, conv_then_mean), (UpConv, up_then_conv)])
def test_equal_to_the_two_operations(kind, plain, size):
    torch.manual_seed(0)
    layer, x = kind(3, 4).double(), points(2, 3, *size).requires_grad_()
    ours, theirs = layer(x), plain(layer, x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    upstream = points(*ours.shape, seed=2)
    inputs = (x, layer.weight, layer.bias)
    gradients = (torch.autograd.grad(y, inputs, upstream) for y in (ours, theirs))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_derivatives_of_second_order():
    torch.manual_seed(0)
    layer, x = ConvMean(2, 3).double(), points(2, 2, 4, 4).requires_grad_()

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    assert torch.autograd.gradgradcheck(function, (x, layer.weight, layer.bias))


def test_double_is_nearest_upsampling():
    x = points(2, 3, 2, 4)
    assert torch.equal(Double()(x), F.interpolate(x, scale_factor=2, mode="nearest"))


def test_spreading_is_the_sum_of_four_shifts():
    kernel = torch.zeros(3, 3)
    kernel[1, 2] = 5
    expected = torch.zeros(4, 4)
    expected[1:3, 2:4] = 5
    assert torch.equal((kernel.flatten() @ spreading()).view(4, 4), expected)


def test_state_dict_is_that_of_a_convolution():
    for kind in (ConvMean, UpConv):
        torch.nn.Conv2d(2, 3, 3).load_state_dict(kind(2, 3).state_dict())


def test_fewer_operations_than_the_published_order():
    """The resnets of CIFAR-10; what the published order takes was counted with 64 images."""
    networks = make_networks("resnet", (3, 32, 32), latent_dim=128)
    inputs = torch.randn(8, 128), torch.randn(8, 3, 32, 32)
    published = 215.2e9 / 64, 34.8e9 / 64
    for network, x, before, share in zip(networks, inputs, published, (0.71, 0.61), strict=True):
        with FlopCounterMode(display=False) as counter:
            network(x)
        assert counter.get_total_flops() < share * before * len(x)


def test_half_precision_under_autocast():
    layer, x = ConvMean(2, 3), torch.randn(2, 2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        ours = layer(x)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), conv_then_mean(layer, x), rtol=5e-2, atol=2e-2)
