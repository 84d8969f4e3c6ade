"""What Lightning does at every step for features that are off, and how not to pay for it.

Measured by benchmarks/trainer_overhead.py on a model whose step takes under a millisecond.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch.profilers import PassThroughProfiler

_NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, without a generator for each of the fifty actions of a step."""

    def profile(self, action_name: str) -> AbstractContextManager[Any]:  # type: ignore[override]
        """One context for all actions."""
        return _NOTHING


def settle_missing_gpu() -> None:
    """Ends the search for a GPU where there is none.

    Lightning makes torch ask NVML whether there is a GPU, and on a machine without one
    torch's Adam asks at every step, loading the library anew. Where the first answer is no, torch
    may go back to its own, quick check.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
