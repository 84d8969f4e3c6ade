"""What a VAE of sentences shows: KL by dimension, and the loss by position."""

import numpy as np

from zoo.data.protocols import Moment
from zoo.figures import Figure
from zoo.vae.text.evaluation import Evaluation


class Figures(Evaluation):
    """Pictures for the page of a run."""

    def figures(self, moment: Moment) -> dict[str, Figure]:
        """KL and losses of a validation or a test."""
        report = self.test_report if moment == "test" else self.val_report
        kl, places = report.kl, report.places
        report.kl = report.places = None  # another step's at the end of a run
        if moment == "end":
            return {}
        figures = {}
        if kl is not None:
            part = "sphere" if self.space == "sphere" else "dimension"
            figures["kl"] = Figure(
                "bars",
                f"KL by {part}",
                {"values": kl.cpu().numpy()},
                "near 0: the code says nothing there",
                {"x": part, "y": "nats"},
            )
        if places is not None:
            nats, count = places.cpu().numpy()
            asked = count > 0
            figures["positions"] = Figure(
                "lines",
                "Loss by position",
                {"x": np.flatnonzero(asked) + 1.0, "loss": nats[asked] / count[asked]},
                "what the code and the words before are worth; a sentence's end is a word",
                {"x": "position in the sentence", "y": "nats a word"},
            )
        return figures
