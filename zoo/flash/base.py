"""What the two language models share: the network's arguments, training and evaluation."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.text.language import NO_TARGET
from zoo.data.text.vocabulary import Vocabulary
from zoo.flash.averages import PredictionAverages
from zoo.flash.config import FlashConfig, without_meaningless
from zoo.flash.network import Network
from zoo.flash.words import Words
from zoo.ranges import BelowOne, Count, NonNegative, Positive, check_ranges
from zoo.training.distributed import token_mean
from zoo.training.log import is_logging_step, log_every
from zoo.training.module import Module, by_step
from zoo.training.optim import may_fuse, piecewise_linear


class FlashModule(Module):
    """A language model of gated attention units.

    A subclass makes `net` and `words`, and says by `predictions` what it predicts.

    Args:
        vocab_size: Number of symbols.
        betas: Decays of Adam's averages.
        lr: Learning rate.
        weight_decay: Decoupled weight decay of matrices.
        lr_schedule: Multiplier of lr at some steps, linear between them and constant after, from 0
            at step 0 unless given. Constant if not given.
        compile: Compile the layers when a Trainer trains them.
        network: The network's, see `FlashConfig`.
    """

    options_of: ClassVar[type] = FlashConfig
    forwards = ("features",)
    lengths_vary: ClassVar[bool] = False
    """Whether batches are of many lengths."""
    net: Network
    words: Words

    def __init__(
        self,
        *,
        vocab_size: Count,
        betas: list[BelowOne],
        lr: Positive = 1e-3,
        weight_decay: NonNegative = 0.01,
        lr_schedule: dict[int, NonNegative] | None = None,
        compile: bool = False,
        **network: Any,
    ) -> None:
        super().__init__()
        self.config = FlashConfig(**network)
        network = dict(vars(self.config))  # with what was not given, for the record
        self.save_hyperparameters()
        check_ranges(type(self), self.hparams)
        if len(betas) != 2:
            raise ValueError(f"betas={betas}: need two betas in [0, 1)")
        self.lr, self.weight_decay, self.betas = lr, weight_decay, (betas[0], betas[1])
        self.lr_points = None if lr_schedule is None else by_step(lr_schedule)
        if self.lr_points is not None:
            piecewise_linear(self.lr_points)  # refuses what is none; a function is not pickled
        self.compiles, self.compiled = compile, False
        self._validation = PredictionAverages("val")

    @classmethod
    def stored_arguments(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's arguments, of which earlier versions took some that did nothing."""
        return without_meaningless(arguments)

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the text that the model was trained on."""
        return self.words.vocabulary

    @property
    def data(self) -> Any:
        """The DataModule of a Trainer's run; None without."""
        return getattr(self._trainer, "datamodule", None)

    def setup(self, stage: str) -> None:
        """Takes the data's symbols, those of the model and of all processes, and compiles."""
        words = getattr(self.data, "vocabulary", None)
        if isinstance(words, Vocabulary):
            if self.trainer.strategy.broadcast(words.digest) != words.digest:
                raise ValueError(
                    "this machine's cache has another tokenizer than the first one's: prepare the "
                    "text in a folder that all of them see, or give --data.tokenizer a file"
                )
            self.words.use(words)
        if self.compiles and stage == "fit" and not self.compiled:
            self.net.compile_layers(lengths_vary=self.lengths_vary)
            self.compiled = True

    def parts_to_shard(self) -> Sequence[nn.Module]:
        """The layers."""
        return list(self.net.layers)

    def configure_optimizers(self) -> Any:
        """AdamW that decays matrices only, with the schedule by step."""
        matrices = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear | nn.Embedding)}
        parameters = [p for p in self.parameters() if p.requires_grad]
        decayed = [p for p in parameters if id(p) in matrices]
        # gamma, beta, norms, biases, distances: numbers that have no reason to be near 0
        others = [p for p in parameters if id(p) not in matrices]
        both = ((decayed, self.weight_decay), (others, 0.0))
        groups = [{"params": group, "weight_decay": decay} for group, decay in both if group]
        optimizer = torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=may_fuse(self))
        if self.lr_points is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, piecewise_linear(self.lr_points))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def mean_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss in nats of logits (B, n, V) for targets (B, n), -100 where none; logs it."""
        loss = F.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=NO_TARGET, reduction="sum"
        )
        loss = token_mean(loss, (targets != NO_TARGET).sum())
        if is_logging_step(self):
            log_every(self, {"train/loss": loss})
        return loss

    @abstractmethod
    def predictions(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, n, V) in evaluation, targets (B, n), and which of them count (B, n)."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Adds to val/loss."""
        self._validation.add(*self.predictions(batch))

    def on_validation_epoch_end(self) -> None:
        """Logs val/loss in nats, accuracy, and of symbols bits and perplexity."""
        self.log_dict(self._validation.reduce(self)[0], sync_dist=True)
