"""RoFormer-Sim as a LightningModule."""

from typing import Any

import torch
from torch import Tensor

from zoo.data.sentences.batches import AnyBatch, TextBatch
from zoo.loading import load
from zoo.ranges import BelowOne, Count, Positive
from zoo.simbert.encoder import Encoder, Positions
from zoo.simbert.losses import cosine_matching, over_prefixes
from zoo.simbert.module import SimBERT
from zoo.training.averages import Averages
from zoo.training.distributed import gather_with_grad


class RoFormerSim(SimBERT):
    """SimBERT on RoFormer (arXiv 2104.09864), with noise and distillation (kexue.fm/archives/8454).

    Stage 1 is SimBERT's two losses with half of the sources noised (`data.noise: 0.5`). Stage 2 has
    a `teacher`: instead of the contrastive loss, the matrix of cosines of the batch is drawn to
    the teacher's, lambda / n^2 sum (cos(u_i, u_j) - cos(v_i, v_j))^2, and the generation loss
    stays. The post's other stages of kexue.fm/archives/8541 are `SentenceSimilarity`, and stage 2
    again with that as the teacher. The defaults are the released base model's.

    Args:
        teacher: Checkpoint, run or folder of the model to distil, which reads the clean texts with
            its own vocabulary; stage 1 if not given.
        distillation_weight: The lambda above.
        vocab_size: Tokens of the vocabulary, which comes from the data or from `init`.
        positions: learned (BERT) or rotary (RoFormer).
        dropout: Dropout of the embeddings and of what the layers add.
        scale: Inverse temperature of the contrastive loss.
        lr: Learning rate.
        simbert: Arguments of `SimBERT`.
    """

    def __init__(
        self,
        *,
        teacher: str | None = None,
        distillation_weight: Positive = 100.0,
        vocab_size: Count = 12_000,
        positions: Positions = "rotary",
        dropout: BelowOne = 0.2,
        scale: Positive = 20.0,
        lr: Positive = 1e-5,
        **simbert: Any,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            positions=positions,
            dropout=dropout,
            scale=scale,
            lr=lr,
            **simbert,
        )
        if teacher is not None and self.purpose != "similar":
            raise ValueError(f"teacher={teacher} has no effect with objective={self.purpose}")
        self.teacher, self.distillation_weight = teacher, distillation_weight
        # In a list, so that the teacher is no part of this module: neither trained nor saved.
        self._teacher: list[Any] = []
        self._distil = Averages("val/distil")

    def setup(self, stage: str) -> None:
        """Loads first weights and the teacher, and agrees with the data on a vocabulary."""
        super().setup(stage)
        path = self.teacher
        if stage == "fit" and path is not None and not self._teacher:
            teacher = load(path)
            if not isinstance(getattr(teacher, "net", None), Encoder):
                raise ValueError(f"teacher={path} is a {type(teacher).__name__}, no sentence model")
            self._teacher = [teacher.requires_grad_(False)]

    def on_fit_start(self) -> None:
        """Moves the teacher to where the model is."""
        for teacher in self._teacher:
            teacher.to(self.device)

    @torch.no_grad()
    def _teach(self, texts: list[str]) -> Tensor:
        """The teacher's vectors (n, H') of clean texts."""
        teacher = self._teacher[0]
        return teacher.rows_vectors(teacher.tokenizer.encode(texts, teacher.length()))

    def vector_losses(self, vectors: Tensor, batch: TextBatch) -> dict[str, Tensor]:
        """The contrastive loss, or the distillation from a teacher."""
        if not self._teacher:
            return super().vector_losses(vectors, batch)
        theirs = self._teach(batch.texts)
        columns, their_columns = gather_with_grad(vectors), gather_with_grad(theirs)

        def loss(rows: Tensor, columns: Tensor) -> Tensor:
            return cosine_matching(rows, columns, theirs, their_columns)

        value = over_prefixes(loss, self.matryoshka, vectors, columns)
        return {"distil": self.distillation_weight * value}

    # Evaluation

    def validation_step(self, batch: AnyBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds a batch to the numbers, with a teacher also its distillation loss."""
        own = self._evaluate(batch, self._validation)
        if self._teacher and own is not None:
            assert isinstance(batch, TextBatch)
            theirs = self._teach(batch.texts)
            loss = self.distillation_weight * cosine_matching(own, own, theirs, theirs)
            self._distil.add({"val/distil": loss.expand(len(own))})

    def on_validation_epoch_end(self) -> None:
        """Logs what SimBERT logs, and in a fit with a teacher val/distil, the mean over batches."""
        super().on_validation_epoch_end()
        if self._teacher:
            self._distil.log(self)
