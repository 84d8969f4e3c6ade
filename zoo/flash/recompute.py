"""Saving for the backward pass what is costly to compute, and computing again what is not.

Most of what a gated attention unit keeps follows from two products and its input by operations
that cost a few percent of it: the normalised input, U, V, Z and U * A V.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint


class _Made:
    """A result that is forgotten, and made again when it is first asked for."""

    def __init__(
        self, make: Callable[..., Tensor], inputs: "tuple[Tensor | _View, ...]", device: str
    ) -> None:
        self.make, self.inputs = make, inputs
        self.result: Tensor | None = None
        self.device = device if torch.amp.is_autocast_available(device) else "cpu"
        self.autocast = torch.is_autocast_enabled(self.device)
        self.dtype = torch.get_autocast_dtype(self.device)

    def again(self) -> Tensor:
        if self.result is None:
            with torch.no_grad(), torch.autocast(self.device, self.dtype, self.autocast):
                self.result = self.make(*map(_unpacked, self.inputs))
        return self.result


class _View(NamedTuple):
    """A part of the memory of what is made again."""

    made: _Made
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


def _memory(tensor: Tensor) -> int:
    """Which memory a tensor is in, also of a tensor without data, of the device meta."""
    memory: int = tensor.untyped_storage()._cdata
    return memory


def _unpacked(saved: Tensor | _View) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    return saved.made.again().as_strided(saved.size, saved.stride, saved.offset)


class Recompute:
    """Within it, what `of` makes is not kept for the backward pass, which makes it again.

    Gradients are the same to the bit. Does nothing where no gradient is wanted, or where a compiler
    chooses what to keep.

    >>> x = torch.randn(3, requires_grad=True)
    >>> with Recompute() as cheap:
    ...     y = (2 * cheap.of(torch.sigmoid, x)).square().sum()

    Args:
        wanted: Without it, all is kept.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        # By the memory, which is held until the end so that no other result has its place.
        self._made: dict[int, tuple[_Made, Tensor]] = {}

    def of(self, make: Callable[..., Tensor], *inputs: Tensor, steps: bool = False) -> Tensor:
        """make(*inputs), in memory of its own; what else it reads must not change until then.

        With `steps` what its own operations would keep is not kept either.
        """
        if steps and self.wanted:
            out = checkpoint(make, *inputs, use_reentrant=False, preserve_rng_state=False)
        else:
            out = make(*inputs)
        self.note(out, make, *inputs)
        return out

    def note(self, out: Tensor, make: Callable[..., Tensor], *inputs: Tensor) -> None:
        """Says that make(*inputs) is `out`, in memory of its own, however it was made."""
        if self.wanted:
            made = _Made(make, tuple(map(self._packed, inputs)), out.device.type)
            self._made[_memory(out)] = made, out

    def _packed(self, tensor: Tensor) -> Tensor | _View:
        """A tensor, or where it is in what can be made again."""
        made = self._made.get(_memory(tensor))
        if made is None:
            return tensor.detach()
        return _View(made[0], tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def __enter__(self) -> "Recompute":
        if self.wanted:
            self._hooks = saved_tensors_hooks(self._packed, _unpacked)
            self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.wanted:
            self._hooks.__exit__(*error)
            self._made.clear()
