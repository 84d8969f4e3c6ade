import math

import pytest
import torch

from tests.processes import in_new_process
from zoo.layers.counter_rng import integers, normal, philox, uniform

# Known answers of Random123 (kat_vectors, philox4x32 10): counter, key, words.
PI_COUNTER, PI_KEY = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (PI_COUNTER, PI_KEY, "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_known_answers(counter, key, words):
    out = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert " ".join(f"{w.item():08x}" for w in out) == words


def _philox_python(counter, key):
    """The algorithm in Python's integers of any size."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def test_uniform_is_philox_of_block_stream_item_and_seed():
    seed, stream, items = 2**63 - 5, 2**32 - 1, [0, 1, 2**40 + 3]
    got = uniform(seed, torch.tensor(items), stream, (2, 3))
    for row, item in zip(got.flatten(1), items, strict=True):
        key = (seed % 2**32, seed >> 32)
        words = [
            w for b in range(2) for w in _philox_python((b, stream, item % 2**32, item >> 32), key)
        ]
        assert row.tolist() == [(w >> 8) / 2**24 for w in words[:6]]


def test_normal_is_box_muller_of_the_words():
    index = torch.arange(5)
    words = torch.stack(
        philox(
            (
                torch.arange(2)[None],
                torch.tensor([[4]]),
                index[:, None],
                torch.zeros(5, 1, dtype=torch.long),
            ),
            (3, 0),
        ),
        -1,
    ).double()
    u, v = (words[..., 0::2] + 0.5) / 2**32, words[..., 1::2] / 2**32
    r = (-2 * u.log()).sqrt()
    expected = torch.stack([r * (2 * math.pi * v).cos(), r * (2 * math.pi * v).sin()], -1).flatten(
        1
    )
    torch.testing.assert_close(
        normal(3, index, 4, (7,)).double(), expected[:, :7], atol=2e-6, rtol=0
    )


@pytest.mark.parametrize("draw", [normal, uniform, lambda *a: integers(*a, high=1000)])
def test_any_batch_split_gives_the_same_numbers(draw):
    index = torch.arange(23) * 7919 + 2**33
    whole = draw(11, index, 5, (3, 5, 7))
    for sizes in ([1, 22], [8, 8, 7], [5] * 4 + [3], [1] * 23):
        parts = [draw(11, part, 5, (3, 5, 7)) for part in index.split(sizes)]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(23)
    assert torch.equal(draw(11, index[order], 5, (3, 5, 7)), whole[order])


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_items_of_any_whole_type_have_the_numbers_of_int64(dtype):
    index = torch.tensor([1, 0, 1])
    assert torch.equal(normal(3, index.to(dtype), 2, (5,)), normal(3, index, 2, (5,)))
    with pytest.raises(ValueError, match=r"whole numbers, not torch\.float32"):
        uniform(3, index.float(), 2)


def test_stream_and_seed_as_tensors():
    index = torch.arange(4)
    expected = normal(2**40 + 1, index, 17, (9,))
    got = normal(torch.tensor(2**40 + 1), index, torch.tensor(17), (9,))
    assert torch.equal(got, expected)


def test_moments_and_independence():
    n = 2**20
    x = normal(0, torch.arange(256), 0, (n // 256,)).double()
    # Standard errors of the mean, variance, skewness and kurtosis of n standard normals.
    flat = x.flatten()
    for value, expected, deviation in [
        (flat.mean(), 0, 1),
        (flat.var(), 1, 2**0.5),
        ((flat**3).mean(), 0, 15**0.5),
        ((flat**4).mean(), 3, 96**0.5),
    ]:
        assert abs(value - expected) < 4 * deviation / n**0.5
    # Neighbours in place, item, stream and seed are uncorrelated, and so are their squares.
    others = [
        normal(0, torch.arange(1, 257), 0, (n // 256,)),
        normal(0, torch.arange(256), 1, (n // 256,)),
        normal(1, torch.arange(256), 0, (n // 256,)),
        x.roll(1, dims=1),
        x.roll(2, dims=1),
    ]
    for other in others:
        y = other.double()
        assert abs((x * y).mean()) < 4 / n**0.5
        assert abs(((x**2 - 1) * (y**2 - 1)).mean()) < 4 * 2 / n**0.5


def test_normal_passes_kolmogorov_smirnov():
    n = 2**18
    x = normal(5, torch.arange(n // 64), 3, (64,)).double().flatten().sort().values
    cdf = torch.special.ndtr(x)
    grid = torch.arange(1, n + 1).double() / n
    distance = torch.maximum((grid - cdf).abs().max(), (cdf - (grid - 1 / n)).abs().max())
    assert distance * n**0.5 < 1.95  # passed with probability 0.999 by true normals


def test_integers_are_uniform_and_in_range():
    n, high = 2**20, 1000
    x = integers(9, torch.arange(n), 0, high=high)
    counts = torch.bincount(x, minlength=high).double()
    assert len(counts) == high
    chi2 = ((counts - n / high) ** 2 / (n / high)).sum()
    assert abs(chi2 - (high - 1)) < 4 * (2 * (high - 1)) ** 0.5
    assert integers(9, torch.arange(n), 0, high=2**31).max() < 2**31


@pytest.mark.slow
def test_compiles_without_depending_on_the_stream():
    in_new_process(compile_for_several_streams)


def compile_for_several_streams():
    compiled = torch.compile(normal, fullgraph=True, dynamic=False)
    index = torch.arange(6)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed, stream in [(3, 0), (2**62 + 5, 999)]:
            got = compiled(torch.tensor(seed), index, torch.tensor(stream), (3, 8, 8))
            expected = normal(seed, index, stream, (3, 8, 8))
            torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
