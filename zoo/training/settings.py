"""What a run sets for the whole process, whether a command or a script starts it."""

import logging
import os
import warnings

import torch

from zoo.training.overhead import settle_missing_gpu


def settle() -> None:
    """Allows TF32 in products of float32 matrices, and silences what a run means on purpose."""
    _quieten()
    # A kill loses what an offline W&B run has not yet written: that of 15 seconds, unless asked.
    os.environ.setdefault("WANDB__TRANSACTION_LOG_FLUSH_INTERVAL", "0.1")
    torch.set_float32_matmul_precision("high")
    settle_missing_gpu()


class _NoTips(logging.Filter):
    # Advertisements, and a note about a flag of Lightning's that we set to the safe value anyway.
    _SILENT = ("💡", "litlogger", "`weights_only` was not set", "TPU available")

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(text in message for text in self._SILENT)


def _quieten() -> None:
    """Silences advertisements and warnings about what the zoo does on purpose."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's use of it
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.pytorch.trainer.connectors.checkpoint_connector",
    ):
        logger = logging.getLogger(name)
        if not any(isinstance(f, _NoTips) for f in logger.filters):
            logger.addFilter(_NoTips())
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*treespec.*")
    # Logging steps are counted over epochs here.
    warnings.filterwarnings("ignore", message=".*is smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Total length of `list` across ranks is zero.*")
    warnings.filterwarnings("ignore", message=".*`anonymous`.*")
