import math

import pytest
import torch

from zoo.layers.rotary import RotaryEmbedding, rotary_tables, rotate


def naive(x, t, dim, base, pairing):
    """One vector, one pair at a time."""
    y = x.clone()
    for i in range(dim // 2):
        j, k = (2 * i, 2 * i + 1) if pairing == "interleaved" else (i, i + dim // 2)
        angle = t * base ** (-2 * i / dim)
        c, s = math.cos(angle), math.sin(angle)
        y[j], y[k] = x[j] * c - x[k] * s, x[k] * c + x[j] * s
    return y


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
@pytest.mark.parametrize("dim", [8, 4])
def test_rotation_is_the_naive_one(pairing, dim):
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    rotary = RotaryEmbedding(dim, base=100.0, pairing=pairing, length=2).double()
    got = rotary(x, start=5)
    for b in range(2):
        for h in range(3):
            for t in range(7):
                expected = naive(x[b, h, t], t + 5, dim, 100.0, pairing)
                torch.testing.assert_close(got[b, h, t], expected, rtol=0, atol=1e-13)


def test_products_depend_on_the_distance():
    q, k = torch.randn(2, 1, 64, dtype=torch.float64)
    rotary = RotaryEmbedding(64).double()
    products = [rotary(q, start=t) @ rotary(k, start=t + 17).T for t in (0, 3, 1000, 60000)]
    torch.testing.assert_close(
        torch.stack(products), products[0].expand(4, 1, 1), atol=1e-9, rtol=0
    )


def test_pairings_are_permutations_of_one_another():
    x = torch.randn(5, 16)
    order = torch.cat([torch.arange(0, 16, 2), torch.arange(1, 16, 2)])
    interleaved = RotaryEmbedding(16, pairing="interleaved")(x)
    half = RotaryEmbedding(16, pairing="half")(x[:, order])
    torch.testing.assert_close(half, interleaved[:, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["cast", "default dtype"])
def test_positions_are_exact_in_bfloat16(how):
    positions = torch.tensor([0, 257, 513, 4095, 65535])
    if how == "cast":
        rotary = RotaryEmbedding(32, length=300).bfloat16()
    else:  # what Lightning's bf16-true does while a model is built
        torch.set_default_dtype(torch.bfloat16)
        try:
            rotary = RotaryEmbedding(32, length=300)
        finally:
            torch.set_default_dtype(torch.float32)
    cos, sin = rotary.at(positions, 65536)
    assert cos.dtype == torch.bfloat16
    angles = positions.double()[:, None] * 10000 ** (-torch.arange(0, 32, 2).double() / 32)
    assert torch.equal(cos, angles.cos().float().bfloat16())
    assert torch.equal(sin, angles.sin().float().bfloat16())


def test_a_model_made_double_has_double_tables():
    cos, _ = RotaryEmbedding(16).double().tables(512)
    assert torch.equal(cos, rotary_tables(torch.arange(512), 16, dtype=torch.float64)[0])
    back, _ = RotaryEmbedding(16).bfloat16().float().tables(512)
    assert torch.equal(back, rotary_tables(torch.arange(512), 16)[0])


def test_tables_are_no_weights_and_grow():
    rotary = RotaryEmbedding(8, length=4)
    assert not rotary.state_dict()
    long = rotary(torch.ones(100, 8))
    torch.testing.assert_close(long[60:], rotary(torch.ones(40, 8), start=60), rtol=0, atol=0)


def test_rotation_by_positions_of_each_row():
    x = torch.randn(3, 1, 8)
    rotary = RotaryEmbedding(8)
    cos, sin = rotary.at(torch.tensor([[4], [0], [9]]), 10)
    got = rotate(x, cos, sin, "interleaved")
    for row, t in enumerate((4, 0, 9)):
        torch.testing.assert_close(got[row], rotary(x[row], start=t), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"), [({"dim": 7}, "dim=7"), ({"dim": 8, "pairing": "neox"}, "'neox'")]
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RotaryEmbedding(**options)


def test_tables_of_an_odd_dimension_are_refused():
    with pytest.raises(ValueError, match="rotary dim=3"):
        rotary_tables(torch.arange(2), 3)
