"""Masked language model, and classifier, as a LightningModule."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.text.language import NO_TARGET
from zoo.data.text.masked import MaskedBatch, MaskedSentences
from zoo.flash.averages import PredictionAverages
from zoo.flash.masking import mask_tokens
from zoo.flash.network import Network
from zoo.flash.page import MaskPages
from zoo.flash.words import MASK, Words
from zoo.layers.counter_rng import uniform
from zoo.ranges import BelowOne, Count, InsideUnit, Whole
from zoo.training.module import evaluating

EVALUATION_SEED = 8934


class FlashMLM(MaskPages):
    """Masked language model of gated attention units; with `num_classes` a classifier.

    FLASH, arXiv 2202.10447 and kexue.fm/archives/8934; GAU-alpha, kexue.fm/archives/9052. Tokens
    look to both sides, and padding changes nothing. Pretrain, then `--model.num_classes 2
    --model.pretrained RUN` goes on with the same network and a new head.

    >>> model = FlashMLM(vocab_size=9, dim=16, depth=2, head_size=8)
    >>> [guesses] = model.fill_mask(torch.tensor([[3, 8, 4]]), k=2)  # 8 is the mask
    >>> len(guesses), len(guesses[0])
    (1, 2)

    Args:
        vocab_size: Number of symbols: the text's, and one for the mask; `zoo fit` counts them.
        segments: Number of token types; 0 for none.
        mask_rate: Share of symbols, or words, to guess.
        mask_token: Number of the mask; the last symbol if not given.
        num_classes: Classify into so many classes, by the mean over a text, instead.
        pretrained: Checkpoint to begin with, where the network is the same.
        betas: Decays of Adam's averages.
    """

    own_symbols: ClassVar[int] = 1  # the mask, after the text's
    lengths_vary = True  # a batch's is its longest sentence's

    def __init__(
        self,
        *,
        vocab_size: Count = 258,
        segments: Whole = 0,
        mask_rate: InsideUnit = 0.15,
        mask_token: Whole | None = None,
        num_classes: Whole = 0,
        pretrained: str | None = None,
        betas: list[BelowOne] = [0.9, 0.98],  # noqa: B006  # never changed; a list, as YAML has it
        **shared: Any,
    ) -> None:
        super().__init__(vocab_size=vocab_size, betas=betas, **shared)
        if num_classes == 1:
            raise ValueError("num_classes=1: 0 classes, or at least 2")
        self.mask = vocab_size - 1 if mask_token is None else mask_token
        if self.mask >= vocab_size:
            raise ValueError(f"mask_token={mask_token}: must be below vocab_size={vocab_size}")
        self.mask_rate, self.num_classes, self.pretrained = mask_rate, num_classes, pretrained
        self.net = Network(self.config, vocabulary=vocab_size, causal=False, segments=segments)
        self.classifier = nn.Linear(self.config.dim, num_classes) if num_classes else None
        self.words = Words(vocab_size, extra=1)
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
            return self.net(tokens, key_mask, segments=segments)
        features = self.net.features(tokens, key_mask, segments=segments)
        if key_mask is None:
            mean = features.mean(1)
        else:
            kept = features.masked_fill(~key_mask[..., None], 0.0)
            mean = kept.sum(1) / key_mask.sum(1, keepdim=True).clamp(min=1)
        return self.classifier(mean)

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
        may_be = F.pad(text, (0, 1), value=False)
        options: Any = {"rate": self.mask_rate, "mask": self.mask, "symbols": self.words.size}
        seen, chosen = mask_tokens(tokens, may_be, u, words=words, **options)
        return self(seen, valid), tokens, chosen

    def training_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        """Mean loss of the symbols to guess, or of the classes, in nats."""
        u = torch.rand(*batch.tokens.shape, 3, device=batch.tokens.device)
        logits, targets, scored = self.losses(batch, u)
        return self.mean_loss(logits, targets.where(scored, NO_TARGET))

    def predictions(self, batch: MaskedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, targets and which of them count, with each item's own mask."""
        u = uniform(EVALUATION_SEED, batch.index, 0, (batch.tokens.shape[1], 3))
        return self.losses(batch, u)

    def setup(self, stage: str) -> None:
        """Takes the data's symbols, the pretrained weights, and compiles."""
        if self.classifier is not None and isinstance(self.data, MaskedSentences):
            self._check_classes(self.data.classes)
        if stage == "fit" and self.pretrained is not None:
            self._begin_with(self.pretrained)
        super().setup(stage)

    def _check_classes(self, needed: int) -> None:
        have = self.num_classes
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
            self.net.check_same_function(other.net)
            self.net.load_state_dict(other.net.state_dict())
        except ValueError as error:
            raise ValueError(f"--model.pretrained={path}: {error}") from error
        except RuntimeError as error:
            raise ValueError(
                f"--model.pretrained={path}: the network is another: {str(error).splitlines()[1]}"
            ) from error
        if len(other.words.symbols):
            self.words.use(other.vocabulary)

    def on_test_start(self) -> None:
        """Counts the training split, once: a guess to stand beside the model's."""
        data, classes = self.data, self.num_classes
        self._counts = None
        if isinstance(data, MaskedSentences):
            counts = data.majority(classes) if classes else data.unigram()
            self._counts = counts.log().to(self.device)

    def test_step(self, batch: MaskedBatch, batch_idx: int) -> None:
        """Adds to the numbers of the test, and to those of counting."""
        logits, targets, scored = self.predictions(batch)
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
            f"test split, {self.mask_rate:.0%} chosen by item (seed {EVALUATION_SEED}), "
            f"8 of 10 masked, 1 replaced, 1 left; {self._tested} guesses"
        )
        return {
            "test/accuracy": how,
            "baseline/accuracy": "the most frequent symbol of the training split; loss: its counts",
        }

    # Use

    def fill_mask(
        self, texts: Sequence[str] | Tensor, k: int = 5, key_mask: Tensor | None = None
    ) -> list[list[list[tuple[Any, float]]]]:
        """The k likeliest symbols for each `[MASK]` of each text, with their probabilities.

        Args:
            texts: Texts with `[MASK]`s; or tokens, int64 (B, n), of which those that are the mask
                are guessed, as numbers.
            k: How many.
            key_mask: Of tokens: True where there is one, bool, shape (B, n).

        Raises:
            ValueError: The model is a classifier or has no symbols, k is out of range, or a text
                alone was given.
        """
        if isinstance(texts, str):
            raise ValueError(f"fill_mask takes a list of texts, not {texts!r:.40}: give [text]")
        if not 1 <= k <= self.words.size:
            raise ValueError(f"k={k}: from 1 to the {self.words.size} symbols")
        if self.classifier is not None:
            raise ValueError("a classifier guesses no symbols: use the pretrained model")
        if isinstance(texts, Tensor):
            tokens = texts.to(self.device)
        else:
            rows = [self._encode(text) for text in texts]
            tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
            lengths = torch.tensor([len(row) for row in rows], device=self.device)
            key_mask = torch.arange(tokens.shape[1], device=self.device) < lengths[:, None]
        with evaluating(self):
            best = self(tokens, key_mask).float().softmax(-1).topk(k, -1)
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

    def _symbol(self, texts: Sequence[str] | Tensor, number: int) -> Any:
        if isinstance(texts, Tensor):
            return number
        return MASK if number == self.mask else self.vocabulary.symbols[number]

    def predict_step(self, batch: MaskedBatch, batch_idx: int) -> Tensor:
        """Probabilities of the classes, (B, C), or of symbols, (B, n, V), masked as in a test."""
        logits, _, _ = self.predictions(batch)
        return logits.softmax(-1).squeeze(1) if self.classifier is not None else logits.softmax(-1)
