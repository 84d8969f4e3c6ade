"""Asymmetric numeral systems: a stack of symbols in as many bits as their probabilities say.

Duda 2013 (arXiv 1311.2540), the range variant "rANS", on many states ("heads") at once, which share
one stack of words, as in Townsend, Bird, Barber 2019 (arXiv 1901.04866). Integers only: what was
pushed last is popped first and exactly. Numpy, as PyTorch has no uint64 arithmetic.

A head is in [2^31, 2^63). A symbol of probability f / 2^r and cumulative probability c / 2^r is
pushed by x -> 2^r floor(x / f) + c + (x mod f), which adds log2(2^r / f) bits to it.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Words = NDArray[np.uint64]
Find = Callable[[Integers], tuple[Integers, Integers, Integers]]

_LOW = 31  # a head is at least 2^31 between two operations
_WORD = np.uint64(32)
MAX_PRECISION = 30


def _random_words(seed: int, stream: int = 0) -> np.random.Philox:
    return np.random.Philox(key=seed, counter=stream << 192)


class Message:
    """A stack of symbols.

    The heads begin with 31 random bits, and what is popped off an empty stack are random words, all
    of them a function of `seed`: bits-back coding begins by popping. They stay part of the message
    and count as its bits.

    >>> message, law = Message((1, 2)), Uniform(precision=8)
    >>> message.push(*law.interval(np.array([[3, 200]])), law.precision)
    >>> message.pop((1, 2), law.precision, law.find).tolist()
    [[3, 200]]

    Args:
        shape: Heads, as (rows, columns); rows are coded independently of each other.
        seed: Seed of the random words.
    """

    def __init__(self, shape: tuple[int, int], seed: int = 0) -> None:
        self.heads: Words = self._first_heads(shape, seed)
        self.drawn = 0
        """Number of random words that were needed."""
        self._seed = seed
        self._random = _random_words(seed)
        self._stack: Words = np.empty(1024, np.uint64)
        self._height = 0

    @staticmethod
    def _first_heads(shape: tuple[int, ...], seed: int) -> Words:
        words = _random_words(seed, 1).random_raw(math.prod(shape)).reshape(shape)
        heads: Words = (words >> np.uint64(64 - _LOW)) | np.uint64(1 << _LOW)
        return heads

    @property
    def bits(self) -> int:
        """Size of the whole message."""
        return 64 * self.heads.size + 32 * self._height

    @property
    def content(self) -> float:
        """Bits that are really in it, without the room that is left in the heads."""
        return float(np.log2(self.heads.astype(np.float64)).sum()) + 32 * self._height

    def push(self, start: Integers, frequency: Integers, precision: int) -> None:
        """Pushes a symbol on each of the first heads.

        Args:
            start: Sum of the frequencies of the symbols before it, (rows, columns) of not more
                than the message's.
            frequency: Its own frequency, at least 1; start + frequency is at most 2^precision.
            precision: Number of bits r of a probability, at most 30.
        """
        assert 0 < precision <= MAX_PRECISION
        r = np.uint64(precision)
        rows, columns = start.shape
        head = self.heads[:rows, :columns]
        c, f = start.astype(np.uint64), frequency.astype(np.uint64)
        full = head >> np.uint64(_LOW + 32 - precision) >= f  # the new head would reach 2^63
        if full.any():
            self._put(head[full] & np.uint64(0xFFFFFFFF))
            head = np.where(full, head >> _WORD, head)
        quotient, remainder = np.divmod(head, f)
        self.heads[:rows, :columns] = (quotient << r) + remainder + c

    def pop(self, shape: tuple[int, int], precision: int, find: Find) -> Integers:
        """Pops a symbol off each of the first heads.

        Args:
            shape: Rows and columns.
            precision: The precision that it was pushed with.
            find: Symbol, start and frequency to the numbers in [start, start + frequency).

        Returns:
            The symbols, int64, of that shape.
        """
        r = np.uint64(precision)
        rows, columns = shape
        head = self.heads[:rows, :columns]
        number = head & np.uint64((1 << precision) - 1)
        symbol, start, frequency = find(number.astype(np.int64))
        head = frequency.astype(np.uint64) * (head >> r) + number - start.astype(np.uint64)
        low = head < np.uint64(1 << _LOW)
        count = int(low.sum())
        if count:
            head[low] = (head[low] << _WORD) | self._take(count)
        self.heads[:rows, :columns] = head
        return symbol

    def _put(self, words: Words) -> None:
        end = self._height + len(words)
        if end > len(self._stack):
            self._stack = np.resize(self._stack, 2 * end)
        self._stack[self._height : end] = words
        self._height = end

    def _take(self, count: int) -> Words:
        missing = count - self._height
        if missing > 0:  # new words go to the bottom
            words = self._random.random_raw(missing) >> _WORD
            self.drawn += missing
            self._stack = np.concatenate([words[::-1], self._stack])
            self._height += missing
        self._height -= count
        return self._stack[self._height : self._height + count].copy()

    def is_spent(self) -> bool:
        """Whether nothing is left but the random bits that it began with."""
        left = self._stack[: self._height]
        words = _random_words(self._seed).random_raw(len(left)) >> _WORD
        heads = self._first_heads(self.heads.shape, self._seed)
        return bool((self.heads == heads).all() and (left == words[::-1]).all())

    def to_bytes(self) -> bytes:
        """The whole message, little-endian: the heads, then the words from the bottom up."""
        words = self._stack[: self._height].astype("<u4")
        return self.heads.astype("<u8").tobytes() + words.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, shape: tuple[int, int], seed: int = 0) -> "Message":
        """A message from its bytes, to pop from.

        Args:
            data: What `to_bytes` gave.
            shape: Heads.
            seed: Seed of the random words that it began with.

        Raises:
            ValueError: The bytes are none.
        """
        size = 8 * math.prod(shape)  # before there is room for them
        if len(data) < size or len(data) % 4:
            raise ValueError(f"{len(data)} bytes are no message of {math.prod(shape)} heads")
        message = cls(shape, seed)
        message.heads = np.frombuffer(data, "<u8", message.heads.size).astype(np.uint64)
        message.heads = message.heads.reshape(shape)
        if message.heads.min() < 1 << _LOW or message.heads.max() >= 1 << 63:
            raise ValueError("a head is out of its range")
        message._stack = np.frombuffer(data, "<u4", offset=size).astype(np.uint64)
        message._height = len(message._stack)
        return message


class Uniform:
    """2^precision symbols of equal probability.

    >>> symbol, start, frequency = Uniform(precision=8).find(np.array([[7]]))
    >>> symbol.item(), start.item(), frequency.item()
    (7, 7, 1)

    Args:
        precision: Bits of a symbol.
    """

    def __init__(self, precision: int) -> None:
        self.precision = precision

    def interval(self, symbol: Integers) -> tuple[Integers, Integers]:
        """Start and frequency of symbols."""
        return symbol, np.ones_like(symbol)

    def find(self, number: Integers) -> tuple[Integers, Integers, Integers]:
        """Symbol, start and frequency to a number."""
        return number, number, np.ones_like(number)


class Bits:
    """Symbols 0 and 1.

    >>> coin = Bits(np.array([[64]]), precision=8)  # a quarter are ones
    >>> [part.item() for part in coin.interval(np.array([[1]]))]
    [192, 64]

    Args:
        frequency: Frequency of a 1, in [1, 2^precision - 1].
        precision: Bits of a probability.
    """

    def __init__(self, frequency: Integers, precision: int) -> None:
        self.zero = (1 << precision) - frequency
        self.one = frequency
        self.precision = precision

    def interval(self, symbol: Integers) -> tuple[Integers, Integers]:
        """Start and frequency of symbols."""
        is_one = symbol == 1
        return np.where(is_one, self.zero, 0), np.where(is_one, self.one, self.zero)

    def find(self, number: Integers) -> tuple[Integers, Integers, Integers]:
        """Symbol, start and frequency to a number."""
        symbol = (number >= self.zero).astype(np.int64)
        return symbol, *self.interval(symbol)


class Binned:
    """Symbols 0 ... n-1 of a law with a distribution function, each of frequency 1 at least.

    The sum of the frequencies before symbol i is round(F(i) (2^precision - n)) + i. It is computed
    where it is needed: a symbol is found by bisection, so there is no table of n numbers a law.
    With the inverse of F the search begins where the symbol should be, and mostly ends there.

    >>> law = Binned(lambda i: (i / 4) ** 2, n=4, precision=8)
    >>> [int(law.interval(np.array([i]))[1][0]) for i in range(4)]
    [17, 48, 80, 111]

    Args:
        cdf: F(i), the probability of all symbols below i, for integers i in [0, n]; 0 at 0, 1 at n.
        n: Number of symbols.
        precision: Bits of a probability.
        inverse: The real i with F(i) = u, whatever it be outside [0, 1]; it may be off, which takes
            time alone.
    """

    def __init__(
        self,
        cdf: Callable[[Integers], NDArray[np.float64]],
        n: int,
        precision: int,
        inverse: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
    ) -> None:
        assert n < 1 << precision <= 1 << MAX_PRECISION
        self.cdf, self.n, self.precision, self.inverse = cdf, n, precision, inverse
        self._mass = (1 << precision) - n

    def _start(self, symbol: Integers) -> Integers:
        return np.rint(self.cdf(symbol) * self._mass).astype(np.int64) + symbol

    def interval(self, symbol: Integers) -> tuple[Integers, Integers]:
        """Start and frequency of symbols."""
        start = self._start(symbol)
        return start, self._start(symbol + 1) - start

    def find(self, number: Integers) -> tuple[Integers, Integers, Integers]:
        """Symbol, start and frequency to a number."""
        low, high = np.zeros_like(number), np.full_like(number, self.n)
        if self.inverse is not None:
            # F(i) mass + i = number, where i counts little.
            i = number * (self.n / (1 << self.precision))
            for _ in range(2):
                i = self.inverse((number + 0.5 - i) / self._mass)
            probe = np.fmin(np.fmax(i, 0), self.n - 1).astype(np.int64)
            start, frequency = self.interval(probe)
            right, left = number >= start + frequency, number < start
            if not (right | left).any():
                return probe, start, frequency
            low = np.where(left, low, probe + right)
            high = np.where(left, probe, np.where(right, high, probe + 1))
            # Most of the others are next to it.
            probe = np.where(left, probe - 1, probe + 2).clip(1, self.n - 1)
            below = self._start(probe) <= number
            low = np.where(below, np.maximum(low, probe), low)
            high = np.where(below, high, np.minimum(high, probe))
        for _ in range(int((high - low).max() - 1).bit_length()):
            middle = (low + high) >> 1
            below = self._start(middle) <= number
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low, *self.interval(low)


Law = Uniform | Bits | Binned
