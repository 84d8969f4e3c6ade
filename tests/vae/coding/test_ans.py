import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from zoo.vae.coding.ans import Binned, Bits, Message, Uniform


def entropy(p):
    p = np.asarray(p, np.float64)
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


class Naive:
    """rANS of one head with Python's integers, symbol by symbol."""

    def __init__(self, head):
        self.x, self.words = head, []

    def push(self, c, f, r):
        if self.x >= f << (63 - r):
            self.words.append(self.x & 0xFFFFFFFF)
            self.x >>= 32
        self.x = ((self.x // f) << r) + c + self.x % f


def test_states_are_the_naive_ones():
    rng = np.random.default_rng(0)
    message = Message((2, 3))
    naive = [Naive(int(x)) for x in message.heads.flat]
    for step in range(300):
        r = int(rng.integers(1, 31))
        frequency = rng.integers(1, (1 << r) + 1, (2, 3))
        if step % 3 == 0:
            frequency[:] = 1 << r if step % 2 else 1  # certain and nearly impossible ones
        start = rng.integers(0, (1 << r) - frequency + 1)
        message.push(start, frequency, r)
        for head, c, f in zip(naive, start.flat, frequency.flat, strict=True):
            head.push(int(c), int(f), r)
        assert message.heads.flatten().tolist() == [head.x for head in naive]
    words = sum(len(head.words) for head in naive)
    assert message.bits == 6 * 64 + 32 * words


def laws(rng, rows, columns):
    """Three laws of every kind, with symbols of each."""
    p = rng.integers(1, 1 << 12, (rows, columns))
    bits = Bits(p, 12)
    mean, std = rng.normal(size=(rows, columns)), rng.uniform(1e-4, 2, (rows, columns))
    edges = np.linspace(-4, 4, 101)
    edges[0], edges[-1] = -math.inf, math.inf
    binned = Binned(lambda i: ndtr((edges[i] - mean) / std), 100, 24)
    return [
        (bits, rng.integers(0, 2, (rows, columns))),
        (Uniform(9), rng.integers(0, 512, (rows, columns))),
        (binned, rng.integers(0, 100, (rows, columns))),
    ]


def test_what_is_pushed_is_popped_from_bytes():
    rng = np.random.default_rng(1)
    message = Message((3, 4), seed=5)
    pushed = []
    for i in range(200):
        columns = 1 + i % 4  # not always all of the heads
        for law, symbol in laws(rng, 1 + i % 3, columns):
            message.push(*law.interval(symbol), law.precision)
            pushed.append((law, symbol))
    again = Message.from_bytes(message.to_bytes(), (3, 4), seed=5)
    assert len(message.to_bytes()) * 8 == message.bits
    for law, symbol in reversed(pushed):
        assert np.array_equal(again.pop(symbol.shape, law.precision, law.find), symbol)
    assert again.is_spent()


def test_popping_an_empty_stack_samples_the_law_and_pushing_undoes_it():
    message = Message((50, 40), seed=3)
    first = message.heads.copy()
    edges = np.linspace(-6, 6, 201)
    law = Binned(
        lambda i: np.where(i == 200, 1, np.where(i == 0, 0, ndtr(edges[i] - 0.5))), 200, 20
    )
    popped = [message.pop((50, 40), law.precision, law.find) for _ in range(20)]
    x = (edges[np.stack(popped)] + edges[np.stack(popped) + 1]) / 2
    assert x.mean() == pytest.approx(0.5, abs=4 / math.sqrt(x.size))
    assert x.std() == pytest.approx(1, abs=4 / math.sqrt(2 * x.size))
    assert message.drawn > 0
    assert not message.is_spent()
    for symbol in reversed(popped):
        message.push(*law.interval(symbol), law.precision)
    assert np.array_equal(message.heads, first)
    assert message.is_spent()
    assert message.is_spent()  # asking changes nothing


@pytest.mark.parametrize("p", [0.5, 0.01, 0.9999])
def test_length_is_the_entropy(p):
    rng = np.random.default_rng(2)
    message = Message((1, 20))
    law = Bits(np.full((1, 20), round(p * 2**18)), 18)
    before, n, ones = message.bits, 3000, 0
    for _ in range(n):
        symbol = (rng.random((1, 20)) < p).astype(np.int64)
        ones += symbol.sum()
        message.push(*law.interval(symbol), law.precision)
    q = round(p * 2**18) / 2**18
    ideal = -(ones * math.log2(q) + (20 * n - ones) * math.log2(1 - q))
    # A head holds 31 to 32 bits at first and 31 to 63 at the end, of the 64 that are counted.
    assert -33 * 20 <= message.bits - before - ideal <= 32 * 20 + 1e-4 * ideal


def test_binned_law_is_the_table():
    rng = np.random.default_rng(4)
    n, r = 37, 16
    cdf = np.concatenate([[0], np.sort(rng.random(n - 1)), [1]])
    cdf[5:9] = cdf[5]  # impossible symbols can be coded all the same
    law = Binned(lambda i: cdf[i], n, r)
    start, frequency = law.interval(np.arange(n))
    assert start[0] == 0
    assert start[-1] + frequency[-1] == 1 << r
    assert np.array_equal(start[1:], (start + frequency)[:-1])
    assert frequency.min() == 1
    probability = np.diff(cdf)
    assert np.abs(frequency / 2**r - probability).max() < (n + 2) / 2**r
    number = np.arange(1 << r)
    symbol, low, width = law.find(number)
    assert np.array_equal(symbol, np.searchsorted(start, number, side="right") - 1)
    assert np.array_equal(low, start[symbol])
    assert np.array_equal(width, frequency[symbol])


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "no message"), (bytes(17), "no message"), (bytes(16), "out of its range")],
)
def test_bytes_that_are_no_message(data, words):
    with pytest.raises(ValueError, match=words):
        Message.from_bytes(data, (1, 2))


@pytest.mark.parametrize("off", [0.0, 1.5, math.nan])
def test_a_search_from_the_inverse_finds_what_bisection_finds(off):
    """At both ends, in tails of symbols that are all but impossible, and from a wrong start."""
    rng = np.random.default_rng(5)
    n, edges = 256, ndtri(np.arange(257) / 256)
    mean, std = rng.normal(size=(40, 5)), np.exp(rng.uniform(-5, 0, (40, 5)))

    def cdf(i):
        return ndtr((edges[i] - mean) / std)

    whole = Binned(cdf, n, 24, inverse=lambda u: n * ndtr(mean + std * ndtri(u)) + off)
    for low, high in ((0, 300), (0, 1 << 24), ((1 << 24) - 300, 1 << 24)):
        number = rng.integers(low, high, (40, 5))
        number[0, 0], number[0, 1] = low, high - 1
        for ours, expected in zip(whole.find(number), Binned(cdf, n, 24).find(number), strict=True):
            assert np.array_equal(ours, expected)
