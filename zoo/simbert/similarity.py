"""Supervised sentence similarity as a LightningModule."""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.sentences.batches import AnyBatch, LabelledBatch
from zoo.ranges import BelowOne, Count, Finite, Positive
from zoo.simbert.encoder import Positions
from zoo.simbert.evaluation import SentenceNumbers
from zoo.simbert.figures import Figures
from zoo.simbert.gradcache import in_chunks
from zoo.simbert.losses import PairLoss, cosent, cosine_loss, over_prefixes, paired_cosines, sbert
from zoo.simbert.page import Pages
from zoo.simbert.sentences import source_vectors
from zoo.training.distributed import gather_with_grad
from zoo.training.log import log_every


class SentenceSimilarity(Pages, Figures):
    """A sentence encoder trained on labelled pairs (kexue.fm/archives/8541): RoFormer-Sim-FT.

    The post's head is Sentence-BERT's (arXiv 1908.10084): a linear classifier of [u, v, |u - v|]
    into 5 classes, with the softmax within the pair's kind of label. CoSENT
    (kexue.fm/archives/8847) ranks cosines instead, and the post's losses of the cosine itself are
    there to compare with. Data are `LabelledPairs`; the defaults are the released base model's.

    >>> model = SentenceSimilarity(vocab_size=8, hidden=8, layers=1, heads=2)
    >>> model.tokenizer.adopt(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc"])
    >>> model.similarity(["a", "b"], ["a b c"]).shape
    torch.Size([2, 1])

    Args:
        head: sbert, cosent, cosine_zero, cosine_minus or hinge.
        scale: The lambda of cosent.
        threshold: Grade above which a graded pair is similar, where the head asks for yes or no.
        vocab_size: Tokens of the vocabulary, which comes from the data or from `init`.
        positions: learned (BERT) or rotary (RoFormer).
        dropout: Dropout of the embeddings and of what the layers add.
        lr: Learning rate.
        matryoshka: Average the loss over these numbers of first features; not with head=sbert.
        encoder: Arguments of `SentenceModel`.
    """

    purpose = "labelled"

    def __init__(
        self,
        *,
        head: PairLoss = "cosent",
        scale: Positive = 20.0,
        threshold: Finite = 2.5,
        vocab_size: Count = 12_000,
        positions: Positions = "rotary",
        dropout: BelowOne = 0.2,
        lr: Positive = 2e-5,
        matryoshka: list[Count] = [],  # noqa: B006  # never changed; a list, as YAML has it
        **encoder: Any,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            positions=positions,
            dropout=dropout,
            lr=lr,
            matryoshka=matryoshka,
            **encoder,
        )
        if matryoshka and head == "sbert":
            raise ValueError(f"matryoshka={matryoshka} has no effect with head=sbert: use cosent")
        self.head, self.scale, self.threshold = head, scale, threshold
        # Kept for distillation back into a generator; there is no loss of tokens here.
        self.untrained("head", "head_norm", "head_bias")
        width = 3 * self.net.width
        self.classifier = nn.Linear(width, 5, bias=False) if head == "sbert" else None
        self._numbers = SentenceNumbers()

    # Training

    def loss(self, batch: LabelledBatch) -> Tensor:
        """Loss of a batch of labelled pairs."""

        def vectors_of(rows: slice) -> tuple[Tensor, ...]:
            return (self.net.vectors(batch.tokens[rows], batch.lengths[rows]),)

        (vectors,) = in_chunks(vectors_of, len(batch.tokens), self.chunk)
        u, v = vectors[::2], vectors[1::2]
        if self.classifier is not None:
            logits = self.classifier(torch.cat([u, v, (u - v).abs()], 1))
            return sbert(logits, batch.label, batch.task, threshold=self.threshold)
        # Every process computes the loss of all pairs: CoSENT compares across them.
        label, task = gather_with_grad(batch.label), gather_with_grad(batch.task)

        def loss(u: Tensor, v: Tensor) -> Tensor:
            cosine = gather_with_grad(paired_cosines(u, v))
            if self.head == "cosent":
                return cosent(cosine, label, task, scale=self.scale)
            assert self.head != "sbert"  # which has a classifier
            kind, threshold = self.head, self.threshold
            return cosine_loss(cosine, label, task, kind=kind, threshold=threshold)

        return over_prefixes(loss, self.matryoshka, u, v)

    def training_step(self, batch: LabelledBatch, batch_idx: int) -> Tensor:
        """Loss of a batch of `LabelledPairs`."""
        loss = self.loss(batch)
        log_every(self, {"train/loss": loss})
        return loss

    # Evaluation

    def validation_step(self, batch: AnyBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
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
