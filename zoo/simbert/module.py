"""SimBERT as a LightningModule."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.data.sentences.batches import AnyBatch, LabelledBatch, TextBatch
from zoo.layers.precision import at_least_float32
from zoo.ranges import BelowOne, Count, NonNegative, Positive, Whole
from zoo.simbert.encoder import Encoder, Positions, unilm_mask
from zoo.simbert.evaluation import SentenceNumbers
from zoo.simbert.figures import Figures
from zoo.simbert.gradcache import in_chunks
from zoo.simbert.losses import Contrast, contrastive, over_prefixes
from zoo.simbert.page import Pages
from zoo.simbert.paraphrase import Paraphrasing
from zoo.training.averages import Averages
from zoo.training.distributed import gather_with_grad, token_mean
from zoo.training.log import log_every

Objective = Literal["similar", "mlm", "simcse"]


class SimBERT(Pages, Paraphrasing, Figures):
    """BERT that retrieves similar sentences and writes them (kexue.fm/archives/7427).

    One forward pass over rows [CLS] a [SEP] b [SEP] under the mask of UniLM (arXiv 1905.03197)
    gives two losses: b is predicted from a, and the vector of a, which cannot see b, must be
    nearest to that of b among the batch. The defaults are the released base model's.

    >>> model = SimBERT(vocab_size=8, hidden=8, layers=1, heads=2)
    >>> model(torch.tensor([[2, 5, 6, 3]])).shape  # [CLS] and [SEP] are 2 and 3
    torch.Size([1, 8])

    Args:
        vocab_size: Tokens of the vocabulary, which comes from the data or from `init`.
        positions: learned (BERT) or rotary (RoFormer).
        dropout: Dropout of the embeddings and of what the layers add.
        objective: similar (the post's two losses, data SimilarGroups); mlm (masked words) or simcse
            (the same sentence twice under dropout, kexue.fm/archives/8348), both data Sentences.
        scale: Inverse temperature of the contrastive loss.
        contrast: infonce, or flatnce (kexue.fm/archives/8586).
        contrast_weight: Weight of the contrastive loss beside the generation loss.
        mask_family: Take other rows of the same group for no negatives.
        lr: Learning rate.
        examples: Test sentences to paraphrase in a test; 0 for none.
        encoder: Arguments of `SentenceModel`.
    """

    def __init__(
        self,
        *,
        vocab_size: Count = 13_685,
        positions: Positions = "learned",
        dropout: BelowOne = 0.1,
        objective: Objective = "similar",
        scale: Positive = 30.0,
        contrast: Contrast = "infonce",
        contrast_weight: NonNegative = 1.0,
        mask_family: bool = True,
        lr: Positive = 2e-6,
        examples: Whole = 10,
        **encoder: Any,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size, positions=positions, dropout=dropout, lr=lr, **encoder
        )
        self.purpose = objective
        self.scale, self.contrast, self.contrast_weight = scale, contrast, contrast_weight
        self.mask_family, self.examples = mask_family, examples
        if objective == "mlm":
            self.untrained("pooler")
        if objective == "simcse":
            self.untrained("head", "head_norm", "head_bias")
        self._validation = Averages("val/loss")
        self._test = Averages("test/loss")
        self._numbers = SentenceNumbers()
        self._tokens = self._judged = 0

    # Training

    def joint_pass(self, batch: TextBatch, rows: slice) -> tuple[Tensor, Tensor]:
        """Vectors (n, H) of the sources of some rows, and their sum of -log p over labels."""
        # Counts are known on the host, so that no step waits for the device.
        first, last = sum(batch.counts[: rows.start]), sum(batch.counts[: rows.stop])
        segments, lengths = batch.segments[rows], batch.lengths[rows]
        hidden = self.net(batch.tokens[rows], segments, unilm_mask(segments, lengths))
        vectors = self.net.pool(hidden, lengths - segments.sum(1))
        places = batch.places[first:last] - rows.start * batch.tokens.shape[1]
        total = token_losses(self.net, hidden, places, batch.labels[first:last]).sum()
        return vectors, total

    def losses(self, batch: TextBatch) -> dict[str, Tensor]:
        """The parts of the loss of a batch, to be added."""
        parts: dict[str, Tensor] = {}
        vectors, total = in_chunks(
            lambda rows: self.joint_pass(batch, rows), len(batch.tokens), self.chunk
        )
        if self.purpose != "simcse":
            parts["lm"] = token_mean(total, len(batch.labels))
        if self.purpose != "mlm":
            parts.update(self.vector_losses(vectors, batch))
        return parts

    def vector_losses(self, vectors: Tensor, batch: TextBatch) -> dict[str, Tensor]:
        """The part of the loss that is of the vectors (n, H)."""
        if self.contrast_weight == 0:
            # Under DDP every parameter must get a gradient, the pooler's too.
            return {"contrast": 0 * vectors.sum()}
        columns, family = gather_with_grad(vectors), gather_with_grad(batch.group)
        same = batch.group[:, None] == family if self.mask_family else None

        def loss(rows: Tensor, columns: Tensor) -> Tensor:
            offset, kind = self.global_rank * len(rows), self.contrast
            return contrastive(
                rows, columns, scale=self.scale, offset=offset, kind=kind, excluded=same
            )

        value = over_prefixes(loss, self.matryoshka, vectors, columns)
        return {"contrast": self.contrast_weight * value}

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """Loss of a batch of `SimilarGroups` or `Sentences`."""
        parts = self.losses(batch)
        loss = torch.stack(list(parts.values())).sum()
        log_every(self, {"train/loss": loss, **{f"train/{k}": v for k, v in parts.items()}})
        return loss

    # Evaluation

    def _evaluate(self, batch: AnyBatch, averages: Averages) -> Tensor | None:
        """Adds a batch to the numbers; returns the sources' vectors (n, H) if it needed them."""
        if isinstance(batch, LabelledBatch):
            self._numbers.add_labelled(self.net, batch)
            return None
        segments, lengths = batch.segments, batch.lengths
        hidden = self.net(batch.tokens, segments, unilm_mask(segments, lengths))
        losses = token_losses(self.net, hidden, batch.places, batch.labels)
        averages.add({averages.names[0]: losses})
        if self.purpose != "similar":
            return None
        vectors = self.net.pool(hidden, lengths - segments.sum(1))
        self._numbers.add_groups(vectors, batch)
        return vectors

    def _log(self, stage: Literal["val", "test"], averages: Averages) -> None:
        if self.purpose != "simcse":  # which predicts no token
            self._tokens = averages.log(self, prog_bar=stage == "val")
        self.log_dict(self._numbers.collect(self, stage), sync_dist=True)

    def validation_step(self, batch: AnyBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds a batch to the numbers."""
        self._evaluate(batch, self._validation)

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss (nats a predicted token), val/top1 and val/spearman."""
        self._log("val", self._validation)

    def test_step(self, batch: AnyBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds a batch to the numbers."""
        self._evaluate(batch, self._test)

    def on_test_epoch_end(self) -> None:
        """Logs the numbers, TF-IDF's as baseline, and those of paraphrases."""
        self._log("test", self._test)
        data: Any = getattr(self.trainer, "datamodule", None)
        writes = self.purpose == "similar" and hasattr(data, "groups")
        groups = data.groups("test") if writes else []
        self._judged = min(len(groups), self.examples)
        if self._judged:
            texts = [group[0] for group in groups[: self._judged]]
            numbers = self.generation_numbers(texts, folder=self.trainer.default_root_dir)
            self.log_dict({f"test/{k}": v for k, v in numbers.items()}, sync_dist=True)

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        lines = self._numbers.protocol()
        if self._tokens:
            lines["test/loss"] = f"-log p in nats a predicted token, {self._tokens} tokens"
        if self._judged:
            lines["test/distinct, copy_rate, mean_cosine"] = (
                f"10 paraphrases each of {self._judged} test sentences, nucleus sampling with "
                "p = 0.95, seed 0; they are in paraphrases.txt"
            )
        return lines


def token_losses(net: Encoder, hidden: Tensor, places: Tensor, labels: Tensor) -> Tensor:
    """-log p of each label (N,): only its places in the flat (B * L) meet the vocabulary."""
    logits = net.logits(hidden.flatten(0, 1)[places])
    return F.cross_entropy(at_least_float32(logits), labels, reduction="none")
