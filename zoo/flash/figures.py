"""What a language model shows: its loss by position, beyond the length of training, and recall."""

import numpy as np
from numpy.typing import NDArray

from zoo.data.protocols import Moment
from zoo.figures import Figure
from zoo.flash.averages import PredictionAverages
from zoo.flash.base import FlashModule

_BINS = 48  # of positions


class Figures(FlashModule):
    """Pictures for the page of a run."""

    _tests: list[PredictionAverages]
    test_losses: list[float]
    """Of the last test, by length."""

    def figures(self, moment: Moment) -> dict[str, Figure]:
        """Loss or right answers by position, and of a test by length."""
        if moment == "end":
            return {}
        lengths = list(getattr(self.data, "test_lengths", None) or [])
        of_test = dict(
            zip([f"windows of {n}" for n in lengths] or ["loss"], self._tests, strict=True)
        )
        averages = {"loss": self._validation} if moment == "val" else of_test
        places = {
            name: own.places.cpu().numpy()
            for name, own in averages.items()
            if own.places is not None
        }
        for own in averages.values():
            own.places = None  # another step's at the end of a run
        figures = {}
        if places:
            counts = next(iter(places.values()))[2]
            few = len(places) == 1 and (counts == 0).any()
            figures["positions"] = _recall(places) if few else _positions(places)
        if moment == "test" and len(lengths) > 1:
            figures["lengths"] = Figure(
                "lines",
                "Loss by length",
                {"x": np.array(lengths, float), "loss": np.array(self.test_losses)},
                f"windows of the test split; trained with {lengths[0]}",
                {"x": "symbols of a window", "y": "nats a symbol", "log": ["x"]},
            )
        return figures


def _positions(places: dict[str, NDArray[np.float64]]) -> Figure:
    longest = max(own.shape[1] for own in places.values())
    edges = np.unique(np.geomspace(1, longest + 1, _BINS + 1).round().astype(int)) - 1
    arrays = {"x": (edges[1:] + edges[:-1] + 1) / 2}
    for name, own in places.items():
        padded = np.pad(own, ((0, 0), (0, longest - own.shape[1])))
        nats, _, count = np.add.reduceat(padded, edges[:-1], axis=1)
        arrays[name] = np.divide(nats, count, out=np.full_like(nats, np.nan), where=count > 0)
    return Figure(
        "lines",
        "Loss by position",
        arrays,
        "what the symbols before are worth",
        {"x": "position in the window", "y": "nats a symbol", "log": ["x"]},
    )


def _recall(places: dict[str, NDArray[np.float64]]) -> Figure:
    [(_, right, count)] = places.values()
    asked = count > 0
    return Figure(
        "bars",
        "Recall by question",
        {"values": right[asked] / count[asked]},
        "share of right answers to each question of an item, in their order",
        {"x": "question", "y": "right"},
    )
