"""What the verbs work on: a split of a checkpoint's data or a recipe's, or images of one's own."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.described import tell, tell_lines
from zoo.data.images.base import ResidentImages
from zoo.data.images.decoding import decode, open_picture
from zoo.data.images.files import ImageFiles
from zoo.data.images.pixels import to_float
from zoo.data.images.suffixes import is_picture
from zoo.data.loader import epoch_loader
from zoo.data.protocols import HasImages, Split
from zoo.data_of import make_data, named_data, recorded_data


class Source(NamedTuple):
    """Items in a fixed order."""

    dataset: Any
    """Map-style, indexed by batch."""
    finish: Callable[[Any], Any]
    """What is to be done with a batch that has come to the device."""
    title: str
    names: list[str] | None
    """Files of the items, if they are files."""

    def batches(self, batch_size: int, limit: int | None, device: torch.device) -> Iterator[Any]:
        """Batches of the first `limit` items, in order, on the device."""
        count = len(self.dataset) if limit is None else min(limit, len(self.dataset))
        loader = epoch_loader(_First(self.dataset, count), batch_size, train=False)
        for batch in loader:
            yield self.finish(batch.to(device))


class _First:
    def __init__(self, dataset: Any, count: int) -> None:
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: list[int]) -> Any:
        return self.dataset.__getitems__(indices)


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
    spec = recorded_data(Path(ckpt)) if data is None else named_data(data)
    name = str(spec["class_path"]).rpartition(".")[2]
    arguments = dict(spec.get("init_args") or {})
    if name == "ImageFolder" and data is not None and shape is not None:
        # Pictures get the model's size, unless a config says otherwise.
        arguments = {"channels": shape[0], "size": list(shape[1:]), **arguments}
    if root is not None:
        arguments["root"] = root
    module = make_data({**spec, "init_args": arguments})
    if shape is not None and isinstance(module, HasImages):
        theirs = (module.channels, *module.size)
        if theirs != shape:
            raise ValueError(f"{name} has images of {_by(theirs)}, the model of {_by(shape)}")
    try:
        dataset = module.split(split)
    except (FileNotFoundError, ValueError) as error:
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


def _own_images(path: Path, shape: tuple[int, int, int], levels: int) -> Source:
    names, values = read_images(path, shape)
    grey = torch.from_numpy(np.rint(values * ((levels - 1) / 255)).astype(np.uint8))
    return Source(
        ResidentImages(grey, torch.zeros(len(grey), dtype=torch.int64)),
        lambda batch: batch._replace(images=to_float(batch.images, levels)),
        f"images in {path} (as {_by(shape)})",
        names,
    )


def read_images(
    path: Path, shape: tuple[int, int, int], *, exact: bool = False
) -> tuple[list[str] | None, np.ndarray]:
    """Images of a folder or .zip in the order of their names, or of an .npy.

    Args:
        path: The folder, .zip or .npy.
        shape: (C, H, W) of an image.
        exact: Refuse what would have to be resized or converted.

    Returns:
        The names, if they are files, and uint8 (N, C, H, W).

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: It cannot be read, or is of another shape.
    """
    if path.suffix.lower() == ".npy":
        return None, _read_array(path, shape)
    files = ImageFiles(path)
    try:
        names = sorted(files.names())
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("--data.root must", "it must")) from error
    if exact and (missed := [kind for kind in files.left_out if is_picture(kind)]):
        raise ValueError(
            f"{path} holds {files.left_out[missed[0]]} {missed[0]}: the archive would lack them; "
            "convert them, or take them away"
        )
    images = np.empty((len(names), *shape), np.uint8)
    for i, name in enumerate(names):
        try:
            if exact:
                with files.open(name) as file:
                    _check_file(name, file, shape)
            with files.open(name) as file:
                images[i] = decode(file, shape[0], shape[1:])
        except UnfitError:
            raise
        except Exception as error:  # a broken image can raise nearly anything
            raise ValueError(f"{path}: {name} cannot be read ({error}): remove it") from error
    tell_lines([f"{len(names):,} pictures in {path}", *files.left_out_lines()])
    return names, images


class UnfitError(ValueError):
    """A picture that a model cannot code without a loss."""


def _check_file(name: str, file: IO[bytes], shape: tuple[int, int, int]) -> None:
    """Refuses what `decode` would change: size, mode, transparency, further frames, rotation."""
    with open_picture(file) as image:
        size, mode = (image.height, image.width), image.mode
        frames = getattr(image, "n_frames", 1)
        clear = "transparency" in image.info
        turned = image.getexif().get(0x0112, 1) != 1
    modes = ("1", "L") if shape[0] == 1 else ("RGB",)
    if size != shape[1:] or mode not in modes:
        raise UnfitError(
            f"{name} is {size[0]}x{size[1]} of mode {mode}, and this model compresses "
            f"{shape[1]}x{shape[2]} of mode {modes[-1]} only: nothing is resized or converted"
        )
    for has, what in (
        (frames > 1, f"{frames} frames"),
        (clear, "a transparent colour"),
        (turned, "an EXIF orientation"),
    ):
        if has:
            raise UnfitError(f"{name} has {what}, which would be lost: save its pixels alone")


def _read_array(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # a header may claim any shape
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(f"{path} is not an .npy of numbers, or damaged") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an .npz, no .npy")
    if array.dtype != np.uint8:
        raise ValueError(f"{path} holds {array.dtype}: give uint8 from 0 to 255")
    if array.ndim == 3 and shape[0] == 1:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1:] == (*shape[1:], shape[0]) != shape:
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1:] != shape or not len(array):
        raise ValueError(f"{path} is of shape {array.shape}: the model takes N x {_by(shape)}")
    return np.array(array, order="C")


def _by(shape: Any) -> str:
    return "x".join(map(str, shape))


def grey_levels(images: np.ndarray, levels: int) -> Tensor:
    """Grey levels of images in 0..255 that have exactly these levels, int64.

    Raises:
        ValueError: A pixel lies between two levels.
    """
    grey = np.rint(images * ((levels - 1) / 255)).astype(np.int64)
    back = np.rint(grey * (255 / (levels - 1)))
    if (back != images).any():
        wrong = int(images[back != images][0])
        raise ValueError(f"a pixel is {wrong}, which is none of this model's {levels} grey levels")
    return torch.from_numpy(grey)
