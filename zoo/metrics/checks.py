"""What every distance asks of the features that it is given."""

from torch import Tensor


def check_features(*sets: Tensor, width: int | None = None) -> None:
    """Refuses features that no distance can be taken of: they must be (N, d) and finite.

    The d of all is `width`, or that of the first.
    """
    for x in sets:
        width = x.shape[-1] if width is None and x.ndim else width
        if x.ndim != 2 or x.shape[1] != width:
            raise ValueError(
                f"features have the shape {tuple(x.shape)}: give a row an image, of {width} numbers"
            )
        bad = ~x.isfinite().all(1)
        if bad.any():
            raise ValueError(
                f"features are not finite: {int(bad.sum())} of {len(x)} rows hold NaN or infinity, "
                f"the first is row {int(bad.nonzero()[0])}; look at the images or the extractor"
            )
