"""A setting that was chosen, kept in the user's cache folder for the next run of its kind."""

import json
import os
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from statistics import median
from typing import Any

import torch
from lightning.pytorch import LightningModule

from zoo.data.cache import key_of, user_cache
from zoo.files import replacing
from zoo.loading import class_path
from zoo.training.distributed import place
from zoo.training.pictures import processor
from zoo.tuning.halving import Trial, best
from zoo.tuning.settings import Setting

_PRECISIONS = ("32", "bf16", "int8", "32-true", "bf16-mixed")
# Arguments of models that are tuned, and those of optimisers, which cost no time.
_NO_MATTER = ("channels_last", "compile", "weight_decay", "lr")


@dataclass(frozen=True)
class Choice:
    """A setting, and why it was chosen.

    Args:
        setting: The setting.
        times: How many times the default's speed: least, median and most over the turns.
        turns: Comparisons with the default; 0 where the default was chosen.
        measured: Date.
    """

    setting: Setting
    times: tuple[float, float, float] = (1.0, 1.0, 1.0)
    turns: int = 0
    measured: str = ""

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> "Choice":
        """The best of some trials."""
        chosen, first = best(trials), trials[0]
        ratios = chosen.ratios(first)
        times = (min(ratios), median(ratios), max(ratios))
        turns = 0 if chosen is first else len(ratios)
        return cls(chosen.setting, times, turns, date.today().isoformat())

    @classmethod
    def read(cls, kept: Any) -> "Choice | None":
        """What `asdict` gave, from JSON; None of what is not whole."""
        try:
            setting = Setting(**kept["setting"])
            least, middle, most = map(float, kept["times"])
            sound = setting.precision in _PRECISIONS and 0 < int(setting.threads) <= 1024
            flags = (setting.channels_last, setting.compile)
            sound = sound and all(flag is None or isinstance(flag, bool) for flag in flags)
            choice = cls(setting, (least, middle, most), int(kept["turns"]), str(kept["measured"]))
            return choice if sound else None
        except (ValueError, KeyError, TypeError, OverflowError):
            return None

    def __str__(self) -> str:
        least, middle, most = self.times
        why = "the default; nothing was clearly faster"
        if self.turns:
            why = f"{middle:.2f} times the default's speed, {least:.2f} to {most:.2f} in "
            why += f"{self.turns} turns"
        return f"{self.setting} ({why}; measured {self.measured})"


def facts(
    verb: str,
    model: LightningModule,
    device: torch.device,
    batch: int | None,
    default: Setting,
    fixed: Set[str] = frozenset(),
) -> dict[str, Any]:
    """All that a measurement hangs on: processor, torch, the model's class and sizes, the batch."""
    sizes = {k: v for k, v in model.hparams.items() if not k.startswith(_NO_MATTER)}
    cuda = device.type == "cuda"
    return {
        "verb": verb,
        "processor": torch.cuda.get_device_name(device) if cuda else processor(),
        "torch": str(torch.__version__),
        "model": class_path(model),
        "sizes": json.loads(json.dumps(sizes, default=str)),
        "batch": batch,
        "default": asdict(default),
        "fixed": sorted(fixed),
    }


def measured(
    known: Mapping[str, Any], measure: Callable[[], Choice], *, anew: bool = False
) -> Choice:
    """The choice of an earlier measurement of the same facts, or of one now, which is kept.

    Args:
        known: What `facts` gives.
        measure: Measures.
        anew: Measure in any case.

    Raises:
        ValueError: Nothing is kept, and several processes would measure at once.
    """
    path = user_cache() / "tune" / f"{key_of(known)}.json"
    if not anew:
        with suppress(OSError, ValueError, RecursionError):
            kept = json.loads(path.read_text("utf-8"))
            if isinstance(kept, dict) and (found := Choice.read(kept.get("choice"))):
                return found
    if place()[1] > 1 or "LOCAL_RANK" in os.environ:
        raise ValueError(
            "--precision auto: nothing is measured yet, and several processes cannot measure at "
            "once: run zoo tune before, with the same OMP_NUM_THREADS, or name a precision"
        )
    choice = measure()
    with suppress(OSError):  # a home that cannot be written: it is measured again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write_text(json.dumps({"choice": asdict(choice), "of": known}, indent=1), "utf-8")
    return choice
