"""What a language model shows: loss by position and by kind of symbol, by length, and recall."""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from zoo.data.protocols import Moment
from zoo.data.text.vocabulary import END, UNKNOWN
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


class MaskedFigures(FlashModule):
    """Pictures for the page of a masked model's run; none of one that tells classes."""

    _test: PredictionAverages

    def figures(self, moment: Moment) -> dict[str, Figure]:
        """Loss and right guesses by position, and by the kind of the masked symbol."""
        averages = self._test if moment == "test" else self._validation
        places, symbols = averages.places, averages.symbols
        averages.places = averages.symbols = None  # another step's at the end of a run
        if moment == "end" or averages.unit is None or places is None or symbols is None:
            return {}
        of = {"guesses": places.cpu().numpy()}
        figures = {"positions": _positions(of), "right": _positions(of, right=True)}
        if len(self.words.symbols):
            kinds = [kind_of(symbol) for symbol in self.vocabulary.symbols]
            figures |= _kinds(symbols.cpu().numpy()[:, : len(kinds)], np.array(kinds))
        return figures


def kind_of(symbol: str) -> str:
    """Of which kind a symbol is, by its first letter or character that is no mark of a piece."""
    if symbol in (END, UNKNOWN):
        return "special"
    bare = symbol.removeprefix("##").lstrip("\u0120\u2581") or " "
    category = unicodedata.category(bare[0])
    if unicodedata.name(bare[0], "").startswith("CJK UNIFIED"):
        return "Chinese"
    known = {"L": "letters", "M": "letters", "N": "digits", "P": "punctuation", "S": "signs"}
    return known.get(category[0], "space")


def _kinds(symbols: NDArray[np.float64], kinds: NDArray[np.str_]) -> dict[str, Figure]:
    nats, right, count = symbols
    asked = [str(kind) for kind in np.unique(kinds) if count[kinds == kind].sum()]
    asked.sort(key=lambda kind: -count[kinds == kind].sum())
    found = {}
    for name, title, sums, y in (
        ("kinds", "Loss by kind of symbol", nats, "nats a guess"),
        ("right_kinds", "Right guesses by kind of symbol", right, "share"),
    ):
        values = [sums[kinds == kind].sum() / count[kinds == kind].sum() for kind in asked]
        names = [f"{kind} ({int(count[kinds == kind].sum()):,})" for kind in asked]
        found[name] = Figure(
            "bars",
            title,
            {"values": np.array(values)},
            "of what was masked; how many of them were guessed in brackets",
            {"x": "", "y": y, "names": names},
        )
    return found


def _positions(places: dict[str, NDArray[np.float64]], right: bool = False) -> Figure:
    longest = max(own.shape[1] for own in places.values())
    edges = np.unique(np.geomspace(1, longest + 1, _BINS + 1).round().astype(int)) - 1
    arrays = {"x": (edges[1:] + edges[:-1] + 1) / 2}
    for name, own in places.items():
        padded = np.pad(own, ((0, 0), (0, longest - own.shape[1])))
        nats, hits, count = np.add.reduceat(padded, edges[:-1], axis=1)
        sums = hits if right else nats
        arrays[name] = np.divide(sums, count, out=np.full_like(sums, np.nan), where=count > 0)
    masked = "guesses" in places
    return Figure(
        "lines",
        "Right guesses by position" if right else "Loss by position",
        arrays,
        "of what was masked" if masked else "what the symbols before are worth",
        {
            "x": f"position in the {'sentence' if masked else 'window'}",
            "y": "share" if right else "nats a symbol",
            "log": ["x"],
        },
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
