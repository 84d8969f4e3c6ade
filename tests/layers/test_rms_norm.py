import pytest
import torch

from zoo.layers.rms_norm import RMSNorm


@pytest.mark.parametrize("affine", [True, False])
def test_is_the_formula(affine):
    norm = RMSNorm(16, eps=1e-3, affine=affine).double()
    if affine:
        torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    expected = x / ((x**2).mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(norm(x), expected * norm.weight if affine else expected)
    assert list(norm.state_dict()) == (["weight"] if affine else [])


@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16])
def test_narrow_input_is_normalised_in_float32(weight):
    x = 300 * torch.randn(4, 512).bfloat16()
    norm = RMSNorm(512).to(weight)
    got = norm(x)
    assert got.dtype == torch.bfloat16
    expected = x.double() / (x.double() ** 2).mean(-1, keepdim=True).sqrt()
    assert torch.equal(got, expected.float().bfloat16())
