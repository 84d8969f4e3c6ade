"""Classes of samples that are asked for."""

import torch
from torch import Tensor

Labels = Tensor | list[int] | int


def labels_of(
    index: Tensor, labels: Labels | None, classes: int, *, null: bool = False, items: str = "images"
) -> Tensor | None:
    """The class of each sample, int64 (B,) on its device; none of a model without classes.

    Args:
        index: Numbers of the samples, int64 (B,).
        labels: One for all or one for each; the classes in turn if not given.
        classes: How many the model has.
        null: Whether `classes` itself is a label and means "none".
        items: What the samples are, for the message.

    Raises:
        ValueError: Labels do not fit the model or the samples.
    """
    if not classes:
        if labels is not None:
            raise ValueError("labels were given, but this model has no classes (num_classes=0)")
        return None
    if labels is None:
        return index % classes
    given = torch.as_tensor(labels, device=index.device)
    if given.is_floating_point() and not torch.equal(given, given.trunc()):  # as NaN is not
        raise ValueError(f"labels must be whole numbers: got {labels}")
    given = given.long()
    if given.ndim and given.shape != index.shape:
        raise ValueError(f"{given.numel()} labels for {len(index)} {items}: give one for each")
    if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < classes + null:
        or_none = f", or {classes} for none" if null else ""
        strange = sorted(set(given[(given < 0) | (given >= classes + null)].tolist()))
        told = ", ".join(map(str, strange[:5]))
        raise ValueError(f"labels must be in 0 ... {classes - 1}{or_none}: got {told}")
    return given.expand(index.shape)
