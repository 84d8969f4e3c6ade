"""All numbers that compare two sets of features, and how they were made."""

import torch
from torch import Tensor

from zoo.metrics.features import Extractor
from zoo.metrics.frechet import FeatureMoments, frechet_distance
from zoo.metrics.kernel import kernel_distance
from zoo.metrics.manifold import Manifold, manifold_metrics

_SUBSETS, _SUBSET_SIZE = 100, 1000  # of the kernel distance, as published


def compare(
    real: Tensor, fake: Tensor, *, k_precision: int, k_density: int, seed: int
) -> tuple[dict[str, Tensor], str]:
    """The numbers that so many images allow.

    Args:
        real: Features (N, d).
        fake: Features (M, d).
        k_precision: Neighbours that define a ball for precision and recall.
        k_density: Neighbours that define a ball for density and coverage.
        seed: Seed of the subsets of the kernel distance.

    Returns:
        Float64 scalars by name, and which names are left out, with what they need.
    """
    real, fake = torch.as_tensor(real), torch.as_tensor(fake)  # of NumPy, too
    count, most = min(len(real), len(fake)), max(k_precision, k_density)
    values = dict[str, Tensor]()
    if count >= 2:
        moments = [FeatureMoments(real.shape[1], real.device) for _ in range(2)]
        for moment, features in zip(moments, (real, fake), strict=True):
            moment.update(features)
        sizes = {"subsets": _SUBSETS, "subset_size": _SUBSET_SIZE}
        kid, _ = kernel_distance(real, fake, seed=seed, **sizes)
        values |= {"frechet_distance": frechet_distance(*moments), "kid": kid}
    if count > most:
        k = {"k_precision": k_precision, "k_density": k_density}
        values |= manifold_metrics(real, fake, **k)._asdict()
    needed = dict.fromkeys(("frechet_distance", "kid"), 2)
    needed |= dict.fromkeys(Manifold._fields, most + 1)
    missing = [f"{name} (needs {n})" for name, n in needed.items() if name not in values]
    return values, f"{', '.join(missing)}: there are {count} images" if missing else ""


def protocol(
    extractor: Extractor | None, largest: int, *, k_precision: int, k_density: int, seed: int
) -> dict[str, str]:
    """How such numbers are made, of sets of at most `largest` features; without the sets' own."""
    whole = largest <= _SUBSET_SIZE
    network = (
        {}
        if extractor is None
        else {
            "extractor": extractor.name,
            "extractor_sha256": extractor.sha256,
            "resize": f"{extractor.resize} to {extractor.size[0]}x{extractor.size[1]}",
        }
    )
    return network | {
        "seed": str(seed),
        "kid": "whole sets" if whole else f"{_SUBSETS} subsets of {_SUBSET_SIZE}",
        "neighbours": f"{k_precision} (precision, recall), {k_density} (density, coverage)",
    }
