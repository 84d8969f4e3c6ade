"""What a WGAN offers on a page: its samples."""

from torch import Tensor

from zoo.pages import IMAGES, SEED, Control, Number, Result, Tab, class_choice, class_of
from zoo.wgan.figures import Figures


class Pages(Figures):
    """Samples of images or points."""

    def tabs(self) -> list[Tab]:
        """Samples."""
        points = Number("Number", 1000, 1, 10_000)
        controls: dict[str, Control] = {
            "n": IMAGES if len(self.shape) == 3 else points,
            "seed": SEED,
            **class_choice(self.num_classes),
        }
        return [Tab("Samples", self._drawn, controls, [Result("images", "Samples")])]

    def _drawn(self, n: int, seed: int, label: str | None = None) -> tuple[Tensor]:
        labels = None if label is None else class_of(label, self.num_classes)
        return (self.sample(n, seed=seed, labels=labels),)
