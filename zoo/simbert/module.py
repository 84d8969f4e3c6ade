"""SimBERT as a LightningModule."""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from zoo.data.sentences.batches import LabelledBatch, TextBatch
from zoo.data.sentences.tokenizer import Tokenizer
from zoo.loading import class_path
from zoo.ranges import BelowOne, Count, Depth, NonNegative, Positive, Whole, check_ranges
from zoo.simbert.encoder import Pooler, Positions, unilm_mask
from zoo.simbert.evaluation import SentenceNumbers
from zoo.simbert.gradcache import in_chunks
from zoo.simbert.losses import Contrast, contrastive, over_prefixes
from zoo.simbert.paraphrase import generation_numbers, paraphrase, paraphrases
from zoo.simbert.sentences import encode, predict_step, similar, similarity
from zoo.simbert.training import (
    adamw,
    check_training,
    make_encoder,
    prepare,
    token_losses,
)
from zoo.training.averages import Averages
from zoo.training.distributed import gather_with_grad, token_mean
from zoo.training.log import log_every
from zoo.training.optim import clip

Objective = Literal["similar", "mlm", "simcse"]


class SimBERT(LightningModule):
    """BERT that retrieves similar sentences and writes them (kexue.fm/archives/7427).

    One forward pass over rows [CLS] a [SEP] b [SEP] under the mask of UniLM (arXiv 1905.03197)
    gives two losses: b is predicted from a, and the vector of a, which cannot see b, must be
    nearest to that of b among the batch. The defaults are the released base model's.

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
        dropout: Of embeddings and of what the layers add.
        attention_dropout: Of the attention weights.
        objective: similar (the post's two losses, data SimilarGroups); mlm (masked words) or simcse
            (the same sentence twice under dropout, kexue.fm/archives/8348), both data Sentences.
        scale: Inverse temperature of the contrastive loss.
        contrast: infonce, or flatnce (kexue.fm/archives/8586).
        contrast_weight: Weight of the contrastive loss beside the generation loss.
        matryoshka: Average the loss of the vectors over these numbers of first features.
        mask_family: Take other rows of the same group for no negatives.
        chunk: Compute so many rows at a time, with the memory of that many (GradCache); 0 for all.
        init: Checkpoint, run or folder to take the first weights and the vocabulary from.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of all parameters.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given; {1000: 1} is a warm-up. Constant if not given.
        examples: Test sentences to paraphrase in a test; 0 for none.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        *,
        vocab_size: Count = 13_685,
        hidden: Count = 768,
        layers: Depth = 12,
        heads: Count = 12,
        intermediate: Count | None = None,
        embedding_size: Count | None = None,
        positions: Positions = "learned",
        max_positions: Count = 512,
        rotary_value: bool = False,
        pooler: Pooler = "cls_linear",
        dropout: BelowOne = 0.1,
        attention_dropout: BelowOne = 0.1,
        objective: Objective = "similar",
        scale: Positive = 30.0,
        contrast: Contrast = "infonce",
        contrast_weight: NonNegative = 1.0,
        matryoshka: list[Count] = [],  # noqa: B006  # never changed; a list, as YAML has it
        mask_family: bool = True,
        chunk: Whole = 0,
        init: str | None = None,
        lr: Positive = 2e-6,
        weight_decay: NonNegative = 0.01,
        lr_schedule: dict[int, NonNegative] | None = None,
        examples: Whole = 10,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        check_training(self.hparams)
        if objective not in ("similar", "mlm", "simcse"):
            raise ValueError(f"objective={objective!r}: choose similar, mlm or simcse")
        if contrast not in ("infonce", "flatnce"):
            raise ValueError(f"contrast={contrast!r}: choose infonce or flatnce")
        if scale <= 0 or contrast_weight < 0:
            raise ValueError(f"scale={scale}, contrast_weight={contrast_weight}: too small")
        self.tokenizer = Tokenizer()
        self.net = make_encoder(self.hparams)
        # What an objective does not use must not wait for a gradient (DDP), nor decay.
        if objective == "mlm" and self.net.pooler is not None:
            self.net.pooler.requires_grad_(False)
        if objective == "simcse":
            for part in (self.net.head, self.net.head_norm):
                part.requires_grad_(False)
            self.net.head_bias.requires_grad_(False)
        self._validation = Averages("val/loss")
        self._test = Averages("test/loss")
        self._numbers = SentenceNumbers()
        self._tokens = self._judged = 0

    encode = encode
    similarity = similarity
    similar = similar
    predict_step = predict_step
    paraphrase = paraphrase
    paraphrases = paraphrases

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Sentence vectors (B, H), not normalised, of token rows (B, L)."""
        return self.net.vectors(tokens, lengths)

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
            lambda rows: self.joint_pass(batch, rows), len(batch.tokens), self.hparams["chunk"]
        )
        if self.hparams["objective"] != "simcse":
            parts["lm"] = token_mean(total, len(batch.labels))
        if self.hparams["objective"] != "mlm":
            parts.update(self.vector_losses(vectors, batch))
        return parts

    def vector_losses(self, vectors: Tensor, batch: TextBatch) -> dict[str, Tensor]:
        """The part of the loss that is of the vectors (n, H)."""
        if self.hparams["contrast_weight"] == 0:
            # Under DDP every parameter must get a gradient, the pooler's too.
            return {"contrast": 0 * vectors.sum()}
        columns, family = gather_with_grad(vectors), gather_with_grad(batch.group)
        same = batch.group[:, None] == family if self.hparams["mask_family"] else None

        def loss(rows: Tensor, columns: Tensor) -> Tensor:
            return contrastive(
                rows,
                columns,
                scale=self.hparams["scale"],
                offset=self.global_rank * len(rows),
                kind=self.hparams["contrast"],
                excluded=same,
            )

        value = over_prefixes(loss, self.hparams["matryoshka"], vectors, columns)
        return {"contrast": self.hparams["contrast_weight"] * value}

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """Loss of a batch of `SimilarGroups` or `Sentences`."""
        parts = self.losses(batch)
        loss = torch.stack(list(parts.values())).sum()
        log_every(self, {"train/loss": loss, **{f"train/{k}": v for k, v in parts.items()}})
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
            ValueError: The weights do not fit, or the data is not of the objective.
        """
        prepare(self, stage)

    # Evaluation

    def _evaluate(self, batch: TextBatch | LabelledBatch, averages: Averages) -> Tensor | None:
        """Adds a batch to the numbers; returns the sources' vectors (n, H) if it needed them."""
        if isinstance(batch, LabelledBatch):
            self._numbers.add_labelled(self.net, batch)
            return None
        segments, lengths = batch.segments, batch.lengths
        hidden = self.net(batch.tokens, segments, unilm_mask(segments, lengths))
        losses = token_losses(self.net, hidden, batch.places, batch.labels)
        averages.add({averages.names[0]: losses})
        if self.hparams["objective"] != "similar":
            return None
        vectors = self.net.pool(hidden, lengths - segments.sum(1))
        self._numbers.add_groups(vectors, batch)
        return vectors

    def _log(self, stage: Literal["val", "test"], averages: Averages) -> None:
        if self.hparams["objective"] != "simcse":  # which predicts no token
            self._tokens = averages.log(self, prog_bar=stage == "val")
        self.log_dict(self._numbers.collect(self, stage), sync_dist=True)

    def validation_step(
        self, batch: TextBatch | LabelledBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Adds a batch to the numbers."""
        self._evaluate(batch, self._validation)

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss (nats a predicted token), val/top1 and val/spearman."""
        self._log("val", self._validation)

    def test_step(
        self, batch: TextBatch | LabelledBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Adds a batch to the numbers."""
        self._evaluate(batch, self._test)

    def on_test_epoch_end(self) -> None:
        """Logs the numbers, TF-IDF's as baseline, and those of paraphrases."""
        self._log("test", self._test)
        data: Any = getattr(self.trainer, "datamodule", None)
        writes = self.hparams["objective"] == "similar" and hasattr(data, "groups")
        groups = data.groups("test") if writes else []
        self._judged = min(len(groups), self.hparams["examples"])
        if self._judged:
            texts = [group[0] for group in groups[: self._judged]]
            numbers = generation_numbers(self, texts, folder=self.trainer.default_root_dir)
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
