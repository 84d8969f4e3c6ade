"""Attention weights of a single head: what becomes of the products of queries and keys."""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ScoreName = Literal["relu2_paper", "relu2", "relu2_row", "softmax", "softmax_plus", "laplace"]

_PAIRS = 2**20  # of a query and a key, whose weights are made at a time
_LAPLACE_MEAN, _LAPLACE_STD = math.sqrt(0.5), math.sqrt(0.25 / math.pi)


@dataclass(frozen=True)
class Score:
    """A function from products q k and a bias b to weights.

    With s the head size, n = `size`, and l the number of keys that a query sees:

    * relu2_paper: relu(q k / n + b)^2, as the paper's code has it (arXiv 2202.10447)
    * relu2: relu(q k / sqrt(s) + b)^2 / n (kexue.fm/archives/8934)
    * relu2_row: relu(q k / sqrt(s) + b)^2 / l ("the first t terms are divided by t", ibid.)
    * softmax: softmax(q k / sqrt(s) + b)
    * softmax_plus: softmax(log_512(l) q k / sqrt(s) + b) (kexue.fm/archives/8823, 9019)
    * laplace: (1 + erf((x - mu) / (sigma sqrt(2)))) / 2 of x = q k / n + b (arXiv 2209.10655)

    None depends on the length of the sequence, which is not known while decoding.

    Args:
        name: Which.
        size: The n above: the length of a chunk, or a constant for attention to all tokens.
        min_len: Least l of softmax_plus.

    Raises:
        ValueError: There is no such score, or a length is not positive.
    """

    name: ScoreName = "relu2_paper"
    size: int = 256
    min_len: int = 16

    def __post_init__(self) -> None:
        if self.name not in get_args(ScoreName):
            raise ValueError(f"score={self.name!r}: choose one of {', '.join(get_args(ScoreName))}")
        if self.size < 1 or self.min_len < 1:
            raise ValueError(
                f"size={self.size}, min_len={self.min_len}: lengths of scores are at least 1"
            )

    @property
    def by_row(self) -> bool:
        """Whether the weights depend on the number of keys that a query sees."""
        return self.name in ("relu2_row", "softmax_plus")

    def factors(
        self, features: int, visible: Tensor | None
    ) -> tuple[float | Tensor, float | Tensor | None]:
        """Those of the products and of the bias, so that weights are a function of their sum.

        The bias has none where it is None.

        Args:
            features: Size s of queries and keys.
            visible: l of each query, (..., i, 1), where `by_row`: then there is a factor a query.
        """
        if self.name in ("relu2_paper", "laplace"):
            return 1 / self.size, None
        scale = features**-0.5
        if self.name == "softmax":
            return scale, None
        if self.name == "relu2":
            root = self.size**-0.5
            return scale * root, root
        assert visible is not None
        if self.name == "softmax_plus":
            return visible.clamp(min=self.min_len).log() * (scale / math.log(512)), None
        row = visible.clamp(min=1).rsqrt()
        return scale * row, row

    def activate(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Weights from x = q k + b (..., i, j) with `factors`, 0 for keys that the mask hides.

        A query that sees no key has no weights but zeros.
        """
        hidden = None if mask is None else ~mask
        if self.name.startswith("softmax"):
            if hidden is None:
                return x.softmax(-1)
            x = x.masked_fill(hidden, torch.finfo(x.dtype).min)
            return x.softmax(-1).masked_fill(hidden, 0.0)
        if self.name == "laplace":
            weights = (1 + torch.erf((x - _LAPLACE_MEAN) / (_LAPLACE_STD * math.sqrt(2)))) / 2
            return weights if hidden is None else weights.masked_fill(hidden, 0.0)
        return (x if hidden is None else x.masked_fill(hidden, 0.0)).relu().square()


def _products(q: Tensor, k: Tensor, bias: Tensor | None, factor: float) -> Tensor:
    """Products of queries and keys, times the factor, plus the bias, (B, i, j)."""
    if bias is None:
        return torch.baddbmm(q.new_zeros(()), q, k.mT, beta=0, alpha=factor)
    return torch.baddbmm(bias, q, k.mT, alpha=factor)


def _rectified(
    q: Tensor, k: Tensor, bias: Tensor | None, hidden: Tensor | None, factor: float
) -> Tensor:
    """relu(factor q k + b), 0 for hidden keys."""
    x = _products(q, k, bias, factor)
    return (x if hidden is None else x.masked_fill_(hidden, 0.0)).relu_()


class _SquaredReLUAttention(torch.autograd.Function):
    """relu(factor q k + b)^2 v, keeping no number a pair for the gradient: they are made again.

    Of long texts those of some chunks at a time, so that they take little beside what is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        hidden: Tensor | None,
        factor: float,
    ) -> Tensor:
        out = None
        for part in _parts(q, k):
            x = _rectified(q[part], k[part], _rows(bias, part), _rows(hidden, part), factor)
            out = _placed(torch.bmm(x * x, v[part]), part, out, len(q))
        assert out is not None
        ctx.save_for_backward(*(each.to(out.dtype) for each in (q, k, v)), bias, hidden)
        ctx.factor = factor
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias, hidden = ctx.saved_tensors
        grads: list[Tensor | None] = [None] * 4
        for part in _parts(q, k):
            found = _gradients(
                *(q[part], k[part], v[part], grad[part], _rows(bias, part), _rows(hidden, part)),
                ctx.factor,
                ctx.needs_input_grad,
            )
            for i, rows in enumerate(found):
                before = grads[i]
                if rows is None:
                    continue
                if i == 3 and rows.ndim == 2:  # of a bias that all chunks have
                    grads[i] = rows if before is None else before + rows
                else:
                    grads[i] = _placed(rows, part, before, len(q))
        return *grads, None, None


