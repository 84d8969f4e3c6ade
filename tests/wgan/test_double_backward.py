import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.wgan.critics import image_critic, points
from zoo.wgan.constraints.gradient import norm_of_each, value_and_gradient
from zoo.wgan.networks.double_backward import Conv2d, conv2d
from zoo.wgan.networks.resampling import ConvMean

# (in, out, kernel, stride, padding, height, width): also sizes that the stride does not divide.
SHAPES = [
    (2, 3, 3, 1, 1, 6, 6),
    (2, 3, 4, 2, 1, 8, 6),
    (3, 2, 3, 2, 0, 8, 7),
    (3, 2, 1, 1, 0, 5, 4),
    (2, 3, 5, 3, 2, 9, 8),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_derivatives_of_first_and_second_order(shape):
    a, b, k, stride, padding, height, width = shape
    x = points(2, a, height, width).requires_grad_()
    w, bias = points(b, a, k, k, seed=2).requires_grad_(), points(b, seed=3).requires_grad_()

    def function(x, w, bias):
        return conv2d(x, w, bias, (stride, stride), (padding, padding))

    torch.testing.assert_close(
        function(x, w, bias), F.conv2d(x, w, bias, stride, padding), rtol=0, atol=1e-12
    )
    assert torch.autograd.gradcheck(function, (x, w, bias))
    assert torch.autograd.gradgradcheck(function, (x, w, bias))


def critic_step(critic, x):
    """Parameter gradients of a loss that contains values and gradient norms."""
    f, gradient = value_and_gradient(critic, x)
    loss = (f * torch.linspace(-1, 1, len(x)) + (norm_of_each(gradient) - 1) ** 2).sum()
    return torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)


def plain_step(critic, x):
    x = x.clone().requires_grad_()
    f = critic(x)
    (gradient,) = torch.autograd.grad(f.sum(), x, create_graph=True)
    n = gradient.flatten(1).norm(dim=1)
    loss = (f * torch.linspace(-1, 1, len(x)) + (n - 1) ** 2).sum()
    return torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)


@pytest.mark.parametrize("network", ["dcgan", "resnet"])
def test_critic_step_equals_autograd_s(network, monkeypatch):
    critic, x = image_critic(network), points(4, 2, 8, 8)
    ours = critic_step(critic, x)
    monkeypatch.setattr(Conv2d, "forward", nn.Conv2d.forward)
    monkeypatch.setattr(
        ConvMean, "forward", lambda self, x: F.avg_pool2d(nn.Conv2d.forward(self, x), 2)
    )
    theirs = plain_step(critic, x)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class Kernels(TorchDispatchMode):
    """Sizes of the kernels of all convolutions, and the calls that make weight gradients."""

    def __init__(self):
        super().__init__()
        self.largest, self.weight_gradients = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.largest = max(self.largest, *args[1].shape[2:])
        if func is torch.ops.aten.convolution_backward.default:
            self.weight_gradients += args[10][1]
        return func(*args, **(kwargs or {}))


def test_no_kernel_is_a_feature_map(monkeypatch):
    critic, x = image_critic(), points(4, 2, 8, 8)
    with Kernels() as ours:
        critic_step(critic, x)
    convolutions = sum(isinstance(m, Conv2d) for m in critic.modules())
    assert ours.largest == 4
    # One for the values, one for the inner gradient, and none within the inner backward pass. The
    # first layer's inner gradient is that of x.
    assert ours.weight_gradients == 2 * convolutions
    monkeypatch.setattr(Conv2d, "forward", nn.Conv2d.forward)
    with Kernels() as theirs:
        plain_step(critic, x)
    assert theirs.largest == 8


def test_half_precision_under_autocast():
    critic, x = image_critic().float(), points(4, 2, 8, 8).float()
    conv = critic.layers[0]
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_state_dict_is_that_of_torch():
    ours, theirs = Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))
