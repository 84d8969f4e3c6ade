"""What every distance asks of the features that it is given."""

from typing import Any

import torch
from torch import Tensor


def checked_features(*sets: Any, width: int | None = None) -> list[Tensor]:
    """The sets as tensors, of which a distance can be taken: they must be (N, d) and finite.

    The d of all is `width`, or that of the first.

    Raises:
        ValueError: They are not.
    """
    found = [torch.as_tensor(x) for x in sets]  # of NumPy, too
    for x in found:
        width = x.shape[-1] if width is None and x.ndim else width
        if x.ndim != 2 or x.shape[1] != width or not width:
            raise ValueError(
                f"features have the shape {tuple(x.shape)}: give a row an image, of "
                f"{width or 'one or more'} numbers"
            )
        bad = ~x.isfinite().all(1)
        if bad.any():
            raise ValueError(
                f"features are not finite: {int(bad.sum())} of {len(x)} rows hold NaN or infinity, "
                f"the first is row {int(bad.nonzero()[0])}; look at the images or the extractor"
            )
    return found
