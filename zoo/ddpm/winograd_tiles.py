"""The one-dimensional transforms of Winograd's convolution (arXiv 1509.09308), by schemes.

In the paper's letters an output tile is A^T [(G g) * (B^T d)] for a filter g and the input d that
it reads. A scheme knows G, and applies A^T, B^T and their transposes along a dimension of an image
by additions of whole slices, with zeros around the image. Slices lie in lists: of B^T d in the
order of the products, of an output or input in the order of their rows within a tile.
"""

from typing import ClassVar

import torch
from torch import Tensor


def _cut(x: Tensor, dim: int, start: int | None, stop: int | None) -> Tensor:
    return x[(slice(None),) * dim + (slice(start, stop),)]


class Same:
    """F(4, 3): 6 products for 4 outputs, which read rows -1 ... 4.

    At the points 0, +-a, +-b and infinity with a = 3/4 and b = 3/2, whose powers are short in
    binary. The rounding error is that of a direct sum; with the paper's a = 1, b = 2 it would be
    four times as large.
    """

    outputs, reads, products = 4, 4, 6
    a, b = 0.75, 1.5
    a2, b2 = a * a, b * b
    _at_a, _at_b = 1 / (2 * a2 * (a2 - b2)), 1 / (2 * b2 * (b2 - a2))
    G: ClassVar = (
        (1 / (a2 * b2), 0.0, 0.0),
        (_at_a, a * _at_a, a2 * _at_a),
        (_at_a, -a * _at_a, a2 * _at_a),
        (_at_b, b * _at_b, b2 * _at_b),
        (_at_b, -b * _at_b, b2 * _at_b),
        (0.0, 0.0, 1.0),
    )

    @classmethod
    def gather(cls, x: list[Tensor], dim: int, out: list[Tensor]) -> None:
        """B^T: products of (x - p) over all points p but the product's own, as polynomials in x."""
        d1, d2, d3, d4 = x
        a, b, a2, b2 = cls.a, cls.b, cls.a2, cls.b2
        for plus, minus, own, other in ((1, 2, a, b2), (3, 4, b, a2)):
            even = torch.sub(d4, d2, alpha=other, out=out[minus])
            odd = torch.sub(d3, d1, alpha=other)
            torch.add(even, odd, alpha=own, out=out[plus])
            even.sub_(odd, alpha=own)
        # x^4 - (a^2 + b^2) x^2 + a^2 b^2, where d0 is the d4 of the tile before.
        torch.sub(d4, d2, alpha=a2 + b2, out=out[0])
        _cut(out[0], dim, 1, None).add_(_cut(d4, dim, None, -1), alpha=a2 * b2)
        # The same times x, where d5 is the d1 of the tile after.
        torch.mul(d1, a2 * b2, out=out[5])
        out[5].sub_(d3, alpha=a2 + b2)
        _cut(out[5], dim, None, -1).add_(_cut(d1, dim, 1, None))

    @classmethod
    def gather_adjoint(cls, g: list[Tensor], dim: int, out: list[Tensor]) -> None:
        """B."""
        d1, d2, d3, d4 = out
        a, b, a2, b2 = cls.a, cls.b, cls.a2, cls.b2
        torch.mul(g[5], a2 * b2, out=d1)
        _cut(d1, dim, 1, None).add_(_cut(g[5], dim, None, -1))
        torch.mul(g[5], -(a2 + b2), out=d3)
        torch.mul(g[0], -(a2 + b2), out=d2)
        d4.copy_(g[0])
        _cut(d4, dim, None, -1).add_(_cut(g[0], dim, 1, None), alpha=a2 * b2)
        for plus, minus, own, other in ((1, 2, a, b2), (3, 4, b, a2)):
            even = g[plus] + g[minus]
            d4.add_(even)
            d2.sub_(even, alpha=other)
            odd = torch.sub(g[plus], g[minus], out=even)
            d3.add_(odd, alpha=own)
            d1.sub_(odd, alpha=own * other)

    @classmethod
    def combine(cls, m: list[Tensor], out: list[Tensor]) -> None:
        """A^T: powers of the points."""
        a, b, a2, b2 = cls.a, cls.b, cls.a2, cls.b2
        t = torch.add(m[1], m[2])
        torch.add(m[0], t, out=out[0])
        torch.mul(t, a2, out=out[2])
        torch.sub(m[1], m[2], out=t)
        torch.mul(t, a, out=out[1])
        torch.add(m[5], t, alpha=a * a2, out=out[3])
        torch.add(m[3], m[4], out=t)
        out[0].add_(t)
        out[2].add_(t, alpha=b2)
        torch.sub(m[3], m[4], out=t)
        out[1].add_(t, alpha=b)
        out[3].add_(t, alpha=b * b2)

    @classmethod
    def combine_adjoint(cls, y: list[Tensor], out: list[Tensor]) -> None:
        """A."""
        a, b, a2, b2 = cls.a, cls.b, cls.a2, cls.b2
        out[0].copy_(y[0])
        out[5].copy_(y[3])
        for plus, minus, own, square in ((1, 2, a, a2), (3, 4, b, b2)):
            even = torch.add(y[0], y[2], alpha=square, out=out[minus])
            odd = torch.add(y[1], y[3], alpha=square)
            torch.add(even, odd, alpha=own, out=out[plus])
            even.sub_(odd, alpha=own)


class Doubled:
    """2 outputs of a row doubled by nearest neighbour: 3 products, which read rows -1 ... 1.

    With s = g0 + g1 + g2 the outputs are g0 (a - b) + s b and s b + g2 (c - b).
    """

    outputs, reads, products = 2, 1, 3
    G: ClassVar = ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))

    @staticmethod
    def gather(x: list[Tensor], dim: int, out: list[Tensor]) -> None:
        """B^T."""
        (b,) = x
        before, after = _cut(b, dim, None, -1), _cut(b, dim, 1, None)
        torch.sub(before, after, out=_cut(out[0], dim, 1, None))
        torch.neg(_cut(b, dim, 0, 1), out=_cut(out[0], dim, 0, 1))
        out[1].copy_(b)
        torch.sub(after, before, out=_cut(out[2], dim, None, -1))
        torch.neg(_cut(b, dim, -1, None), out=_cut(out[2], dim, -1, None))

    @staticmethod
    def gather_adjoint(g: list[Tensor], dim: int, out: list[Tensor]) -> None:
        """B."""
        (b,) = out
        torch.sub(g[1], g[0], out=b)
        b.sub_(g[2])
        _cut(b, dim, None, -1).add_(_cut(g[0], dim, 1, None))
        _cut(b, dim, 1, None).add_(_cut(g[2], dim, None, -1))

    @staticmethod
    def combine(m: list[Tensor], out: list[Tensor]) -> None:
        """A^T."""
        torch.add(m[0], m[1], out=out[0])
        torch.add(m[1], m[2], out=out[1])

    @staticmethod
    def combine_adjoint(y: list[Tensor], out: list[Tensor]) -> None:
        """A."""
        out[0].copy_(y[0])
        torch.add(y[0], y[1], out=out[1])
        out[2].copy_(y[1])


Scheme = type[Same] | type[Doubled]
