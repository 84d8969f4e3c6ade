"""Nats, bits and accuracy over predictions, exact on uneven batches and shards."""

import math

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from zoo.layers.precision import wide
from zoo.training.averages import added


class PredictionAverages:
    """Means over the scored predictions of an evaluation.

    Args:
        prefix: val or test.
        unit: What is predicted, for the name of the bits; None for classes, of which neither bits
            nor perplexity are told.
        suffix: Ends the names, such as "@1024".

    `per_byte` is set where it is known how many predictions there are for each byte of the text:
    then bits a byte are told too, by which models with other symbols compare.
    """

    def __init__(self, prefix: str, unit: str | None = "symbol", suffix: str = "") -> None:
        self.prefix, self.unit, self.suffix = prefix, unit, suffix
        self.per_byte: float | None = None
        self._sums: Tensor | None = None
        self._places: Tensor | None = None
        self.places: Tensor | None = None
        """After `reduce`: nats, right ones and number at each place of this process, (3, n)."""
        self._symbols: Tensor | None = None
        self.symbols: Tensor | None = None
        """The same of each symbol that was to be predicted, (3, V)."""

    def add(self, logits: Tensor, targets: Tensor, scored: Tensor) -> None:
        """Adds a batch: logits (B, n, V), targets (B, n) and which of them count (B, n)."""
        nats = F.cross_entropy(
            logits.flatten(0, -2).float(), targets.clamp(min=0).flatten(), reduction="none"
        )
        right = logits.argmax(-1).flatten() == targets.flatten()
        values = torch.stack([nats, right, torch.ones_like(nats)]).to(wide(nats.device))
        # Not a product with the mask: 0 times an infinite loss is no number.
        values = values.where(scored.flatten(), 0.0)
        sums, places = values.sum(1), values.view(3, *targets.shape).sum(1)
        self._sums = sums if self._sums is None else self._sums + sums
        self._places = added(places, self._places)
        if self._symbols is None:
            self._symbols = values.new_zeros(3, logits.shape[-1])
        self._symbols.index_add_(1, targets.clamp(min=0).flatten(), values)

    def reduce(self, module: LightningModule) -> tuple[dict[str, float], int]:
        """Means over all processes by their full names, their number, and starts again."""
        sums = self._sums
        if sums is None:
            sums = torch.zeros(3, dtype=wide(module.device), device=module.device)
        self._sums = None
        self.places, self._places = self._places, None
        self.symbols, self._symbols = self._symbols, None
        nats, right, count = module.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        mean = nats / max(count, 1.0)
        means = {"loss": mean}
        if self.unit is not None:
            means[f"bits_per_{self.unit}"] = mean / math.log(2)
            if self.per_byte is not None and self.unit != "byte":
                means["bits_per_byte"] = mean / math.log(2) * self.per_byte
            means["perplexity"] = math.exp(min(mean, 700.0))
        means["accuracy"] = right / max(count, 1.0)
        return {f"{self.prefix}/{k}{self.suffix}": v for k, v in means.items()}, int(count)
