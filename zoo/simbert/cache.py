"""Keys and values of the tokens so far, for generation a token at a time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of every layer, in memory that is laid out once.

    Args:
        shape: Layers, heads and features a head.
        rows: Number of rows B.
        capacity: Tokens that a row can come to.
        **like: Device and dtype of keys and values.
    """

    def __init__(self, shape: tuple[int, int, int], rows: int, capacity: int, **like: Any) -> None:
        layers, heads, d = shape
        self.capacity, self.length = capacity, 0
        self.memory = torch.zeros((layers, 2, rows, heads, capacity, d), **like)

    def add(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Writes keys and values (B, h, L, d) of new tokens; all so far, (B, h, length + L, d).

        B may be fewer than the rows there is memory for.
        """
        rows, end = len(k), self.length + k.shape[2]
        own = self.memory[layer]
        own[0, :rows, :, self.length : end] = k
        own[1, :rows, :, self.length : end] = v
        return own[0, :rows, :, :end], own[1, :rows, :, :end]

    def advance(self, count: int) -> None:
        """Counts tokens that all layers have added."""
        self.length += count

    def select(self, rows: Tensor, room: int) -> "KeyValueCache":
        """The cache of these rows, int64 (B',), with memory for `room` of them."""
        layers, _, _, heads, _, d = self.memory.shape
        chosen = KeyValueCache.__new__(KeyValueCache)
        chosen.capacity, chosen.length = self.capacity, self.length
        chosen.memory = self.memory.new_empty((layers, 2, room, heads, self.capacity, d))
        used = self.memory[..., : self.length, :]
        chosen.memory[:, :, : len(rows), :, : self.length] = used.index_select(2, rows)
        return chosen

    def copy(self, source: Sequence[int], target: Sequence[int]) -> None:
        """Copies rows over others; no row is both a source and a target."""
        used = self.memory[..., : self.length, :]
        for i, j in zip(source, target, strict=True):  # several times as fast as by an index
            used[:, :, j] = used[:, :, i]
