"""Keys and values of the tokens so far, for generation a token at a time."""

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of every layer, in memory that is laid out once.

    Args:
        shape: Layers, heads and features a head.
        rows: Number of rows B.
        capacity: Tokens that a row can come to.
        device: Where.
        dtype: Of keys and values.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        rows: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        layers, heads, d = shape
        self.shape, self.capacity, self.length = shape, capacity, 0
        size = (layers, 2, rows, heads, capacity, d)
        self.memory = torch.zeros(size, device=device, dtype=dtype)

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values (B, h, L, d) of new tokens; all so far, (B, h, length + L, d)."""
        end = self.length + k.shape[2]
        own = self.memory[layer]
        own[0, :, :, self.length : end] = k
        own[1, :, :, self.length : end] = v
        return own[0, :, :, :end], own[1, :, :, :end]

    def advance(self, count: int) -> None:
        """Counts tokens that all layers have added."""
        self.length += count

    def select(self, rows: Tensor) -> "KeyValueCache":
        """The cache of these rows, int64 (B',), with repetition if asked."""
        chosen = KeyValueCache.__new__(KeyValueCache)
        chosen.shape, chosen.capacity, chosen.length = self.shape, self.capacity, self.length
        layers, heads, d = self.shape
        size = (layers, 2, len(rows), heads, self.capacity, d)
        chosen.memory = self.memory.new_zeros(size)
        used = self.memory[..., : self.length, :]
        chosen.memory[..., : self.length, :] = used.index_select(2, rows)
        return chosen
