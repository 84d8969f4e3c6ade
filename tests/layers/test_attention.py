import pytest
import torch
import torch.nn.functional as F

from zoo.layers import attention as module
from zoo.layers.attention import attention


def naive(q, k, v, mask):
    """One query at a time, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = [j for j in range(k.shape[2]) if mask is None or mask[b, h, i, j]]
                scores = torch.stack([q[b, h, i] @ k[b, h, j] for j in seen]) / q.shape[-1] ** 0.5
                out[b, h, i] = scores.softmax(0) @ v[b, h, seen]
    return out


def inputs(dtype, queries=5, keys=7):
    """As a linear layer gives them, by token and then by head."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, queries, 3, 8, generator=generator)
    k, v = torch.randn(2, 2, keys, 3, 8, generator=generator)
    return [x.to(dtype).transpose(1, 2).requires_grad_() for x in (q, k, v)]


def some_mask(queries=5, keys=7):
    mask = torch.rand(2, 1, queries, keys, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 0] = True
    return mask


@pytest.fixture(params=[False, True], ids=["emulated", "units"])
def units(request, monkeypatch):
    """A processor with instructions for bf16, and one without."""
    monkeypatch.setattr(module, "BF16_UNITS", request.param)
    return request.param


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 0.03)]
)
def test_it_is_the_naive_one(dtype, atol, masked, queries, units):
    q, k, v = inputs(dtype, queries)
    mask = some_mask(queries) if masked else None
    whole = None if mask is None else mask.expand(2, 3, queries, 7)
    expected = naive(q, k, v, whole)
    got = attention(q, k, v, mask)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=atol)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    gradients = torch.autograd.grad(got, (q, k, v), weights)
    exact = torch.autograd.grad(expected, (q, k, v), weights.double())
    for one, other in zip(gradients, exact, strict=True):
        # bf16: some roundings of 2^-9 of numbers up to 4.
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=4 * atol)


def test_both_forms_in_bf16_are_one_function(units, monkeypatch):
    q, k, v = inputs(torch.bfloat16)
    mask = some_mask()
    products = attention(q, k, v, mask)
    monkeypatch.setattr(module, "_KEYS", 0)
    fused = attention(q, k, v, mask)
    torch.testing.assert_close(
        products, F.scaled_dot_product_attention(q, k, v, mask), rtol=0, atol=0.03
    )
    torch.testing.assert_close(products, fused, rtol=0, atol=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_leaves_weights_out_and_keeps_their_mean(dtype):
    q, k, v = (x.detach() for x in inputs(dtype))
    v = torch.ones_like(v)
    torch.manual_seed(0)
    draws = torch.stack([attention(q, k, v, dropout=0.4).float() for _ in range(400)])
    # The weights of a query sum to 1; of n draws the mean is off by their deviation / sqrt(n).
    spread = draws.std(0) / 20
    assert (draws.std(0) > 0.1).all()
    assert ((draws.mean(0) - 1).abs() < 5 * spread).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiler_sees_one_graph(dtype, units):
    q, k, v = inputs(dtype)
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v, some_mask()), attention(q, k, v, some_mask()))
