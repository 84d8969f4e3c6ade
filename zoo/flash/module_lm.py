"""Causal language model as a LightningModule."""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zoo.data.protocols import Split
from zoo.data.synthetic import Synthetic
from zoo.data.text.language import NO_TARGET, StreamBatch, Text
from zoo.data.text.vocabulary import Vocabulary
from zoo.flash.averages import PredictionAverages
from zoo.flash.network import Network
from zoo.flash.page import WritingPages
from zoo.flash.words import Words
from zoo.ranges import BelowOne, Count


class FlashLM(WritingPages):
    """Causal language model of gated attention units, in time linear in the length of the text.

    FLASH, arXiv 2202.10447 and kexue.fm/archives/8934. It decodes with a state of constant size.
    `kind` makes it FLASH-Quad, or a Transformer of today with as many weights.

    >>> import torch
    >>> model = FlashLM(vocab_size=9, dim=16, depth=2, head_size=8)
    >>> model.generate([torch.tensor([3, 1, 4])], max_new_tokens=5).shape
    torch.Size([1, 5])

    Args:
        vocab_size: Number of symbols; `zoo fit` counts the text's.
        separate_documents: No token sees one of another document.
        betas: Decays of Adam's averages.
    """

    def __init__(
        self,
        *,
        vocab_size: Count = 257,
        separate_documents: bool = False,
        betas: list[BelowOne] = [0.9, 0.95],  # noqa: B006  # never changed; a list, as YAML has it
        **shared: Any,
    ) -> None:
        super().__init__(vocab_size=vocab_size, betas=betas, **shared)
        self.net = Network(self.config, vocabulary=vocab_size, causal=True)
        self.words = Words(vocab_size)
        self.separate_documents = separate_documents
        self._tests: list[PredictionAverages] = []
        self.test_losses: list[float] = []
        self._unit, self._tested = "symbol", 0

    def forward(self, tokens: Tensor, doc_ids: Tensor | None = None) -> Tensor:
        """Logits (B, n, V) of what follows each of the tokens (B, n), int64."""
        return self.net(tokens, doc_ids=doc_ids)

    def predictions(self, batch: StreamBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, n, V), targets (B, n), and which of them count (B, n)."""
        logits = self(batch[0], batch[2] if self.separate_documents else None)
        return logits, batch[1], batch[1] != NO_TARGET

    def training_step(self, batch: StreamBatch, batch_idx: int) -> Tensor:
        """Mean loss of a batch (tokens, targets, documents, ...), in nats."""
        logits, targets, _ = self.predictions(batch)
        return self.mean_loss(logits, targets)

    def setup(self, stage: str) -> None:
        """Takes the data's symbols, of which there are no more than the model's, and compiles."""
        super().setup(stage)
        words = getattr(self.data, "vocabulary", None)
        if isinstance(words, Vocabulary):
            self._unit = words.level.removesuffix("punct")
        symbols = getattr(self.data, "symbols", 0)
        if symbols > self.words.size:
            raise ValueError(
                f"the data has {symbols} symbols, but the model {self.words.size}: set "
                f"--model.vocab_size={symbols}"
            )
        lengths = getattr(self.data, "test_lengths", None) or [0]
        suffixes = ["", *(f"@{length}" for length in lengths[1:])]
        self._validation.unit = self._unit
        self._tests = [PredictionAverages("test", self._unit, suffix) for suffix in suffixes]
        if isinstance(self.data, Text):
            split: Split = "test" if stage in ("test", "predict") else "val"
            per_byte = self.data.symbols_per_byte(split)
            for averages in (self._validation, *self._tests):
                averages.per_byte = per_byte

    def test_step(self, batch: StreamBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds to the numbers of this length."""
        self._tests[dataloader_idx].add(*self.predictions(batch))

    def on_test_epoch_end(self) -> None:
        """Logs bits, perplexity and accuracy of each length, beside counting symbols."""
        self.test_losses = []
        for averages in self._tests:
            means, self._tested = averages.reduce(self)
            self.test_losses.append(means[f"test/loss{averages.suffix}"])
            self.log_dict(means, sync_dist=True)
        if isinstance(self.data, Text):
            nats = self.data.unigram()
            baseline = {"loss": nats, "perplexity": math.exp(nats)}
            baseline[f"bits_per_{self._unit}"] = nats / math.log(2)
            if (per_byte := self._validation.per_byte) is not None and self._unit != "byte":
                baseline["bits_per_byte"] = nats / math.log(2) * per_byte
            self.log_dict({f"baseline/{k}": v for k, v in baseline.items()}, sync_dist=True)
        elif isinstance(self.data, Synthetic):
            self.log("baseline/accuracy", 1 / self.data.answers, sync_dist=True)

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        asked = f"test/bits_per_{self._unit}"
        if not isinstance(self.data, Text):
            protocol = {asked: f"test split, what is asked for ({self._tested} predictions)"}
            if isinstance(self.data, Synthetic):
                protocol["baseline/accuracy"] = f"a guess among {self.data.answers} symbols"
            return protocol
        windows = f"windows of {self.data.test_lengths[0]}"
        per_byte: dict[str, str] = {}
        if self._validation.per_byte is not None and self._unit != "byte":
            per_byte["test/bits_per_byte"] = (
                f"bits_per_{self._unit} times {self._validation.per_byte:.4f}, the symbols of each "
                "byte of the test split in UTF-8"
            )
        return {
            asked: (
                f"test split, each {self._unit} predicted once ({self._tested} predictions), in "
                f"{windows} without overlap; @n: in windows of n"
            ),
            f"baseline/bits_per_{self._unit}": "coded by counts in the training split, from 1",
            **per_byte,
        }

    def predict_step(self, batch: StreamBatch, batch_idx: int) -> Tensor:
        """Nats of each prediction, (B, n); 0 where none counts."""
        logits, targets, _ = self.predictions(batch)
        return F.cross_entropy(logits.mT.float(), targets, reduction="none")
