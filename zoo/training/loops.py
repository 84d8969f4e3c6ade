"""Training loops that go on from a checkpoint exactly where it was written.

Lightning's own, resumed from a checkpoint that was written after a batch, leave out the validation
of that batch and the end of its epoch, and no file holds half of an accumulated gradient. Here a
checkpoint is written at one of two places, both after a step of the optimiser: before the
validation that may be due, and after it. A resumed run enters its loops at that very place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

Place = Literal["step", "validation"]


class Saver(Protocol):
    """What is asked at the two places where a checkpoint can be written."""

    def after_step(self, trainer: Trainer) -> None:
        """The optimiser has stepped and its metrics are logged; the validation is to come."""

    def after_validation(self, trainer: Trainer) -> None:
        """The validation that was due after the step is done."""


class EpochLoop(_TrainingEpochLoop):
    """The batches of an epoch, with places to save at.

    A validation that is due in the middle of an accumulation waits for the step of the optimiser,
    and so does the end of a run that a callback stops.
    """

    saver: Saver
    _place: Place | None = None  # where the run is, while a saver may save
    _due: bool | None = None  # whether the batch that is done is validated; None if not known
    _waits = False
    _resumed: tuple[Place, bool | None] | None = None

    @property
    def owes_validation(self) -> bool:
        """Whether the checkpoint was written before a validation that is still to come."""
        return self._resumed == ("step", True)

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Adds the place, and the metrics that callbacks go by."""
        state: dict[str, Any] = super().on_save_checkpoint()
        if self._place is not None:
            state["place"], state["validates"] = self._place, bool(self._due)
        metrics = self.trainer.callback_metrics
        state["metrics"] = {str(name): float(value) for name, value in metrics.items()}
        return state

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Notes the place that the run goes on from."""
        super().on_load_checkpoint(state_dict)
        self._waits = False
        place = state_dict.get("place")
        self._resumed = (place, bool(state_dict.get("validates"))) if place is not None else None
        metrics = {name: torch.tensor(x) for name, x in state_dict.get("metrics", {}).items()}
        self.trainer._logger_connector._callback_metrics.update(metrics)

    def adopt(self) -> None:
        """Takes what a callback saved in `on_train_batch_end` as saved after the step."""
        done = self.batch_progress.total
        inside = done.completed == done.processed - 1 == done.ready - 1  # type: ignore[attr-defined]
        if self.restarting and self._resumed is None and inside:
            self.batch_progress.increment_completed()
            self._resumed = ("step", None)

    @property
    def done(self) -> bool:
        """Whether the epoch, or the run, ends here."""
        if self._resumed is not None:
            return False
        return super().done and (self._is_training_done or not self._should_accumulate())

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Trains on a batch; the first one of a resumed run was done before it was saved."""
        self.val_loop.restarting = False  # no file is written inside a validation
        if self._resumed is None:
            super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validates if that is due; the saver is asked before and after."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and resumed[0] == "validation":
            return
        due = None if resumed is None else resumed[1]
        if self._skip_next_val:  # of a file of Lightning's own places, after its validation
            due = False
        if due is None:
            due = self._waits or self._should_check_val_fx(data_fetcher)
        stepped = not self._should_accumulate()
        self._waits = due and not stepped
        try:
            self._due = due and stepped and self.trainer.enable_validation
            if stepped and resumed is None:
                with self._at("step"):
                    self.saver.after_step(self.trainer)
            super().on_advance_end(data_fetcher)
            if self._due:
                with self._at("validation"):
                    self.saver.after_validation(self.trainer)
        finally:
            self._due = None

    @contextmanager
    def _at(self, place: Place) -> Iterator[None]:
        self._place = place
        try:
            yield
        finally:
            self._place = None

    def _should_check_val_fx(self, data_fetcher: _DataFetcher) -> bool:
        return super()._should_check_val_fx(data_fetcher) if self._due is None else self._due

    def _broadcast_sigterm_tensor(self) -> None:
        """Nothing: at every step the host would wait for it, and `StopRequest` does its job."""


class FitLoop(_FitLoop):
    """The epochs of a run."""

    epoch_loop: EpochLoop

    @property
    def done(self) -> bool:
        """Whether the run ends, which it does not before a validation that its last step owes."""
        return not self.epoch_loop.owes_validation and super().done

    def reset(self) -> None:
        """Begins, or goes on from a checkpoint."""
        self.epoch_loop.adopt()
        super().reset()


def use_exact_loops(trainer: Trainer, saver: Saver) -> None:
    """Makes a Trainer's loops of these kinds; all that they know and hold stays."""
    trainer.fit_loop.__class__ = FitLoop
    trainer.fit_loop.epoch_loop.__class__ = EpochLoop
    cast(EpochLoop, trainer.fit_loop.epoch_loop).saver = saver
