"""The choice of a token against its definition."""

import math

import pytest
import torch

from zoo.layers.choose import TokenSampling, choose

P = torch.tensor([0.4, 0.1, 0.3, 0.2])


def chances(**options):
    """How often each token is chosen, over a grid of u."""
    u = (torch.arange(1000) + 0.5) / 1000
    chosen = choose(P.log().double().expand(1000, 4), u, TokenSampling(**options), ordered=True)
    return torch.bincount(chosen, minlength=4) / 1000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.4, 0.1, 0.3, 0.2]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [16 / 30, 1 / 30, 9 / 30, 4 / 30]),
        ({"top_k": 2}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 9}, [0.4, 0.1, 0.3, 0.2]),
        ({"top_p": 0.7}, [4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 0, 3 / 7, 0]),
    ],
)
def test_ordered_tokens_are_chosen_by_their_probability(options, expected):
    # float32 logarithms: 0.7 may come out on either side of a bound
    torch.testing.assert_close(
        chances(**options), torch.tensor(expected).float(), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("top_p", [None, 0.99])
def test_the_last_u_chooses_a_token(dtype, ordered, top_p):
    sampling, last = TokenSampling(top_p), torch.tensor([1 - 2**-24])
    logits = torch.full((1, 3), 0.1, dtype=dtype)
    assert choose(logits, last, sampling, ordered=ordered).item() in (0, 1, 2)
    impossible = torch.tensor([[0.0, -torch.inf, -torch.inf]], dtype=dtype)
    assert choose(impossible, last, sampling, ordered=ordered).item() == 0


def kept_tokens(p, top_p, top_k):
    """The definition: by probability, while the probability before a token is below top_p."""
    kept, before = [], 0.0
    for i in p.argsort(descending=True).tolist():
        if (top_k and len(kept) == top_k) or before >= (top_p or 1):
            break
        kept.append(i)
        before += p[i].item()
    return kept


@pytest.mark.parametrize(
    ("top_p", "top_k"), [(0.6, None), (1.0, 3), (0.9, 4), (None, None), (1e-6, None)]
)
def test_choices_have_the_frequencies_of_the_kept_tokens(top_p, top_k):
    logits = torch.randn(7, generator=torch.Generator().manual_seed(1)) * 1.5
    p = (logits / 0.8).softmax(0)
    kept = kept_tokens(p, top_p, top_k)
    n = 20_000
    u = (torch.arange(n) + 0.5) / n
    sampling = TokenSampling(top_p, top_k, 0.8)
    drawn = choose(logits.expand(n, 7), u, sampling)
    counts = torch.bincount(drawn, minlength=7) / n
    expected = torch.zeros(7)
    expected[kept] = p[kept] / p[kept].sum()
    torch.testing.assert_close(counts, expected, rtol=0, atol=2 / n * 7)


def test_a_large_vocabulary_has_the_same_nucleus():
    """Of which the most likely tokens are tried first, and more if they are too few."""
    g = torch.Generator().manual_seed(0)
    flat, peaked = torch.randn(1, 2000, generator=g) * 0.1, torch.randn(1, 2000, generator=g) * 6
    for logits in (flat, peaked):
        p = logits.softmax(1)[0]
        kept = set(kept_tokens(p, 0.9, None))
        u = torch.linspace(0, 0.99999, 1500)
        drawn = set(choose(logits.expand(1500, -1), u, TokenSampling(0.9)).tolist())
        assert drawn <= kept
        assert len(drawn) > 0.5 * min(len(kept), 1500)


def test_temperature_zero_is_greedy():
    logits = torch.randn(5, 9)
    assert torch.equal(
        choose(logits, torch.rand(5), TokenSampling(temperature=0)), logits.argmax(1)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: 0 takes"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": 0}, "top_k=0: keep at least one token"),
        ({"top_k": 2.5}, "top_k=2.5: keep a whole number"),
        ({"top_p": 0.0}, "top_p=0.0: need 0 < top_p <= 1"),
        ({"top_p": 1.1}, "top_p=1.1"),
    ],
)
def test_sampling_that_chooses_no_token_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TokenSampling(**options)
