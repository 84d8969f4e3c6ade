"""Random numbers as a function of (seed, item, stream): no state, the same for any batch split.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011) on
tensors. The key is the seed; the counter is (block within the item, stream, item low, item high),
so that item 7 gets the same numbers alone, in a batch of 64, or on another process. There is no
host sync and no branch on values: all of it compiles, with seed and stream as tensors if they vary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57  # Philox multipliers
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # Weyl increments of the key: golden ratio, sqrt(3) - 1


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int | Tensor, int | Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four random 32-bit words for each counter.

    Args:
        counter: Four int64 tensors of words in [0, 2^32), of shapes that broadcast.
        key: Two words in [0, 2^32).

    Returns:
        Four int64 tensors of words in [0, 2^32), of the common shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # A 32 x 32 bit product fills the 64 bits of an int64; its sign bit is bit 63 of the
        # product, and `& _MASK` drops the copies of it that the arithmetic shift brings in.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c2 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, ((p0 >> 32) & _MASK) ^ c3 ^ k1
        c1, c3 = p1 & _MASK, p0 & _MASK
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


def _words(
    seed: int | Tensor, index: Tensor, stream: int | Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four words (B, ceil(count / 4)) each, or (S, B, ...): word w of block b is number 4 b + w."""
    if index.is_floating_point():
        raise ValueError(f"items have whole numbers, not {index.dtype}: give an int64 index")
    block = torch.arange((count + 3) // 4, device=index.device)
    item = index.long()[:, None]
    stream = torch.as_tensor(stream, device=index.device)[..., None, None]
    counter = (block, stream, item & _MASK, (item >> 32) & _MASK)
    return philox(counter, (seed & _MASK, (seed >> 32) & _MASK))


def _numbers(fours: Sequence[Tensor], count: int, shape: tuple[int, ...]) -> Tensor:
    """Four tensors (..., blocks) in the order of the item's numbers, as (..., *shape)."""
    flat = torch.stack(list(fours), dim=-1).flatten(-2)[..., :count]
    return flat.reshape(*flat.shape[:-1], *shape)


def normal(
    seed: int | Tensor, index: Tensor, stream: int | Tensor, shape: tuple[int, ...]
) -> Tensor:
    """Standard normal numbers by the Box-Muller transform; their largest magnitude is 6.77.

    Args:
        seed: Chooses the family of streams, below 2^63; an int64 0-dim tensor when compiled code
            is to serve several seeds.
        index: Numbers of the items, int64 or another type of whole numbers, shape (B,).
        stream: Which of the item's streams, in [0, 2^32); an int64 0-dim tensor on the device of
            `index` where the program must not depend on its value, or several of shape (S,), which
            take a third of the time that they take one by one.
        shape: Shape of one item.

    Returns:
        float32, shape (B, *shape) or (S, B, *shape), on the device of `index`.
    """
    count = math.prod(shape)
    w0, w1, w2, w3 = _words(seed, index, stream, count)
    # u in (0, 1]: small u is exact, and it is small u that makes the tail of the normal.
    radius = [torch.sqrt(-2 * torch.log((w.float() + 0.5) * 2.0**-32)) for w in (w0, w2)]
    angle = [w.float() * (2 * math.pi * 2.0**-32) for w in (w1, w3)]
    pairs = [f(a) * r for r, a in zip(radius, angle, strict=True) for f in (torch.cos, torch.sin)]
    return _numbers(pairs, count, shape)


def uniform(
    seed: int | Tensor, index: Tensor, stream: int | Tensor, shape: tuple[int, ...] = ()
) -> Tensor:
    """Uniform numbers in [0, 1), multiples of 2^-24; arguments as for `normal`.

    Returns:
        float32, shape (B, *shape) or (S, B, *shape), on the device of `index`.
    """
    count = math.prod(shape)
    words = _numbers(_words(seed, index, stream, count), count, shape)
    return (words >> 8).float() * 2.0**-24


def integers(
    seed: int | Tensor,
    index: Tensor,
    stream: int | Tensor,
    shape: tuple[int, ...] = (),
    *,
    high: int,
) -> Tensor:
    """Integers in [0, high), high at most 2^31; other arguments as for `normal`.

    By multiplication and shift: no value is more likely than another by more than high / 2^32.

    Returns:
        int64, shape (B, *shape) or (S, B, *shape), on the device of `index`.
    """
    assert 0 < high <= 2**31, high
    count = math.prod(shape)
    words = _numbers(_words(seed, index, stream, count), count, shape)
    return (words * high) >> 32
