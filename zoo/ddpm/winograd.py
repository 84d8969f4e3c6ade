"""3x3 convolutions by Winograd's minimal filtering, for CPUs in float32 (arXiv 1509.09308).

A tile of 2x2 outputs takes 16 multiplications for each pair of channels instead of 36, and 9 if the
input was doubled by nearest neighbour first, as equal rows give equal products. All is done by
additions of whole channel vectors and one batched matrix product; the rounding error is below that
of the direct sum, which is longer.

Letters as in the paper: Y = A^T [(G g G^T) * (B^T d B)] A for a filter g and an input tile d, with
U = G g G^T, V = B^T d B and M = U V. Layouts: images (B, H, W, C), tiles (n, n, B, h, w, C), where
n = 4 or 3 and a tile is 2x2 outputs, h = H/2, w = W/2 of the output.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# G of F(2, 3); of F(2, 3) on doubled rows, whose sums g0 (a - b) + (g0 + g1 + g2) b are regrouped.
_G_SAME = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
_G_DOUBLE = ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 1.0))

# Numbers in a transformed chunk of the batch: few enough to stay in the processor's cache.
_CHUNK = 2**20


def _filter_transform(double: bool, like: Tensor) -> Tensor:
    """The matrix of g -> G g G^T on flattened filters, (n^2, 9)."""
    G = torch.tensor(_G_DOUBLE if double else _G_SAME, dtype=like.dtype, device=like.device)
    return torch.kron(G, G)


def _along(d: Tensor, dim: int, start: int | None, stop: int | None, step: int = 1) -> Tensor:
    return d[(slice(None),) * dim + (slice(start, stop, step),)]


def _gather(x: Tensor, dim: int, out: list[Tensor], double: bool) -> None:
    """B^T along `dim` of an image that zeros surround: n results for each pair of output rows.

    The pair reads rows a, b, c, e = 2i-1 ... 2i+2; or i-1, i, i+1 of what is to be doubled.
    """
    if double:
        torch.sub(
            _along(x, dim, None, -1), _along(x, dim, 1, None), out=_along(out[0], dim, 1, None)
        )
        torch.neg(_along(x, dim, 0, 1), out=_along(out[0], dim, 0, 1))
        out[1].copy_(x)
        torch.sub(
            _along(x, dim, 1, None), _along(x, dim, None, -1), out=_along(out[2], dim, None, -1)
        )
        torch.neg(_along(x, dim, -1, None), out=_along(out[2], dim, -1, None))
    else:
        b, c = _along(x, dim, 0, None, 2), _along(x, dim, 1, None, 2)
        # a - c, where a is the c of the pair above.
        torch.sub(
            _along(c, dim, None, -1), _along(c, dim, 1, None), out=_along(out[0], dim, 1, None)
        )
        torch.neg(_along(c, dim, 0, 1), out=_along(out[0], dim, 0, 1))
        torch.add(b, c, out=out[1])
        torch.sub(c, b, out=out[2])
        # b - e, where e is the b of the pair below.
        torch.sub(
            _along(b, dim, None, -1), _along(b, dim, 1, None), out=_along(out[3], dim, None, -1)
        )
        _along(out[3], dim, -1, None).copy_(_along(b, dim, -1, None))


def _gather_adjoint(g: list[Tensor], dim: int, out: Tensor, double: bool) -> None:
    """B along `dim`: the transpose of `_gather`."""
    if double:
        torch.sub(g[1], g[0], out=out)
        out.sub_(g[2])
        _along(out, dim, None, -1).add_(_along(g[0], dim, 1, None))
        _along(out, dim, 1, None).add_(_along(g[2], dim, None, -1))
    else:
        b, c = _along(out, dim, 0, None, 2), _along(out, dim, 1, None, 2)
        torch.sub(g[1], g[2], out=b)
        b.add_(g[3])
        _along(b, dim, 1, None).sub_(_along(g[3], dim, None, -1))
        torch.add(g[1], g[2], out=c)
        c.sub_(g[0])
        _along(c, dim, None, -1).add_(_along(g[0], dim, 1, None))


def _combine(m: list[Tensor], out: list[Tensor], double: bool) -> None:
    """A^T: two outputs from n products."""
    torch.add(m[0], m[1], out=out[0])
    if double:
        torch.add(m[1], m[2], out=out[1])
    else:
        out[0].add_(m[2])
        torch.sub(m[1], m[2], out=out[1])
        out[1].sub_(m[3])


def _combine_adjoint(y: list[Tensor], out: list[Tensor], double: bool) -> None:
    """A: the transpose of `_combine`."""
    out[0].copy_(y[0])
    torch.add(y[0], y[1], out=out[1])
    if double:
        out[2].copy_(y[1])
    else:
        torch.sub(y[0], y[1], out=out[2])
        torch.neg(y[1], out=out[3])


class _Tiles:
    """Transforms between images (B, H, W, C) and tiles (n^2, tiles, C), with scratch memory.

    One object serves all chunks of a batch: memory fresh from the system costs more than the sums.
    """

    def __init__(self, images: Tensor, channels: int, double: bool) -> None:
        B, H, W, C = images.shape
        self.double = double
        self.n, self.h, self.w = (3, H, W) if double else (4, H // 2, W // 2)
        pixels = 4 * self.h * self.w
        self.chunk = min(B, max(1, _CHUNK // (self.n**2 * self.h * self.w * max(C, channels))))
        most = self.chunk * pixels * max(C, channels)
        self._rows = images.new_empty(most * self.n // 2)
        self._buffers = [images.new_empty(most * self.n**2 // 4) for _ in range(2)]

    def _new(self, memory: Tensor, *shape: int) -> Tensor:
        return memory[: math.prod(shape)].view(shape)

    def buffer(self, which: int, images: int, channels: int) -> Tensor:
        """One of two buffers for tiles."""
        return self._new(self._buffers[which], self.n * self.n, images * self.h * self.w, channels)

    def _split(self, tiles: Tensor) -> Tensor:
        return tiles.view(self.n, self.n, -1, self.h, self.w, tiles.shape[2])

    def gather(self, x: Tensor, out: Tensor) -> Tensor:
        """V = B^T d B of an image, into `out`."""
        B, _, W, C = x.shape
        rows = self._new(self._rows, self.n, B, self.h, W, C)
        _gather(x, 1, list(rows), self.double)
        _gather(rows, 3, list(self._split(out).transpose(0, 1)), self.double)
        return out

    def gather_adjoint(self, V: Tensor, out: Tensor) -> None:
        """The transpose of `gather`, into the gradient `out` of an image."""
        B, _, W, C = out.shape
        rows = self._new(self._rows, self.n, B, self.h, W, C)
        _gather_adjoint(list(self._split(V).transpose(0, 1)), 3, rows, self.double)
        _gather_adjoint(list(rows), 1, out, self.double)

    def _corners(self, y: Tensor) -> Tensor:
        """A view of an image as the corners of its tiles: (row, column, B, h, w, C)."""
        B, C = len(y), y.shape[3]
        return y.view(B, self.h, 2, self.w, 2, C).permute(2, 4, 0, 1, 3, 5)

    def combine(self, M: Tensor, out: Tensor) -> None:
        """Y = A^T M A of products, into an image."""
        rows = self._new(self._rows, 2, self.n, len(out), self.h, self.w, out.shape[3])
        _combine(list(self._split(M)), list(rows), self.double)
        corners = self._corners(out).transpose(0, 1)
        _combine(list(rows.transpose(0, 1)), list(corners), self.double)

    def combine_adjoint(self, y: Tensor, out: Tensor) -> Tensor:
        """The transpose of `combine`, into `out`."""
        rows = self._new(self._rows, 2, self.n, len(y), self.h, self.w, y.shape[3])
        corners = self._corners(y).transpose(0, 1)
        _combine_adjoint(list(corners), list(rows.transpose(0, 1)), self.double)
        _combine_adjoint(list(rows), list(self._split(out)), self.double)
        return out


def _filters(weight: Tensor, transform: Tensor) -> Tensor:
    """U = G g G^T, (n^2, K, C), of filters (K, C, 3, 3); a view of (K, n^2, C).

    Filters in memory format channels_last are read as they lie.
    """
    K, C = weight.shape[:2]
    flat = weight.permute(0, 2, 3, 1).reshape(K, 9, C)
    return torch.matmul(transform, flat).transpose(0, 1)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, double: bool) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()
        B, H, W, C = x.shape
        K = len(weight)
        U = _filters(weight, _filter_transform(double, weight))
        y = x.new_empty(B, *((2 * H, 2 * W) if double else (H, W)), K)
        centre = 4 if double else 5  # Enters all four outputs with factor 1: the bias goes there.
        tiles = _Tiles(x, K, double)
        for i in range(0, B, tiles.chunk):
            images = x[i : i + tiles.chunk]
            V = tiles.gather(images, tiles.buffer(0, len(images), C))
            M = torch.bmm(V, U.transpose(1, 2), out=tiles.buffer(1, len(images), K))
            M[centre] += bias
            tiles.combine(M, y[i : i + tiles.chunk])
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor
    ) -> None:
        x, weight, _, ctx.double = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        double = ctx.double
        x, dy = (a.permute(0, 2, 3, 1).contiguous() for a in (x, grad))
        K, C = weight.shape[:2]
        transform = _filter_transform(double, weight)
        U = _filters(weight, transform)
        dU = weight.new_empty(K, len(transform), C).transpose(0, 1)
        dx = torch.empty_like(x)
        tiles = _Tiles(x, K, double)
        for i in range(0, len(x), tiles.chunk):
            images = slice(i, i + tiles.chunk)
            n = len(x[images])
            dM = tiles.combine_adjoint(dy[images], tiles.buffer(0, n, K))
            if ctx.needs_input_grad[0]:
                dV = torch.bmm(dM, U, out=tiles.buffer(1, n, C))
                tiles.gather_adjoint(dV, dx[images])
            if ctx.needs_input_grad[1]:
                V = tiles.gather(x[images], tiles.buffer(1, n, C))
                torch.baddbmm(dU, dM.transpose(1, 2), V, beta=int(i > 0), out=dU)
        dweight = torch.matmul(transform.t(), dU.transpose(0, 1)).view(K, 3, 3, C)
        return dx.permute(0, 3, 1, 2), dweight.permute(0, 3, 1, 2), dy.sum(dim=(0, 1, 2)), None


def pays_off(x: Tensor, out_channels: int, *, double: bool = False) -> bool:
    """Whether `conv3x3` is faster than PyTorch's convolution here.

    Measured on CPUs in float32: it takes channels to outweigh the additions, and work to outweigh
    the transform of the filter; more of both without gradients, where it saves less. Elsewhere
    (GPUs, bfloat16 matrix units) it never is faster, and a compiler cannot look into it.
    """
    if (
        x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
    ):
        return False
    B, C, H, W = x.shape
    narrow, work = min(C, out_channels), B * H * W * C * out_channels
    if double:
        return narrow >= 64 and work >= 2**22
    if torch.is_grad_enabled():
        return H % 2 == W % 2 == 0 and narrow >= 64 and work >= 2**25
    return H % 2 == W % 2 == 0 and narrow >= 128 and work >= 2**26


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, *, double: bool = False) -> Tensor:
    """The convolution of x with 3x3 filters and padding 1, in memory format channels_last.

    Differentiable once.

    Args:
        x: Images (B, C, H, W); H and W even unless `double`.
        weight: Filters (K, C, 3, 3).
        bias: (K,).
        double: Double x by nearest neighbour first.
    """
    out: Tensor = _Winograd.apply(x, weight, bias, double)
    return out
