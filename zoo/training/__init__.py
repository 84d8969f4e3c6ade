"""What a run needs around the model; the only package that touches the Trainer's internals."""

from zoo.training.log import is_logging_step, log_every
from zoo.training.seeds import mix

__all__ = ["is_logging_step", "log_every", "mix"]
