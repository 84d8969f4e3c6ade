"""3x3 convolutions by Winograd's minimal filtering, for CPUs in float32 (arXiv 1509.09308).

A tile of 4x4 outputs takes 36 multiplications for each pair of channels instead of 144; one of 2x2
takes 9 instead of 36 if the input was doubled by nearest neighbour first. The rest are additions of
whole channel vectors around one batched matrix product. The rounding error is not above that of the
direct sum.

Letters as in the paper: Y = A^T [(G g G^T) * (B^T d B)] A for a filter g and an input tile d, with
U = G g G^T, V = B^T d B and M = U V. Layouts: images (B, H, W, C); U, V and M as (n^2, ...), where
n is the number of products along a side of a tile.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from zoo.ddpm.winograd_tiles import Doubled, Same, Scheme

# Numbers in a transformed chunk of the batch: few enough to stay in the processor's cache.
_CHUNK = 2**20


class _Tiles:
    """Transforms between images (B, H, W, C) and tiles (n^2, tiles, C), with scratch memory.

    One object serves all chunks of a batch: memory fresh from the system costs more than the sums.
    """

    def __init__(self, images: Tensor, channels: int, scheme: Scheme) -> None:
        B, H, W, C = images.shape
        self.scheme, self.n = scheme, scheme.products
        self.h, self.w = H // scheme.reads, W // scheme.reads
        widest = max(C, channels)
        tiles = self.n**2 * self.h * self.w * widest
        self.chunk = min(B, max(1, _CHUNK // tiles))
        rows = max(W * C, scheme.outputs * self.w * channels) * self.n * self.h
        self._rows = images.new_empty(self.chunk * rows)
        self._buffers = [images.new_empty(self.chunk * tiles) for _ in range(2)]

    def buffer(self, which: int, images: int, channels: int) -> Tensor:
        """One of two buffers for tiles."""
        shape = self.n**2, images * self.h * self.w, channels
        return self._buffers[which][: math.prod(shape)].view(shape)

    def _scratch(self, *shape: int) -> Tensor:
        return self._rows[: math.prod(shape)].view(shape)

    def _split(self, tiles: Tensor) -> Tensor:
        return tiles.view(self.n, self.n, -1, self.h, self.w, tiles.shape[2])

    def _phases(self, x: Tensor, dim: int, count: int) -> list[Tensor]:
        """Every count-th slice along `dim`, from each start."""
        shape = *x.shape[:dim], -1, count, *x.shape[dim + 1 :]
        return list(x.view(shape).unbind(dim + 1))

    def gather(self, x: Tensor, out: Tensor) -> Tensor:
        """V = B^T d B of an image, into `out`."""
        B, _, W, C = x.shape
        reads = self.scheme.reads
        rows = self._scratch(self.n, B, self.h, W, C)
        self.scheme.gather(self._phases(x, 1, reads), 1, list(rows))
        self.scheme.gather(self._phases(rows, 3, reads), 3, list(self._split(out).unbind(1)))
        return out

    def gather_adjoint(self, V: Tensor, out: Tensor) -> None:
        """The transpose of `gather`, into the gradient `out` of an image."""
        B, _, W, C = out.shape
        reads = self.scheme.reads
        rows = self._scratch(self.n, B, self.h, W, C)
        self.scheme.gather_adjoint(list(self._split(V).unbind(1)), 3, self._phases(rows, 3, reads))
        self.scheme.gather_adjoint(list(rows), 1, self._phases(out, 1, reads))

    def combine(self, M: Tensor, out: Tensor) -> None:
        """Y = A^T M A of products, into an image."""
        B, _, W, K = out.shape
        outputs = self.scheme.outputs
        rows = self._scratch(self.n, B, self.h, W, K)
        self.scheme.combine(list(self._split(M).unbind(1)), self._phases(rows, 3, outputs))
        self.scheme.combine(list(rows), self._phases(out, 1, outputs))

    def combine_adjoint(self, y: Tensor, out: Tensor) -> Tensor:
        """The transpose of `combine`, into `out`."""
        B, _, W, K = y.shape
        outputs = self.scheme.outputs
        rows = self._scratch(self.n, B, self.h, W, K)
        self.scheme.combine_adjoint(self._phases(y, 1, outputs), list(rows))
        self.scheme.combine_adjoint(
            self._phases(rows, 3, outputs), list(self._split(out).unbind(1))
        )
        return out


def _filter_transform(scheme: Scheme, like: Tensor) -> Tensor:
    """The matrix of g -> G g G^T on flattened filters, (n^2, 9)."""
    G = torch.tensor(scheme.G, dtype=torch.float64)
    return torch.kron(G, G).to(like)


def _filters(weight: Tensor, transform: Tensor) -> Tensor:
    """U = G g G^T, (n^2, K, C), of filters (K, C, 3, 3); a view of (K, n^2, C).

    Filters in memory format channels_last are read as they lie.
    """
    K, C = weight.shape[:2]
    flat = weight.permute(0, 2, 3, 1).reshape(K, 9, C)
    return torch.matmul(transform, flat).transpose(0, 1)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, scheme: Scheme) -> Tensor:
        x = x.permute(0, 2, 3, 1).contiguous()
        B, H, W, C = x.shape
        K = len(weight)
        U = _filters(weight, _filter_transform(scheme, weight))
        grow = scheme.outputs // scheme.reads
        y = x.new_empty(B, grow * H, grow * W, K)
        tiles = _Tiles(x, K, scheme)
        for i in range(0, B, tiles.chunk):
            images = x[i : i + tiles.chunk]
            V = tiles.gather(images, tiles.buffer(0, len(images), C))
            M = torch.bmm(V, U.transpose(1, 2), out=tiles.buffer(1, len(images), K))
            tiles.combine(M, y[i : i + tiles.chunk])
        y += bias
        return y.permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Scheme], output: Tensor
    ) -> None:
        x, weight, _, ctx.scheme = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x, dy = (a.permute(0, 2, 3, 1).contiguous() for a in (x, grad))
        K, C = weight.shape[:2]
        transform = _filter_transform(ctx.scheme, weight)
        U = _filters(weight, transform)
        dU = weight.new_empty(K, len(transform), C).transpose(0, 1)
        dx = torch.empty_like(x)
        tiles = _Tiles(x, K, ctx.scheme)
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
    the transform of the filter; more without gradients, where it saves less. Elsewhere (GPUs,
    bfloat16 matrix units) it never is faster, and a compiler cannot look into it.
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
    fits = H % 4 == W % 4 == 0
    return fits and narrow >= 64 and work >= (2**25 if torch.is_grad_enabled() else 2**26)


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor, *, double: bool = False) -> Tensor:
    """The convolution of x with 3x3 filters and padding 1, in memory format channels_last.

    Differentiable once.

    Args:
        x: Images (B, C, H, W); H and W multiples of 4 unless `double`.
        weight: Filters (K, C, 3, 3).
        bias: (K,).
        double: Double x by nearest neighbour first.
    """
    out: Tensor = _Winograd.apply(x, weight, bias, Doubled if double else Same)
    return out
