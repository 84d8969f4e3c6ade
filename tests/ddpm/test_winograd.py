"""Winograd's convolution against the direct one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ddpm import winograd
from zoo.ddpm.blocks import Conv3x3, Upsample
from zoo.ddpm.winograd import conv3x3, pays_off


def direct(x: Tensor, weight: Tensor, bias: Tensor, double: bool) -> Tensor:
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3) if double else x
    return F.conv2d(x, weight, bias, padding=1)


def operands(
    B: int, C: int, K: int, H: int, W: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, C, H, W, dtype=dtype, generator=generator)
    weight = torch.randn(K, C, 3, 3, dtype=dtype, generator=generator) / (3 * C**0.5)
    return x, weight, torch.randn(K, dtype=dtype, generator=generator)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("size", [(4, 4), (4, 12), (8, 8), (16, 4)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("chunk", [1, 2**21])
def test_equals_the_direct_convolution_and_its_gradients(
    double: bool,
    size: tuple[int, int],
    memory_format: torch.memory_format,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "_CHUNK", chunk)
    x, weight, bias = operands(3, 5, 7, *size)
    x, weight = (a.to(memory_format=memory_format) for a in (x, weight))
    inputs = [a.requires_grad_() for a in (x, weight, bias)]
    ours = conv3x3(x, weight, bias, double=double)
    expected = direct(x, weight, bias, double)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn(expected.shape, dtype=x.dtype)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_odd_sizes_that_are_doubled() -> None:
    x, weight, bias = operands(2, 3, 4, 5, 7)
    torch.testing.assert_close(
        conv3x3(x, weight, bias, double=True), direct(x, weight, bias, True), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("frozen", [0, 1])
def test_gradients_where_an_input_is_frozen(frozen: int) -> None:
    x, weight, bias = operands(2, 3, 4, 4, 8)
    inputs = [a.requires_grad_(i != frozen) for i, a in enumerate((x, weight, bias))]
    asked = [a for a in inputs if a.requires_grad]
    ours = torch.autograd.grad(conv3x3(x, weight, bias).square().sum(), asked)
    expected = torch.autograd.grad(direct(x, weight, bias, False).square().sum(), asked)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("double", [False, True])
def test_rounds_no_worse_than_the_direct_convolution(double: bool) -> None:
    exact = direct(*operands(4, 256, 64, 8, 8), double)
    single = operands(4, 256, 64, 8, 8)
    x, weight, bias = (a.float() for a in single)
    errors = conv3x3(x, weight, bias, double=double) - exact
    plain = direct(x, weight, bias, double) - exact
    assert errors.abs().max() < min(1.5 * float(plain.abs().max()), 2e-5)
    assert errors.square().mean() < 4 * plain.square().mean()


def test_layers_take_it_where_it_pays_off_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def spy(x: Tensor, weight: Tensor, bias: Tensor, *, double: bool = False) -> Tensor:
        calls.append(double)
        return conv3x3(x, weight, bias, double=double)

    monkeypatch.setattr(winograd, "conv3x3", spy)
    x, small = torch.randn(8, 128, 16, 16), torch.randn(1, 128, 4, 4)
    conv, up = Conv3x3(128, 128), Upsample(128)
    for layer, double in ((conv, False), (up, True)):
        calls.clear()
        layer(x)
        assert calls == [double]
        calls.clear()
        layer(small)
        layer.double()(x.double())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        assert calls == []


def test_where_it_pays_off() -> None:
    x = torch.empty(8, 128, 16, 16)
    assert pays_off(x, 128)
    assert not pays_off(x[:2], 128)
    assert not pays_off(x, 3)
    assert not pays_off(x[..., :14], 256)
    assert not pays_off(x.to("meta"), 128)
    assert pays_off(x[..., :14], 256, double=True)
    with torch.no_grad():
        assert not pays_off(x, 128)
        assert pays_off(x, 256)
