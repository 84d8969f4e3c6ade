"""Pictures, or texts, of what the model makes while it trains."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from zoo.data.protocols import HasTexts
from zoo.files import replacing
from zoo.memory import check_grid
from zoo.ranges import Seed, Whole, check_ranges
from zoo.training.distributed import gather_with_grad
from zoo.training.ema import averaged
from zoo.training.grid import make_grid_png, picture_of_points
from zoo.training.log import batches_that_stepped
from zoo.training.loggers import senders, tab_separated

_PREVIEW = 16  # samples of a last grid, of a model whose samples take long


class SampleGrid(Callback):
    """Draws samples at every validation into run_dir/samples/step-N.png and to the loggers.

    A model that writes has step-N.tsv instead, and a table: its texts, or paraphrases of validation
    sentences.

    A training that no validation ends has a small last grid: a short run leaves one, too.

    The same seed every time, so that the pictures show one set of noises becoming images. Every
    rank draws a part of them.

    Args:
        n: Images in the grid, or texts; 0 draws none.
        seed: Seed of the samples.
    """

    def __init__(self, n: Whole = 0, seed: Seed = 0) -> None:
        check_ranges(SampleGrid, {"n": n, "seed": seed}, "--samples.")
        self.n, self.seed = n, seed
        self._drawn = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses more samples than the memory holds."""
        if stage == "fit":
            check_grid(f"--samples.n={self.n}", pl_module, self.n)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws while the averaged weights are still in the module."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last samples, whatever the interval of validations."""
        if self._drawn != trainer.global_step:
            with averaged(trainer):
                self._draw(trainer, pl_module, quick=hasattr(pl_module, "preview"))

    @torch.no_grad()
    def _draw(self, trainer: Trainer, pl_module: LightningModule, quick: bool = False) -> None:
        n = min(self.n, _PREVIEW) if quick else self.n
        if n == 0:
            return
        self._drawn = trainer.global_step
        if isinstance(pl_module, HasTexts):
            self._write(trainer, pl_module.texts(n, seed=self.seed))
            return
        draw: Any = pl_module.preview if quick else pl_module.sample
        each = -(-n // trainer.world_size)
        with trainer.precision_plugin.forward_context():
            part = draw(each, seed=self.seed, first=trainer.global_rank * each)
        images = gather_with_grad(part)[:n]
        if trainer.is_global_zero:
            if images.ndim == 2:
                images = picture_of_points(images)
            path = make_grid_png(images, _file(trainer, ".png"))
            for sender in senders(trainer.loggers):
                sender.image("samples", path, batches_that_stepped(trainer))

    def _write(self, trainer: Trainer, columns: Mapping[str, Sequence[Any]]) -> None:
        if trainer.is_global_zero and any(columns.values()):
            with replacing(_file(trainer, ".tsv")) as file:
                file.write_text(tab_separated(columns), "utf-8")
            for sender in senders(trainer.loggers):
                sender.table("samples", columns, batches_that_stepped(trainer))


def _file(trainer: Trainer, suffix: str) -> Path:
    return Path(trainer.default_root_dir, "samples", f"step-{trainer.global_step:07d}{suffix}")
