"""Which of several processes this is, before they have found each other."""

import os


def rank() -> int:
    """Rank of this process where torchrun, SLURM or Lightning started several; else 0."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)