def _gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    factor: float,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Of queries, keys, values and bias, from the gradient of what `_SquaredReLUAttention` gave."""
    x = _rectified(q, k, bias, hidden, factor)
    grad_v = torch.bmm((x * x).mT, grad) if needs[2] else None
    half = torch.bmm(grad, v.mT).mul_(x)  # half of the gradient of the sum
    grad_bias = None
    if bias is not None and needs[3]:
        grad_bias = 2 * (half.sum(0) if bias.ndim == 2 else half)
    grad_q = torch.baddbmm(q, half, k, beta=0, alpha=2 * factor)
    grad_k = torch.baddbmm(k, half.mT, q, beta=0, alpha=2 * factor)
    return grad_q, grad_k, grad_v, grad_bias


def _parts(q: Tensor, k: Tensor) -> list[slice]:
    """Rows (chunks) to do at a time; a GPU needs many to be busy."""
    pairs = _PAIRS if q.device.type == "cpu" else 64 * _PAIRS
    size = max(pairs // (q.shape[1] * k.shape[1]), 1)
    return [slice(start, start + size) for start in range(0, max(len(q), 1), size)]


def _rows(x: Tensor | None, part: slice) -> Tensor | None:
    """The rows of what each row has its own of, (B, ., j); all have one of (i, j)."""
    return x if x is None or x.ndim == 2 else x[part]


def _placed(rows: Tensor, part: slice, whole: Tensor | None, size: int) -> Tensor:
    """The rows at their places in a whole of `size` rows; if they are the whole, themselves."""
    if len(rows) == size:
        return rows
    if whole is None:
        whole = rows.new_empty(size, *rows.shape[1:])
    whole[part] = rows
    return whole


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    score: Score,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Values summed by the weights of their keys.

    Args:
        q: Queries, shape (B, i, s).
        k: Keys, shape (B, j, s).
        v: Values, shape (B, j, e).
        score: The weights.
        bias: Added to the products, shape (i, j) or (B, i, j).
        mask: Which keys a query sees, bool, (i, j), (B, 1, j) or (B, i, j); all if not given.

    Returns:
        Shape (B, i, e).
    """
    visible = None
    if score.by_row and mask is not None:
        visible = mask.sum(-1, keepdim=True)
    elif score.by_row:
        visible = torch.full((1, 1), k.shape[1], device=k.device)
    visible = None if visible is None else visible.to(q.dtype)
    factor, of_bias = score.factors(q.shape[-1], visible)
    if isinstance(factor, Tensor):  # s numbers a query here, and as many as there are keys later
        q, factor = q * factor, 1.0
    if bias is not None:
        bias = (bias if of_bias is None else bias * of_bias).to(q.dtype)
    # A compiler sees through the plain form, and itself chooses what to keep.
    if score.name.startswith("relu2") and not torch.compiler.is_compiling():
        hidden = None if mask is None else ~mask
        return _SquaredReLUAttention.apply(q, k, v, bias, hidden, factor)
    return torch.bmm(score.activate(_products(q, k, bias, factor), mask).to(v.dtype), v)
