"""What the verbs work on: a split of a checkpoint's data or a recipe's, or images of one's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Subset

from zoo.data.described import tell
from zoo.data.images.arrays import read_images
from zoo.data.images.base import ResidentImages
from zoo.data.images.pixels import to_float
from zoo.data.loader import epoch_loader
from zoo.data.protocols import HasImages, Split
from zoo.data.remote import check_copied
from zoo.data_of import make_data, named_data, recorded_data
from zoo.loading import find_checkpoint

EXAMPLES = "examples.npy"


class Source(NamedTuple):
    """Items in a fixed order."""

    dataset: Any
    """Map-style, indexed by batch."""
    finish: Callable[[Any], Any]
    """What is to be done with a batch that has come to the device."""
    title: str
    names: list[str] | None
    """Files of the items, if they are files."""

    def batches(
        self, batch_size: int, limit: int | None, device: torch.device, start: int = 0
    ) -> Iterator[Any]:
        """Batches of the first `limit` items from `start` on, in order, on the device."""
        count = len(self.dataset) if limit is None else min(limit, len(self.dataset))
        first: Any = Subset(self.dataset, range(start, count))
        loader = epoch_loader(first, batch_size, train=False)
        for batch in loader:
            yield self.finish(batch.to(device))


def open_source(model: Any, ckpt: str, data: str | None, root: str | None, split: Split) -> Source:
    """The items that the arguments of a verb mean.

    Args:
        model: The model that will see them.
        ckpt: Where it came from.
        data: A folder or .zip of images, an .npy of uint8 images, a DataModule's name, a config's
            name or file; the data that the checkpoint was trained on if not given.
        root: Another `root` for a DataModule.
        split: Which split of a DataModule.

    Raises:
        FileNotFoundError: There is no such data.
        ValueError: The data is not what the model takes.
    """
    shape = getattr(model, "shape", None)
    if data is not None and (Path(data).is_dir() or data.lower().endswith((".zip", ".npy"))):
        if root is not None:
            raise ValueError(f"--root {root} is for a DataModule, but --data {data} is images")
        if shape is None:
            raise ValueError(f"{type(model).__name__} is no model of images: name a DataModule")
        return _own_images(Path(data), shape, model.levels)
    spec = recorded_data(ckpt) if data is None else named_data(data)
    name = str(spec["class_path"]).rpartition(".")[2]
    arguments = dict(spec.get("init_args") or {})
    if name == "ImageFolder" and data is not None and shape is not None:
        # Pictures get the model's size, unless a config says otherwise.
        arguments = {"channels": shape[0], "size": list(shape[1:]), **arguments}
    if root is not None:
        arguments["root"] = root
    elif data is None:
        check_copied(arguments.get("root"), ckpt, "--root")
    module = make_data({**spec, "init_args": arguments})
    if shape is not None and isinstance(module, HasImages):
        theirs = (module.channels, *module.size)
        if theirs != shape:
            raise ValueError(f"{name} has images of {_by(theirs)}, the model of {_by(shape)}")
    try:
        dataset = module.split(split)
    except (FileNotFoundError, ValueError) as error:
        if data is root is None and shape is not None and (examples := examples_of(ckpt)):
            title = f"test images of {name} that come with the model (--root FOLDER reads all)"
            return _own_images(examples, shape, model.levels)._replace(title=title)
        raise type(error)(str(error).replace("--data.root", "--root")) from error
    if not len(dataset):
        reason = module.reason(split) if hasattr(module, "reason") else ""
        raise ValueError(f"the {split} split of {name} is empty{reason}: choose another --split")
    tell(module)
    return Source(
        dataset,
        lambda batch: module.on_after_batch_transfer(batch, 0),
        f"{split} split of {name}",
        None,
    )


def examples_of(ckpt: str) -> Path | None:
    """Images that come with an exported folder, where the data themselves may not be at hand."""
    file = find_checkpoint(ckpt) / EXAMPLES
    return file if file.is_file() else None


def _own_images(path: Path, shape: tuple[int, int, int], levels: int) -> Source:
    names, values = read_images(path, shape)
    grey = torch.from_numpy(np.rint(values * ((levels - 1) / 255)).astype(np.uint8))
    return Source(
        ResidentImages(grey, torch.zeros(len(grey), dtype=torch.int64)),
        lambda batch: batch._replace(images=to_float(batch.images, levels)),
        f"images in {path} (as {_by(shape)})",
        names,
    )


def _by(shape: Any) -> str:
    return "x".join(map(str, shape))
