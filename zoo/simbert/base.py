"""What the models of this room share: encoder, vocabulary, first weights, optimiser."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.sentences.tokenizer import Tokenizer
from zoo.loading import load
from zoo.ranges import BelowOne, Count, Depth, NonNegative, Positive, Whole, check_ranges
from zoo.simbert.encoder import Encoder, Pooler, Positions, encoder_of
from zoo.training.module import Module, by_step
from zoo.training.optim import may_fuse, piecewise_linear

# What takes data for each purpose: an objective of SimBERT's, or the labels of SentenceSimilarity.
PURPOSES = {
    "similar": "SimilarGroups",
    "labelled": "LabelledPairs",
    "mlm": "Sentences",
    "simcse": "Sentences with --data.purpose simcse",
}


class SentenceModel(Module):
    """An encoder of sentences with its vocabulary.

    A subclass says by `purpose` which data it trains on, a key of `PURPOSES`.

    Args:
        vocab_size: Tokens of the vocabulary, which comes from the data or from `init`.
        hidden: Features H.
        layers: Number of layers.
        heads: Attention heads.
        intermediate: Features inside the feed-forward part; 4 times hidden if not given.
        embedding_size: Features of the embeddings; as hidden if not given.
        positions: learned (BERT) or rotary (RoFormer).
        max_positions: Longest row of learned positions.
        rotary_value: Rotate values as well as queries and keys.
        pooler: Sentence vector: cls_linear (the posts'), cls, or mean.
        dropout: Dropout of the embeddings and of what the layers add.
        attention_dropout: Dropout of the attention weights.
        matryoshka: Average the loss of the vectors over these numbers of first features.
        chunk: Compute so many rows at a time, with the memory of that many (GradCache); 0 for all.
        init: Checkpoint, run or folder to take the first weights and the vocabulary from.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of all parameters.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given; {1000: 1} is a warm-up. Constant if not given.
    """

    forwards = ("vectors", "first")

    purpose: str

    def __init__(
        self,
        *,
        vocab_size: Count,
        positions: Positions,
        dropout: BelowOne,
        lr: Positive,
        hidden: Count = 768,
        layers: Depth = 12,
        heads: Count = 12,
        intermediate: Count | None = None,
        embedding_size: Count | None = None,
        max_positions: Count = 512,
        rotary_value: bool = False,
        pooler: Pooler = "cls_linear",
        attention_dropout: BelowOne = 0.1,
        matryoshka: list[Count] = [],  # noqa: B006  # never changed; a list, as YAML has it
        chunk: Whole = 0,
        init: str | None = None,
        weight_decay: NonNegative = 0.01,
        lr_schedule: dict[int, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        if chunk % 2:
            raise ValueError(f"chunk={chunk}: give an even number of rows, pairs stay together")
        if any(d > hidden for d in matryoshka):
            raise ValueError(f"matryoshka={matryoshka}: give numbers from 1 to hidden={hidden}")
        self.lr, self.weight_decay = lr, weight_decay
        self.lr_points = None if lr_schedule is None else by_step(lr_schedule)
        if self.lr_points is not None:
            piecewise_linear(self.lr_points)  # refuses what is none; a function is not pickled
        self.vocab_size, self.matryoshka, self.chunk = vocab_size, matryoshka, chunk
        self.first_weights = init
        self.tokenizer = Tokenizer()
        self.net = encoder_of(self.hparams)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sentence vectors (B, H), not normalised, of token rows (B, L)."""
        return self.net.vectors(tokens, lengths)

    def length(self) -> int:
        """Tokens at which sentences are cut: the model's own, or its learned positions if fewer."""
        length = self.tokenizer.length
        learned = self.net.position_embeddings is not None
        return min(length, self.net.max_positions) if learned else length

    def untrained(self, *names: str) -> None:
        """Leaves parts of the encoder as they are.

        What an objective does not use must not wait for a gradient (DDP), nor decay.
        """
        for name in names:
            part = getattr(self.net, name)
            if part is not None:
                part.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """AdamW over all trained parameters (the author decays norms and biases too), scheduled."""
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.lr, weight_decay=self.weight_decay, fused=may_fuse(self)
        )
        if self.lr_points is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, piecewise_linear(self.lr_points))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def parts_to_shard(self) -> Sequence[nn.Module]:
        """The layers."""
        return list(self.net.layers)

    def setup(self, stage: str) -> None:
        """Before a run: a look at the data, first weights from `init`, one vocabulary for both."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self._check_data(data, stage)
        # A model with a vocabulary has weights already, from a folder or an earlier fit. A run that
        # is resumed gets its checkpoint's after this.
        if stage == "fit" and self.first_weights and not len(self.tokenizer):
            self._start_from(load(self.first_weights))
        if not hasattr(data, "vocabulary"):
            return
        if not len(self.tokenizer):
            self.tokenizer.adopt(data.vocabulary(self.vocab_size), data.lower)
        # The same object: a checkpoint that is loaded later gives the data its vocabulary too.
        data.tokenizer = self.tokenizer
        if stage == "fit":
            self.agree_on_length(data)

    def _check_data(self, data: Any, stage: str) -> None:
        found = getattr(data, "purpose", None)
        # Groups and labelled pairs can judge any sentence model, masked words only one of them.
        if found == self.purpose or (found in PURPOSES and found != "mlm" and stage != "fit"):
            return
        labelled = self.purpose == "labelled"
        with_objective = "" if labelled else f" with --model.objective {self.purpose}"
        with_purpose = f" with --data.purpose {found}" if found in ("mlm", "simcse") else ""
        raise ValueError(
            f"{type(self).__name__}{with_objective} takes {PURPOSES[self.purpose]}, and not "
            f"{type(data).__name__}{with_purpose}"
        )

    def agree_on_length(self, data: Any) -> None:
        """Makes learned positions enough for the rows of a fit, or its sentences short enough."""
        if self.net.position_embeddings is None:
            return
        rows = 2 if data.purpose == "similar" else 1  # a source and a target
        most = self.net.max_positions // rows
        if data.max_length is None:
            self.tokenizer.max_length = min(self.tokenizer.length, most)
        elif data.max_length > most:
            raise ValueError(
                f"--data.max_length={data.max_length}: rows of {rows * data.max_length} tokens for "
                f"--model.max_positions={self.net.max_positions}: lower it to {most}, or raise "
                "those"
            )

    def _start_from(self, other: Any) -> None:
        """Takes the encoder and the vocabulary of another model of this room."""
        said = f"init={self.first_weights}"
        if not isinstance(getattr(other, "net", None), Encoder):
            raise ValueError(f"{said} holds a {type(other).__name__}, not a sentence model")
        try:
            missing, unexpected = self.net.load_state_dict(other.net.state_dict(), strict=False)
        except RuntimeError as error:
            line = " ".join(str(error).split()[:40])
            raise ValueError(f"{said}: other sizes than the model's: {line}") from error
        wrong = [*missing, *unexpected]
        if wrong:
            raise ValueError(f"{said}: {wrong[0]} is not in both models: check the sizes")
        self.tokenizer.adopt(other.tokenizer.tokens, other.tokenizer.lower)
        self.tokenizer.max_length = other.tokenizer.max_length
