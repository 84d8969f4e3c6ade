"""What a run needs around the model; the only package that touches the Trainer's internals."""

from zoo.layers.seeds import mix
from zoo.training.changes import Changes
from zoo.training.checkpoint import AtomicCheckpointIO, Checkpoint
from zoo.training.csv import MetricsCSV
from zoo.training.distributed import gather_with_grad
from zoo.training.ema import EMA
from zoo.training.guard import FiniteLoss, TrainingDivergedError
from zoo.training.log import is_logging_step, log_every
from zoo.training.overhead import NoProfiler, settle_missing_gpu
from zoo.training.pictures import Pictures
from zoo.training.progress import StepProgressBar
from zoo.training.record import RunRecord
from zoo.training.resume import Resume
from zoo.training.rng import StepRNG
from zoo.training.stop import Stopped
from zoo.training.told import ToldData

__all__ = [
    "EMA",
    "AtomicCheckpointIO",
    "Changes",
    "Checkpoint",
    "FiniteLoss",
    "MetricsCSV",
    "NoProfiler",
    "Pictures",
    "Resume",
    "RunRecord",
    "StepProgressBar",
    "StepRNG",
    "Stopped",
    "ToldData",
    "TrainingDivergedError",
    "gather_with_grad",
    "is_logging_step",
    "log_every",
    "mix",
    "settle_missing_gpu",
]
