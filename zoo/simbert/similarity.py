"""Supervised sentence similarity as a LightningModule."""

from typing import Any, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo.data.sentences.batches import LabelledBatch, TextBatch
from zoo.data.sentences.tokenizer import Tokenizer
from zoo.loading import class_path
from zoo.ranges import BelowOne, Count, Depth, Finite, NonNegative, Positive, Whole, check_ranges
from zoo.simbert.encoder import Pooler, Positions
from zoo.simbert.evaluation import SentenceNumbers
from zoo.simbert.gradcache import in_chunks
from zoo.simbert.losses import (
    PairLoss,
    cosent,
    cosine_loss,
    over_prefixes,
    paired_cosines,
    sbert,
)
from zoo.simbert.sentences import encode, predict_step, similar, similarity, source_vectors
from zoo.simbert.training import adamw, check_training, make_encoder, prepare
from zoo.training.distributed import gather_with_grad
from zoo.training.log import log_every
from zoo.training.optim import clip


class SentenceSimilarity(LightningModule):
    """A sentence encoder trained on labelled pairs (kexue.fm/archives/8541): RoFormer-Sim-FT.

    The post's head is Sentence-BERT's (arXiv 1908.10084): a linear classifier of [u, v, |u - v|]
    into 5 classes, with the softmax within the pair's kind of label. CoSENT
    (kexue.fm/archives/8847) ranks cosines instead, and the post's losses of the cosine itself are
    there to compare with. Data are `LabelledPairs`; the defaults are the released base model's.

    Args:
        head: sbert, cosent, cosine_zero, cosine_minus or hinge.
        scale: The lambda of cosent.
        threshold: Grade above which a graded pair is similar, where the head asks for yes or no.
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
        dropout: Of embeddings and of what the layers add.
        attention_dropout: Of the attention weights.
        matryoshka: Average the loss over these numbers of first features; not with head=sbert.
        chunk: Compute so many rows at a time, with the memory of that many (GradCache); 0 for all.
        init: Checkpoint, run or folder to take the first weights and the vocabulary from.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of all parameters.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given; {1000: 1} is a warm-up. Constant if not given.

    Raises:
        ValueError: A value is out of range, or has no effect beside the others.
    """

    def __init__(
        self,
        *,
        head: PairLoss = "cosent",
        scale: Positive = 20.0,
        threshold: Finite = 2.5,
        vocab_size: Count = 12_000,
        hidden: Count = 768,
        layers: Depth = 12,
        heads: Count = 12,
        intermediate: Count | None = None,
        embedding_size: Count | None = None,
        positions: Positions = "rotary",
        max_positions: Count = 512,
        rotary_value: bool = False,
        pooler: Pooler = "cls_linear",
        dropout: BelowOne = 0.2,
        attention_dropout: BelowOne = 0.1,
        matryoshka: list[Count] = [],  # noqa: B006  # never changed; a list, as YAML has it
        chunk: Whole = 0,
        init: str | None = None,
        lr: Positive = 2e-5,
        weight_decay: NonNegative = 0.01,
        lr_schedule: dict[int, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        check_training(self.hparams)
        if head not in get_args(PairLoss):
            raise ValueError(f"head={head!r}: choose one of {', '.join(get_args(PairLoss))}")
        if scale <= 0:
            raise ValueError(f"scale={scale}: must be above 0")
        if matryoshka and head == "sbert":
            raise ValueError(f"matryoshka={matryoshka} has no effect with head=sbert: use cosent")
        self.tokenizer = Tokenizer()
        self.net = make_encoder(self.hparams)
        # Kept for distillation back into a generator; there is no loss of tokens here.
        for part in (self.net.head, self.net.head_norm):
            part.requires_grad_(False)
        self.net.head_bias.requires_grad_(False)
        self.classifier = nn.Linear(3 * hidden, 5, bias=False) if head == "sbert" else None
        self._numbers = SentenceNumbers()

    encode = encode
    similarity = similarity
    similar = similar
    predict_step = predict_step

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sentence vectors (B, H), not normalised, of token rows (B, L)."""
        return self.net.vectors(tokens, lengths)

    # Training

    def loss(self, batch: LabelledBatch) -> Tensor:
        """Loss of a batch of labelled pairs."""
        own = self.hparams

        def vectors_of(rows: slice) -> tuple[Tensor, ...]:
            return (self.net.vectors(batch.tokens[rows], batch.lengths[rows]),)

        (vectors,) = in_chunks(vectors_of, len(batch.tokens), own["chunk"])
        u, v = vectors[::2], vectors[1::2]
        if self.classifier is not None:
            logits = self.classifier(torch.cat([u, v, (u - v).abs()], 1))
            return sbert(logits, batch.label, batch.task, threshold=own["threshold"])
        # Every process computes the loss of all pairs: CoSENT compares across them.
        label, task = gather_with_grad(batch.label), gather_with_grad(batch.task)

        def loss(u: Tensor, v: Tensor) -> Tensor:
            cosine = gather_with_grad(paired_cosines(u, v))
            if own["head"] == "cosent":
                return cosent(cosine, label, task, scale=own["scale"])
            kind, threshold = own["head"], own["threshold"]
            return cosine_loss(cosine, label, task, kind=kind, threshold=threshold)

        return over_prefixes(loss, own["matryoshka"], u, v)

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        """Loss of a batch of `LabelledPairs`."""
        loss = self.loss(batch)
        log_every(self, {"train/loss": loss})
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW, with the schedule by step."""
        return adamw(self)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips all gradients; Lightning refuses to under bf16 with a fused optimiser."""
        clip(self.parameters(), gradient_clip_val, gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the class, for `zoo.load`."""
        checkpoint["zoo_class"] = class_path(self)

    def setup(self, stage: str) -> None:
        """Takes the first weights, and agrees with the data on a vocabulary.

        Raises:
            ValueError: The weights do not fit, or the data is of another kind.
        """
        prepare(self, stage)

    # Evaluation

    def validation_step(
        self, batch: TextBatch | LabelledBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Adds a batch to the numbers."""
        if isinstance(batch, LabelledBatch):
            self._numbers.add_labelled(self.net, batch)
            return
        self._numbers.add_groups(source_vectors(self.net, batch), batch)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs val/spearman of each set and their mean."""
        self.log_dict(self._numbers.collect(self, "val"), sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Logs the test's numbers, and TF-IDF's as baseline."""
        self.log_dict(self._numbers.collect(self, "test"), sync_dist=True)

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        return self._numbers.protocol()
