"""Causal language model as a LightningModule."""

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor

from zoo.data.text.language import NO_TARGET, StreamBatch, Text
from zoo.data.text.vocabulary import Vocabulary
from zoo.flash.attention import GlobalNorm
from zoo.flash.averages import PredictionAverages
from zoo.flash.block import NormName
from zoo.flash.build import build_network, build_optimizer, check_optimizer
from zoo.flash.decoding import continuations
from zoo.flash.network import DecodeState, Kind
from zoo.flash.scores import ScoreName
from zoo.flash.words import Words
from zoo.layers.choose import TokenSampling
from zoo.layers.rotary import Pairing
from zoo.loading import class_path
from zoo.ranges import (
    AtLeastTwo,
    BelowOne,
    Count,
    Depth,
    NonNegative,
    Positive,
    Range,
    check_ranges,
)
from zoo.training.distributed import token_mean
from zoo.training.log import is_logging_step, log_every
from zoo.training.optim import clip


class FlashLM(LightningModule):
    """Causal language model of gated attention units, in time linear in the length of the text.

    FLASH, arXiv 2202.10447 and kexue.fm/archives/8934. It decodes with a state of constant size.
    `kind` makes it FLASH-Quad, or a Transformer of today with as many weights.

    Args:
        vocab_size: Number of symbols; `zoo fit` counts the text's.
        dim: Width d of the model.
        depth: Number of gated attention units; two have the weights of a Transformer's block.
        kind: flash (linear), flash_quad (attention to all), or transformer (RoPE, RMSNorm,
            SwiGLU, PyTorch's fused attention).
        expansion: Width e of the units in multiples of dim.
        head_size: Size s of the units' queries and keys.
        heads: Heads of a transformer; one for each 64 features if not given.
        chunk: Tokens of a chunk of flash.
        score: Attention weights: relu2_paper, relu2 (the post's), relu2_row, softmax, softmax_plus
            or laplace.
        norm_length: What stands for the length of the text in the scores of flash_quad.
        min_length: Least number of keys in softmax_plus.
        position_bias: Learn a bias of the distance between tokens of a chunk; not of a transformer.
        sinusoidal: Add sines of the position to the embedding, as the paper.
        rotary_dim: Features of a head that rotate; all if not given.
        pairing: Which of them rotate together: interleaved or half.
        token_shift: Half of a unit's input is the previous token's.
        norm: rms, rms_plain (without weights), scale (the paper's) or layer.
        final_norm: The norm before the head.
        norm_eps: Epsilon of the norms.
        post_norm: Normalise after the residual, as GAU-alpha.
        bias: Dense layers have a bias, as the paper's.
        offsets: Queries and keys have an offset beta beside the factor gamma.
        global_norm: tokens divides the state by the number of its tokens; chunk, as FLASH-pytorch,
            by the chunk's length.
        global_part: Without it, tokens see their own chunk only.
        separate_documents: No token sees one of another document.
        tied: The head's weights are the embedding's.
        head_bias: The head has a bias.
        dropout: Of the embedding and of each layer's output.
        init_std: Deviation of the first weights.
        checkpointing: Recompute a layer's activations in the backward pass, to save memory.
        compile: Compile the layers when a Trainer trains them.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of matrices.
        betas: Decays of Adam's averages.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given. Constant if not given.

    Raises:
        ValueError: A value is out of range, or does not go with the others.
    """

    def __init__(
        self,
        *,
        vocab_size: Count = 257,
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
        separate_documents: bool = False,
        tied: bool = True,
        head_bias: bool = False,
        dropout: BelowOne = 0.0,
        init_std: NonNegative = 0.02,
        checkpointing: bool = False,
        compile: bool = False,
        lr: Positive = 1e-3,
        weight_decay: NonNegative = 0.01,
        betas: list[BelowOne] = [0.9, 0.95],  # noqa: B006  # never changed; a list, as YAML has it
        lr_schedule: dict[int, NonNegative] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        self.net = build_network({**self.hparams, "segments": 0}, causal=True)
        check_optimizer(self.hparams)
        self.words = Words(vocab_size)
        self.compiled = self.sharded = False
        self._validation = PredictionAverages("val")
        self._tests: list[PredictionAverages] = []
        self._unit, self._tested = "symbol", 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the text that the model was trained on."""
        return self.words.vocabulary

    def forward(self, tokens: Tensor, doc_ids: Tensor | None = None) -> Tensor:
        """Logits (B, n, V) of what follows each of the tokens (B, n), int64."""
        logits: Tensor = self.net(tokens, doc_ids=doc_ids)
        return logits

    def _documents(self, batch: StreamBatch) -> Tensor | None:
        return batch[2] if self.hparams["separate_documents"] else None

    # Training

    def training_step(self, batch: StreamBatch, batch_idx: int) -> Tensor:
        """Mean loss of a batch (tokens, targets, documents, ...), in nats."""
        logits = self(batch[0], self._documents(batch))
        targets = batch[1].flatten()
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum")
        loss = token_mean(loss, (targets != NO_TARGET).sum())
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
            self.net.shard(device, self.trainer.world_size)
            self.sharded = True

    def setup(self, stage: str) -> None:
        """Takes the data's symbols, and compiles.

        Raises:
            ValueError: The data has other symbols than the model.
        """
        data = getattr(self.trainer, "datamodule", None)
        words = getattr(data, "vocabulary", None)
        if isinstance(words, Vocabulary):
            self.words.use(words)
            self._unit = words.level.removesuffix("punct")
        symbols, have = getattr(data, "symbols", 0), self.hparams["vocab_size"]
        if symbols > have:
            raise ValueError(
                f"the data has {symbols} symbols, but the model {have}: set --model.vocab_size="
                f"{symbols}"
            )
        lengths = getattr(data, "test_lengths", None) or [0]
        suffixes = ["", *(f"@{length}" for length in lengths[1:])]
        self._validation.unit = self._unit
        self._tests = [PredictionAverages("test", self._unit, suffix) for suffix in suffixes]
        if self.hparams["compile"] and stage == "fit" and not self.compiled:
            self.net.compile_layers()
            self.compiled = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Names the class, for `zoo.load`."""
        checkpoint["zoo_class"] = class_path(self)

    # Evaluation

    def _evaluate(self, batch: StreamBatch, averages: PredictionAverages) -> None:
        averages.add(self(batch[0], self._documents(batch)), batch[1], batch[1] != NO_TARGET)

    def validation_step(self, batch: StreamBatch, batch_idx: int) -> None:
        """Adds to val/loss."""
        self._evaluate(batch, self._validation)

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss in nats, and bits, perplexity and accuracy."""
        means, _ = self._validation.reduce(self)
        self.log_dict(means, sync_dist=True)

    def test_step(self, batch: StreamBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Adds to the numbers of this length."""
        self._evaluate(batch, self._tests[dataloader_idx])

    def on_test_epoch_end(self) -> None:
        """Logs bits, perplexity and accuracy of each length, beside counting symbols."""
        for averages in self._tests:
            means, self._tested = averages.reduce(self)
            self.log_dict(means, sync_dist=True)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, Text):
            nats = data.unigram()
            baseline = {"loss": nats, "perplexity": math.exp(nats)}
            baseline[f"bits_per_{self._unit}"] = nats / math.log(2)
            self.log_dict({f"baseline/{k}": v for k, v in baseline.items()}, sync_dist=True)

    def protocol(self) -> dict[str, str]:
        """How the numbers of a test were made."""
        data = getattr(self._trainer, "datamodule", None)
        lengths = getattr(data, "test_lengths", None)
        windows = f"windows of {lengths[0]}" if lengths else "the data's windows"
        return {
            f"test/bits_per_{self._unit}": (
                f"test split, each {self._unit} predicted once ({self._tested} predictions), in "
                f"{windows} without overlap; @n: in windows of n"
            ),
            f"baseline/bits_per_{self._unit}": "coded by counts in the training split, from 1",
        }

    # Decoding

    def init_state(self, batch: int = 1) -> DecodeState:
        """The state before the first token of `batch` rows."""
        return self.net.init_state(batch)

    @torch.no_grad()
    def prefill(
        self, tokens: Tensor, state: DecodeState | None = None, lengths: list[int] | None = None
    ) -> tuple[Tensor, DecodeState]:
        """Reads many tokens at once.

        Args:
            tokens: int64, shape (B, n).
            state: What came before, all rows equally long; nothing if not given. Not to be used
                again.
            lengths: Tokens each row really has, n if not given; the rest is padding.

        Returns:
            Logits (B, n, V), and the state after the tokens.
        """
        state = self.net.init_state(len(tokens)) if state is None else state
        features, state = self.net.prefill(tokens, state, lengths)
        return self.net.logits(features), state

    @torch.no_grad()
    def step(self, tokens: Tensor, state: DecodeState) -> Tensor:
        """Logits (B, V) after one more token (B,) a row; changes `state`."""
        return self.net.step(tokens, state)

    def stream(
        self,
        prompt: str | list[str] | list[Tensor] = "",
        max_new_tokens: int = 256,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        first: int = 0,
        stop_at_end: bool = True,
    ) -> Iterator[Tensor]:
        """New tokens as they are chosen, one a row at a time, (B,); arguments as `generate`.

        Raises:
            ValueError: A value is out of range; at once, before the first token.
        """
        sampling = TokenSampling(top_p, top_k, temperature, seed)
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: write at least one token")
        texts: list[Any] = [prompt] if isinstance(prompt, str) else list(prompt)
        if not texts:
            raise ValueError("prompt=[]: give at least one text, which may be empty")
        end = self.vocabulary.end if len(self.words.symbols) else None
        rows = [
            torch.from_numpy(self.vocabulary.encode(t)) if isinstance(t, str) else t.cpu()
            for t in texts
        ]
        # A text begins where another has ended.
        rows = [r if len(r) else torch.tensor([end or 0]) for r in rows]
        tokens = continuations(
            self.net,
            rows,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            index=torch.arange(first, first + len(rows), device=self.device),
            end=end if stop_at_end else None,
        )
        return self._evaluating(tokens)

    def _evaluating(self, tokens: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same tokens, written in eval mode."""
        training = self.training
        self.eval()
        try:
            yield from tokens
        finally:
            self.train(training)

    def generate(
        self,
        prompt: str | list[str] | list[Tensor] = "",
        max_new_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
        *,
        first: int = 0,
        stop_at_end: bool = True,
    ) -> list[str] | Tensor:
        """Continues texts.

        A row's continuation depends on its prompt, the seed and its number only.

        Args:
            prompt: One text, several of any lengths, or tokens, int64 (n,) each.
            max_new_tokens: Symbols to write.
            temperature: Divides the logits; 0 takes the likeliest symbol.
            top_k: Choose among so many of the likeliest.
            top_p: Choose among the fewest likeliest that have this probability together.
            seed: Of the choices.
            first: Number of the first row.
            stop_at_end: A row ends with the symbol that ends a text.

        Returns:
            The new texts; of tokens the new tokens, (B, m).

        Raises:
            ValueError: A value is out of range.
        """
        tokens = self.stream(
            prompt,
            max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            first=first,
            stop_at_end=stop_at_end,
        )
        out = torch.stack(list(tokens), 1)
        if not isinstance(prompt, str) and not isinstance(prompt[0], str):
            return out
        return [self._text(row, stop_at_end) for row in out.tolist()]

    def _text(self, tokens: list[int], to_the_end: bool) -> str:
        """The text up to its end, or all of it, with a new line for each end."""
        words = self.vocabulary
        if to_the_end:
            return words.decode(tokens)
        cuts = [i for i, token in enumerate(tokens) if token == words.end]
        starts = [0, *(i + 1 for i in cuts)]
        return "\n".join(
            words.decode(tokens[a:b]) for a, b in zip(starts, [*cuts, len(tokens)], strict=True)
        )

    def predict_step(self, batch: StreamBatch, batch_idx: int) -> Tensor:
        """Nats of each prediction, (B, n); 0 where none counts."""
        logits = self(batch[0], self._documents(batch))
        return F.cross_entropy(logits.mT.float(), batch[1], reduction="none")
