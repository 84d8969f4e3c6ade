"""Masked language model, and classifier, as a LightningModule."""

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from zoo.data.text.masked import MaskedBatch, MaskedSentences
from zoo.data.text.vocabulary import Vocabulary
from zoo.flash.attention import GlobalNorm
from zoo.flash.averages import PredictionAverages
from zoo.flash.block import NormName
from zoo.flash.build import build_network, build_optimizer, check_optimizer, check_same_function
from zoo.flash.masking import mask_tokens
from zoo.flash.network import Kind
from zoo.flash.scores import ScoreName
from zoo.flash.words import Words
from zoo.layers.counter_rng import uniform
from zoo.layers.rotary import Pairing
from zoo.loading import class_path
from zoo.ranges import (
    AtLeastTwo,
    BelowOne,
    Count,
    Depth,
    InsideUnit,
    NonNegative,
    Positive,
    Range,
    Whole,
    check_ranges,
)
from zoo.training.distributed import token_mean
from zoo.training.log import is_logging_step, log_every
from zoo.training.optim import clip

EVALUATION_SEED = 8934
MASK = "[MASK]"


class FlashMLM(LightningModule):
    """Masked language model of gated attention units; with `num_classes` a classifier.

    FLASH, arXiv 2202.10447 and kexue.fm/archives/8934; GAU-alpha, kexue.fm/archives/9052. Tokens
    look to both sides, and padding changes nothing. Pretrain, then `--model.num_classes 2
    --model.pretrained RUN` goes on with the same network and a new head.

    Args:
        vocab_size: Number of symbols: the text's, and one for the mask; `zoo fit` counts them.
        dim: Width d of the model.
        depth: Number of gated attention units.
        kind: flash (linear), flash_quad (attention to all), or transformer.
        expansion: Width e of the units in multiples of dim.
        head_size: Size s of the units' queries and keys.
        heads: Heads of a transformer; one for each 64 features if not given.
        chunk: Tokens of a chunk of flash.
        score: Attention weights: relu2_paper, relu2, relu2_row, softmax, softmax_plus or laplace.
        norm_length: What stands for the length of the text in the scores of flash_quad.
        min_length: Least number of keys in softmax_plus.
        position_bias: Learn a bias of the distance between tokens of a chunk; not of a transformer.
        sinusoidal: Add sines of the position to the embedding.
        rotary_dim: Features of a head that rotate; all if not given.
        pairing: Which of them rotate together: interleaved or half.
        token_shift: Half of a unit's input is the previous token's.
        norm: rms, rms_plain (without weights), scale or layer.
        final_norm: The norm before the head.
        norm_eps: Epsilon of the norms.
        post_norm: Normalise after the residual, as GAU-alpha.
        bias: Dense layers have a bias.
        offsets: Queries and keys have an offset beta beside the factor gamma.
        global_norm: tokens divides the state by the number of its tokens; chunk, as FLASH-pytorch,
            by the padded length.
        global_part: Without it, tokens see their own chunk only.
        segments: Number of token types; 0 for none.
        tied: The head's weights are the embedding's.
        head_bias: The head has a bias.
        dropout: Of the embedding and of each layer's output.
        init_std: Deviation of the first weights.
        checkpointing: Recompute a layer's activations in the backward pass, to save memory.
        compile: Compile the layers when a Trainer trains them.
        mask_rate: Share of symbols, or words, to guess.
        mask_token: Number of the mask; the last symbol if not given.
        num_classes: Classify into so many classes, by the mean over a text, instead.
        pretrained: Checkpoint to begin with, where the network is the same.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of matrices.
        betas: Decays of Adam's averages.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given. Constant if not given.

    Raises:
        ValueError: A value is out of range, or does not go with the others.
    """

    own_symbols: ClassVar[int] = 1  # the mask, after the text's

    def __init__(
        self,
        *,
        vocab_size: Count = 258,
        dim: Count = 512,
        depth: Depth = 12,
        kind: Kind = "flash",
        expansion: Annotated[float, Range(0, 64, without_low=True)] = 2.0,
        head_size: Count = 128,
        heads: Count | None = None,
        chunk: Count = 256,
        score: ScoreName = "relu2_paper",
        norm_length: Count = 512,
        min_length: Count = 16,
        position_bias: bool = False,
        sinusoidal: bool = False,
        rotary_dim: AtLeastTwo | None = None,
        pairing: Pairing = "half",
        token_shift: bool = False,
        norm: NormName = "rms",
        final_norm: NormName = "rms",
        norm_eps: Positive = 1e-6,
        post_norm: bool = False,
        bias: bool = False,
        offsets: bool = True,
        global_norm: GlobalNorm = "tokens",
        global_part: bool = True,
        segments: Whole = 0,
        tied: bool = True,
        head_bias: bool = False,
        dropout: BelowOne = 0.0,
        init_std: NonNegative = 0.02,
        checkpointing: bool = False,
        compile: bool = False,
        mask_rate: InsideUnit = 0.15,
        mask_token: Whole | None = None,
        num_classes: Whole = 0,
        pretrained: str | None = None,
        lr: Positive = 1e-3,
        weight_decay: NonNegative = 0.01,
        betas: list[BelowOne] = [0.9, 0.98],  # noqa: B006  # never changed; a list, as YAML has it
        lr_schedule: dict[int, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        if not 0 < mask_rate < 1 or num_classes == 1 or num_classes < 0:
            raise ValueError(
                f"mask_rate={mask_rate}, num_classes={num_classes}: a share between 0 and 1; 0 "
                "classes, or at least 2"
            )
        self.mask = vocab_size - 1 if mask_token is None else mask_token
        if not 0 <= self.mask < vocab_size:
            raise ValueError(f"mask_token={mask_token}: must be below vocab_size={vocab_size}")
        check_optimizer(self.hparams)
        self.net = build_network(self.hparams, causal=False)
        self.classifier = nn.Linear(dim, num_classes) if num_classes else None
        self.words = Words(vocab_size, extra=1)
        self.compiled = self.sharded = False
        if self.classifier is not None:
            for unused in (self.net.head, self.net.head_bias):
                if unused is not None:
                    unused.requires_grad_(False)
        unit = None if num_classes else "symbol"
        self._validation, self._test, self._counted = (
            PredictionAverages(prefix, unit) for prefix in ("val", "test", "baseline")
        )
        self._counts: Tensor | None = None  # log probabilities, while testing
        self._tested = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the text that the model was trained on, without the mask."""
        return self.words.vocabulary

    def forward(
        self, tokens: Tensor, key_mask: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """Logits (B, n, V) of tokens (B, n), int64; or of classes, (B, C).

        Args:
            tokens: Numbers of the symbols.
            key_mask: True where there is a token, bool, shape (B, n).
            segments: Type of each token, shape (B, n).
        """
        if self.classifier is None:
            logits: Tensor = self.net(tokens, key_mask, segments=segments)
            return logits
        features = self.net.features(tokens, key_mask, segments=segments)
        if key_mask is None:
            mean = features.mean(1)
        else:
            kept = features.masked_fill(~key_mask[..., None], 0.0)
            mean = kept.sum(1) / key_mask.sum(1, keepdim=True).clamp(min=1)
        classes: Tensor = self.classifier(mean)
        return classes

    # Training

    def losses(self, batch: MaskedBatch, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, targets and which of them count: (B, n, V) or (B, 1, C), and (B, n) or (B, 1).

        Args:
            batch: The sentences.
            u: Uniform numbers that choose what is masked, shape (B, n, 3).
        """
        tokens, lengths, _, words, labels = batch
        valid = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        if self.classifier is not None:
            classes = self(tokens, valid)[:, None]
            return classes, labels[:, None], torch.ones_like(labels[:, None], dtype=torch.bool)
        text = valid[:, 1:]  # the end's place tells what it is
        seen, chosen = mask_tokens(
            tokens,
            F.pad(text, (0, 1), value=False),
            u,
            rate=self.hparams["mask_rate"],
            mask=self.mask,
            symbols=self.hparams["vocab_size"],
            words=words,
        )
        return self(seen, valid), tokens, chosen

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        """Mean loss of the symbols to guess, or of the classes, in nats."""
        u = torch.rand(*batch.tokens.shape, 3, device=batch.tokens.device)
        logits, targets, scored = self.losses(batch, u)
        targets = targets.where(scored, -100)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
        loss = token_mean(loss, scored.sum())
        if is_logging_step(self):
            log_every(self, {"train/loss": loss})
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW, with the schedule by step."""
        scaled = self._trainer is not None and self.trainer.precision == "16-mixed"
        return build_optimizer(self, self.hparams, scaled=scaled)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips all gradients as `--trainer.gradient_clip_val` says, under bf16 too."""
        clip(self.parameters(), gradient_clip_val, gradient_clip_algorithm)

    def configure_model(self) -> None:
        """Shards the network where the strategy does (`-c fsdp`)."""
        if self.device_mesh is not None and not self.sharded:
            device = self.trainer.strategy.root_device.type
            others = () if self.classifier is None else (self.classifier,)
            self.net.shard(device, self.trainer.world_size, *others)
            self.sharded = True

    def setup(self, stage: str) -> None:
        """Takes the data's symbols, the pretrained weights, and compiles.

        Raises:
            ValueError: The data has other symbols or classes than the model, or the network is
                another.
        """
        data = getattr(self.trainer, "datamodule", None)
        if self.classifier is not None and isinstance(data, MaskedSentences):
            self._check_classes(data.classes)
        if stage == "fit" and self.hparams["pretrained"] is not None:
            self._begin_with(self.hparams["pretrained"])
        words = getattr(data, "vocabulary", None)
        if isinstance(words, Vocabulary):
            self.words.use(words)
        if self.hparams["compile"] and stage == "fit" and not self.compiled:
            self.net.compile_layers(lengths_vary=True)  # a bucket's longest sentence
            self.compiled = True

    def _check_classes(self, needed: int) -> None:
        have = self.hparams["num_classes"]
        if not needed:
            raise ValueError(f"--model.num_classes={have} learns from labels: --data.labels true")
        if needed > have:
            raise ValueError(
                f"the data has the label {needed - 1}, beyond --model.num_classes={have}: set "
                f"{needed}, or choose another table"
            )

    def _begin_with(self, path: str) -> None:
        from zoo.loading import load

        other = load(path)
        if not isinstance(other, FlashMLM):
            raise ValueError(f"--model.pretrained={path} holds a {type(other).__name__}")
        try:
            check_same_function(self.hparams, other.hparams)
            self.net.load_state_dict(other.net.state_dict())
        except ValueError as error:
            raise ValueError(f"--model.pretrained={path}: {error}") from error
        except RuntimeError as error:
            raise ValueError(
                f"--model.pretrained={path}: the network is another: {str(error).splitlines()[1]}"
            ) from error
        if len(other.words.symbols):
            self.words.use(other.vocabulary)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the class, for `zoo.load`."""
        checkpoint["zoo_class"] = class_path(self)

    # Evaluation

    def _evaluate(self, batch: MaskedBatch, averages: PredictionAverages) -> None:
        u = uniform(EVALUATION_SEED, batch.index, 0, (batch.tokens.shape[1], 3))
        averages.add(*self.losses(batch, u))

    def validation_step(self, batch: MaskedBatch, batch_idx: int) -> None:
        """Adds to val/loss, with each item's own mask."""
        self._evaluate(batch, self._validation)

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss and accuracy."""
        self.log_dict(self._validation.reduce(self)[0], sync_dist=True)

    def on_test_start(self) -> None:
        """Counts the training split, once: a guess to stand beside the model's."""
        data = getattr(self.trainer, "datamodule", None)
        self._counts = None
        if isinstance(data, MaskedSentences):
            classes = self.hparams["num_classes"]
            counts = data.majority(classes) if classes else data.unigram()
            self._counts = counts.log().to(self.device)

    def test_step(self, batch: MaskedBatch, batch_idx: int) -> None:
        """Adds to the numbers of the test, and to those of counting."""
        u = uniform(EVALUATION_SEED, batch.index, 0, (batch.tokens.shape[1], 3))
        logits, targets, scored = self.losses(batch, u)
        self._test.add(logits, targets, scored)
        if self._counts is not None:
            guessed = targets[scored]
            counted = self._counts.expand(len(guessed), -1)
            self._counted.add(counted, guessed, torch.ones_like(guessed, dtype=torch.bool))

    def on_test_epoch_end(self) -> None:
        """Logs accuracy and loss, and perplexity of symbols, beside counting."""
        means, self._tested = self._test.reduce(self)
        counted, number = self._counted.reduce(self)
        self.log_dict(means | (counted if number else {}), sync_dist=True)

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        if self.classifier is not None:
            return {
                "test/accuracy": f"test split, {self._tested} items",
                "baseline/accuracy": "the training split's largest class; loss: its counts",
            }
        how = (
            f"test split, {self.hparams['mask_rate']:.0%} chosen by item (seed {EVALUATION_SEED}), "
            f"8 of 10 masked, 1 replaced, 1 left; {self._tested} guesses"
        )
        return {
            "test/accuracy": how,
            "baseline/accuracy": "the most frequent symbol of the training split; loss: its counts",
        }

    # Use

    @torch.no_grad()
    def fill_mask(
        self, texts: list[str] | Tensor, k: int = 5, key_mask: Tensor | None = None
    ) -> list[list[list[tuple[Any, float]]]]:
        """The k likeliest symbols for each `[MASK]` of each text, with their probabilities.

        Args:
            texts: Texts with `[MASK]`s; or tokens, int64 (B, n), of which those that are the mask
                are guessed, as numbers.
            k: How many.
            key_mask: Of tokens: True where there is one, bool, shape (B, n).

        Raises:
            ValueError: The model is a classifier or has no symbols, or k is out of range.
        """
        if not 1 <= k <= self.hparams["vocab_size"]:
            raise ValueError(f"k={k}: from 1 to the {self.hparams['vocab_size']} symbols")
        if self.classifier is not None:
            raise ValueError("a classifier guesses no symbols: use the pretrained model")
        if isinstance(texts, Tensor):
            tokens = texts.to(self.device)
        else:
            rows = [self._encode(text) for text in texts]
            tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
            lengths = torch.tensor([len(row) for row in rows], device=self.device)
            key_mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]
        training = self.training
        self.eval()
        best = self(tokens, key_mask).float().softmax(-1).topk(k, -1)
        self.train(training)
        guesses: list[list[list[tuple[Any, float]]]] = [[] for _ in tokens]
        for b, t in (tokens == self.mask).nonzero().tolist():
            if key_mask is not None and not key_mask[b, t]:
                continue
            pairs = zip(best.indices[b, t].tolist(), best.values[b, t].tolist(), strict=True)
            guesses[b].append([(self._symbol(texts, i), p) for i, p in pairs])
        return guesses

    def _encode(self, text: str) -> Tensor:
        words = self.vocabulary
        parts = [torch.from_numpy(words.encode(part)) for part in text.split(MASK)]
        mask = torch.tensor([self.mask])
        joined = [x for part in parts for x in (part, mask)][:-1]
        return torch.cat([*joined, torch.tensor([words.end])])

    def _symbol(self, texts: list[str] | Tensor, number: int) -> Any:
        if isinstance(texts, Tensor):
            return number
        return MASK if number == self.mask else self.vocabulary.symbols[number]

    def predict_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        """Probabilities of the classes, (B, C), or of symbols, (B, n, V), masked as in a test."""
        u = uniform(EVALUATION_SEED, batch.index, 0, (batch.tokens.shape[1], 3))
        logits, _, _ = self.losses(batch, u)
        return logits.softmax(-1).squeeze(1) if self.classifier is not None else logits.softmax(-1)
