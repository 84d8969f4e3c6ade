"""RoFormer-Sim as a LightningModule."""

from typing import Any

import torch
from torch import Tensor

from zoo.data.sentences.batches import LabelledBatch, TextBatch
from zoo.loading import load
from zoo.ranges import BelowOne, Count, Depth, NonNegative, Positive, Whole, check_ranges
from zoo.simbert.encoder import Encoder, Pooler, Positions
from zoo.simbert.losses import Contrast, cosine_matching, over_prefixes
from zoo.simbert.module import Objective, SimBERT
from zoo.simbert.sentences import length_of, rows_vectors
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
        objective: similar (the post's losses, data SimilarGroups); mlm (masked words) or simcse
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
        teacher: str | None = None,
        distillation_weight: Positive = 100.0,
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
        objective: Objective = "similar",
        scale: Positive = 20.0,
        contrast: Contrast = "infonce",
        contrast_weight: NonNegative = 1.0,
        matryoshka: list[Count] = [],  # noqa: B006  # never changed; a list, as YAML has it
        mask_family: bool = True,
        chunk: Whole = 0,
        init: str | None = None,
        lr: Positive = 1e-5,
        weight_decay: NonNegative = 0.01,
        lr_schedule: dict[int, NonNegative] | None = None,
        examples: Whole = 10,
    ) -> None:
        super().__init__(
            vocab_size=vocab_size,
            hidden=hidden,
            layers=layers,
            heads=heads,
            intermediate=intermediate,
            embedding_size=embedding_size,
            positions=positions,
            max_positions=max_positions,
            rotary_value=rotary_value,
            pooler=pooler,
            dropout=dropout,
            attention_dropout=attention_dropout,
            objective=objective,
            scale=scale,
            contrast=contrast,
            contrast_weight=contrast_weight,
            matryoshka=matryoshka,
            mask_family=mask_family,
            chunk=chunk,
            init=init,
            lr=lr,
            weight_decay=weight_decay,
            lr_schedule=lr_schedule,
            examples=examples,
        )
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        if distillation_weight <= 0:
            raise ValueError(f"distillation_weight={distillation_weight}: must be above 0")
        if teacher is not None and objective != "similar":
            raise ValueError(f"teacher={teacher} has no effect with objective={objective}")
        # In a list, so that the teacher is no part of this module: neither trained nor saved.
        self._teacher: list[Any] = []
        self._distil = Averages("val/distil")

    def setup(self, stage: str) -> None:
        """Loads first weights and the teacher, and agrees with the data on a vocabulary.

        Raises:
            ValueError: What is loaded does not fit.
        """
        super().setup(stage)
        path = self.hparams["teacher"]
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
        return rows_vectors(teacher, teacher.tokenizer.encode(texts, length_of(teacher)))

    def vector_losses(self, vectors: Tensor, batch: TextBatch) -> dict[str, Tensor]:
        """The contrastive loss, or the distillation from a teacher."""
        if not self._teacher:
            return super().vector_losses(vectors, batch)
        theirs = self._teach(batch.texts)
        columns, their_columns = gather_with_grad(vectors), gather_with_grad(theirs)

        def loss(rows: Tensor, columns: Tensor) -> Tensor:
            return cosine_matching(rows, columns, theirs, their_columns)

        value = over_prefixes(loss, self.hparams["matryoshka"], vectors, columns)
        return {"distil": self.hparams["distillation_weight"] * value}

    # Evaluation

    def validation_step(
        self, batch: TextBatch | LabelledBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Adds a batch to the numbers, with a teacher also its distillation loss."""
        own = self._evaluate(batch, self._validation)
        if self._teacher and own is not None:
            assert isinstance(batch, TextBatch)
            theirs = self._teach(batch.texts)
            loss = self.hparams["distillation_weight"] * cosine_matching(own, own, theirs, theirs)
            self._distil.add({"val/distil": loss.expand(len(own))})

    def on_validation_epoch_end(self) -> None:
        """Logs what SimBERT logs, and in a fit with a teacher val/distil, the mean over batches."""
        super().on_validation_epoch_end()
        if self._teacher:
            self._distil.log(self)
