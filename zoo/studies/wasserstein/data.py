"""What the study of post 8244 is made on: images, or a Gaussian in so many dimensions."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import zoo.data
from zoo.data.images.base import ImageData
from zoo.data.images.pixels import to_float
from zoo.layers.counter_rng import normal
from zoo.layers.seeds import mix

IMAGES: dict[str, type[ImageData]] = {
    "digits": zoo.data.Digits,
    "mnist": zoo.data.MNIST,
    "fashion-mnist": zoo.data.FashionMNIST,
    "cifar10": zoo.data.CIFAR10,
}
_GAUSSIAN = re.compile(r"gaussian-([1-9]\d*)")
_TRAIN, _HELD_OUT = 0, 1  # streams


@dataclass(frozen=True)
class Population:
    """Items to draw batches from, in two parts that share none.

    Args:
        name: As it was asked for.
        train: Items (N, ...) that means and centres may be fitted to.
        held_out: Items (M, ...) to judge them by.
    """

    name: str
    train: Tensor
    held_out: Tensor

    @property
    def size(self) -> str:
        """The counts, for a protocol."""
        shape = "x".join(map(str, self.train.shape[1:]))
        return (
            f"{self.name}: {len(self.train)} training and {len(self.held_out)} held-out "
            f"items of {shape}"
        )

    def batch(self, part: str, count: int, seed: int) -> Tensor:
        """`count` different items of train or held_out, a function of the seed."""
        items = self.train if part == "train" else self.held_out
        if count > len(items):
            raise ValueError(
                f"{self.name} has {len(items)} {part} items, which makes no batch of {count}: "
                "choose smaller batches"
            )
        generator = torch.Generator().manual_seed(mix(seed, _TRAIN if part == "train" else 1))
        return items[torch.randperm(len(items), generator=generator)[:count]]


def load_population(
    name: str, root: str = "data", limit: int = 10_000, side: int = 32
) -> Population:
    """A population by name.

    Args:
        name: digits, mnist, fashion-mnist or cifar10, with the splits of the data modules; the path
            of a folder or .zip of images; gaussian-D, which is N(0, I) in D dimensions.
        root: Folder that holds the named image sets.
        limit: Most items of each part.
        side: Side that the images of a folder are brought to.

    Returns:
        Images as float32 (N, C, H, W) in [-1, 1]. The held-out images are the test split; of the
        few digits, the validation split too.

    Raises:
        ValueError: There is no such population.
        FileNotFoundError: The images are not there.
    """
    if gaussian := _GAUSSIAN.fullmatch(name):
        d = (int(gaussian[1]),)
        index = torch.arange(limit)
        return Population(name, *(normal(8244, index, s, d) for s in (_TRAIN, _HELD_OUT)))
    data: ImageData
    if name in IMAGES:
        data = IMAGES[name](root=root)
    elif Path(name).exists():
        data = zoo.data.ImageFolder(root=name, size=side, limit=limit)
    else:
        raise ValueError(
            f"no data {name!r}: choose {', '.join(IMAGES)}, gaussian-D (such as gaussian-64), or "
            "the path of a folder or .zip of images"
        )
    try:
        train = data.reference_images("train", limit)
    except FileNotFoundError as error:  # it names the option of `zoo fit`
        raise FileNotFoundError(str(error).replace("--data.root", "--root")) from None
    held_out = data.reference_images("test", limit)
    if name == "digits":
        held_out = torch.cat([held_out, data.reference_images("val")])
    return Population(Path(name).stem, to_float(train), to_float(held_out))
