"""Whether data are what a model was made for; messages name the flags to set."""

from collections.abc import Sequence

from torch import Tensor


def image_shape(channels: int, image_size: int | list[int]) -> tuple[int, int, int]:
    """(C, H, W) of images with a side, or with [height, width]."""
    sides = image_size if isinstance(image_size, list | tuple) else [image_size, image_size]
    size = [int(side) for side in sides if side == int(side)]
    if len(size) != 2 or len(sides) != 2 or min(size) < 1:
        raise ValueError(f"image_size={image_size}: give a side, or [height, width]")
    return channels, size[0], size[1]


def check_images(shape: tuple[int, ...], own: tuple[int, ...]) -> None:
    """Raises ValueError if images are of another shape (C, H, W) than a model's own."""
    if shape != own:
        found, wanted = ("x".join(map(str, s)) for s in (shape, own))
        raise ValueError(
            f"images of {found} (CxHxW) for a model of {wanted}: set --model.channels={shape[0]} "
            f"--model.image_size={list(shape[1:])}"
        )


def floats_of(batch: Sequence[Tensor] | Tensor) -> Tensor:
    """The images or points of a batch as float32, whatever precision the Trainer converts them to.

    Raises:
        ValueError: They are integers: grey levels, as they leave a loader; or a batch is a tensor.
    """
    if isinstance(batch, Tensor):
        raise ValueError(
            "a batch is a tensor: models take batches (images, ...), such as TensorDataset gives, "
            "with labels second where the model has classes"
        )
    x = batch[0]
    if x.is_floating_point():
        return x.float()
    raise ValueError(
        f"images of {x.dtype}: models take floats in [-1, 1], which a DataModule of the zoo makes "
        "of grey levels where the Trainer has it: trainer.fit(model, datamodule=data), not its "
        "loaders; zoo.data.to_float(x, levels) makes them of others"
    )


def classes_of(batch: Sequence[Tensor], number: int) -> Tensor | None:
    """The classes of a batch, int64 (B,), for a model of so many; None for one without.

    Raises:
        ValueError: There are none.
    """
    if not number:
        return None
    if len(batch) < 2:
        raise ValueError(
            f"a batch without labels, for a model of {number} classes: batches are (images, labels)"
        )
    return batch[1]


def check_given(*sets: Tensor, own: tuple[int, ...]) -> None:
    """Raises ValueError unless images from a script are tensors of floats of a model's own shape.

    Args:
        sets: The images.
        own: (C, H, W) of the model's.
    """
    for x in sets:
        if not isinstance(x, Tensor):
            raise ValueError(f"images are a tensor, not a {type(x).__name__}: torch.as_tensor(x)")
        if x.shape[1:] != own:
            size = ", ".join(map(str, own))
            raise ValueError(f"images of shape {tuple(x.shape)}: this model takes (B, {size})")
        if not x.is_floating_point():
            raise ValueError(
                f"images of {x.dtype}: give floats in [-1, 1], which zoo.data.to_float(x, levels) "
                "makes of grey levels"
            )


def check_numbers(data: object, **own: int) -> None:
    """Raises ValueError if data have another number than a model, such as `levels` of grey.

    What a DataModule does not say fits, and of what is 0 a model takes any.
    """
    for name, number in own.items():
        found = getattr(data, name, number)
        if number and found != number:
            raise ValueError(
                f"the data has {name}={found} but the model {number}: set --model.{name}={found}"
            )
