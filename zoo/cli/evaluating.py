"""`zoo evaluate`; its docstring is its help."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.described import tell_lines
from zoo.data.images.arrays import open_array
from zoo.data.images.decoding import decode, open_picture
from zoo.data.images.files import ImageFiles
from zoo.files import keep_read, replacing
from zoo.loading import device_of
from zoo.metrics.checks import checked_features
from zoo.metrics.compare import compare, protocol
from zoo.metrics.features import Extractor, load_extractor
from zoo.ranges import Count, Seed
from zoo.waiting import Bar

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


def evaluate(
    real: str,
    fake: str,
    *,
    extractor: str = "inception",
    weights: str | None = None,
    size: Count | None = None,
    batch_size: Count = 64,
    k_precision: Count = 3,
    k_density: Count = 5,
    seed: Seed = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    out: str | None = None,
) -> None:
    """Measures how near generated images are to real ones, whatever made them.

    Prints the Fréchet distance (with Inception the FID), the kernel distance KID, precision and
    recall, density and coverage, each of all images of both sets, and how they were made. Numbers
    of other counts or another extractor are not comparable.

    Args:
        real: Folder (at any depth) or .zip of images; .npy of uint8 images N x H x W, N x C x H x W
            or N x H x W x C; or .npy of features N x d of an extractor of your own.
        fake: The generated ones, in any of these forms.
        extractor: digits-net, mnist-net, fashion-net (grey images), cifar-net, inception (colour),
            or a .safetensors that zoo.metrics.train_features has written.
        weights: File of the published Inception weights, or the folder that holds it.
        size: Side of the square to which all images are cut and resized first; without it all must
            have one size.
        batch_size: Images at a time.
        k_precision: Neighbours that define a ball for precision and recall.
        k_density: Neighbours that define a ball for density and coverage.
        seed: Seed of the subsets of the kernel distance.
        device: Where it computes.
        out: File for the numbers and the protocol, as JSON.
    """
    if out is not None and Path(out).is_dir():
        raise ValueError(f"--out {out} is a folder: give a file, such as {Path(out, 'fid.json')}")
    keep_read("--out", out, real, fake)
    arrays = [_features_of(path) for path in (real, fake)]
    settings = {"k_precision": k_precision, "k_density": k_density, "seed": seed}
    network: Extractor | None = None
    given = [array is not None for array in arrays]
    if all(given):
        sets = [torch.from_numpy(np.array(array, dtype=np.float64)) for array in arrays]
        how = {"extractor": "none: features as they were given"}
    elif any(given):
        one, other = (real, fake) if given[0] else (fake, real)
        raise ValueError(f"{one} holds features and {other} images: give features of both")
    else:
        network = load_extractor(extractor, weights=weights, device=device_of(device))
        pictures = [Pictures(path, size) for path in (real, fake)]
        first, second = (p.size for p in pictures)
        if first != second:
            raise ValueError(
                f"{fake} is of {second[0]}x{second[1]} and {real} of {first[0]}x{first[1]} pixels: "
                f"--size {min(*first, *second)} brings all to one size"
            )
        sets = [p.features(network, batch_size) for p in pictures]
        resized = "" if size is None else f", cut and resized to {size}x{size} first"
        how = {"images": f"{first[0]}x{first[1]}{resized}"}
    for path, features in zip((real, fake), sets, strict=True):
        try:
            checked_features(features, width=sets[0].shape[1])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    values, missing = compare(sets[0], sets[1], **settings)
    if not values:
        raise ValueError(f"nothing can be measured: {missing}")
    counts = [len(features) for features in sets]
    how |= protocol(network, max(counts), **settings)
    how |= {"real": f"{counts[0]} of {real}", "generated": f"{counts[1]} of {fake}"}
    how |= {"left out": missing} if missing else {}
    numbers = {name: float(value) for name, value in values.items()}
    width = max(map(len, numbers))
    print("\n".join(f"{name:<{width}}  {value:.6g}" for name, value in numbers.items()), end="\n\n")
    print("\n".join(f"{key}: {value}" for key, value in how.items()))
    if out is not None:
        text = json.dumps({"metrics": numbers, "protocol": how}, indent=2, ensure_ascii=False)
        with replacing(Path(out)) as file:
            file.write_text(text + "\n", "utf-8")
        print(f"\nwritten to {out}")


def _features_of(path: str) -> np.ndarray | None:
    """The features that an .npy holds; None of images."""
    if not path.lower().endswith(".npy"):
        return None
    array = open_array(Path(path))
    if array.ndim != 2:
        return None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path} holds {array.dtype}: features are numbers")
    return array


class Pictures:
    """The images of a folder, a .zip or an .npy, read when they are needed.

    Args:
        path: Where they are.
        size: Side of the square to which they are brought, if any; else all have the first's size.

    Raises:
        FileNotFoundError: There are none.
        ValueError: What is there is no image, or not of the first's size.
    """

    def __init__(self, path: str, size: int | None) -> None:
        self.path, self.resize = path, size is not None
        self._read: Callable[[int], np.ndarray]
        if path.lower().endswith(".npy"):
            array = _images(path)
            self.count, own = len(array), array.shape[2:]
            self._read = lambda i: np.array(array[i])
            if size is not None and own != (size, size):
                raise ValueError(f"{path} is of {own[0]}x{own[1]} pixels: --size is for files")
        else:
            self._files = ImageFiles(Path(path))
            try:
                self._names = sorted(self._files.names())
            except (FileNotFoundError, ValueError) as error:
                said = str(error).replace("--data.root must", "it must")
                raise type(error)(said.replace("set --data.root to", "give")) from error
            self.count, self._read = len(self._names), self._decoded
            own = self._size_of(self._names[0])
            tell_lines([f"{self.count:,} pictures in {path}", *self._files.left_out_lines()])
        self.size: tuple[int, int] = (size, size) if size is not None else (own[0], own[1])

    def features(self, extractor: Extractor, batch_size: int) -> Tensor:
        """The features of all, (N, d), on the CPU."""
        parts = []
        with (
            ThreadPoolExecutor() as pool,
            Bar(self.path, self.count, "images") as bar,
        ):
            for start in range(0, self.count, batch_size):
                numbers = range(start, min(start + batch_size, self.count))
                images = torch.from_numpy(np.stack(list(pool.map(self._read, numbers))))
                parts.append(extractor(self._channels(images, extractor)).cpu())
                bar.update(len(numbers))
        return torch.cat(parts)

    def _channels(self, images: Tensor, extractor: Extractor) -> Tensor:
        """Grey images as colour ones where colour is asked for, and back where they are grey."""
        if extractor.channels == 3 and images.shape[1] == 1:
            return images.expand(-1, 3, -1, -1)
        if extractor.channels == 1 and images.shape[1] == 3:
            if not torch.equal(images, images[:, :1].expand_as(images)):
                raise ValueError(
                    f"{self.path} holds images in colour, and {extractor.name} is for grey ones: "
                    "give --extractor cifar-net or inception"
                )
            return images[:, :1]
        return images

    def _size_of(self, name: str) -> tuple[int, int]:
        """Height and width of a file, upright."""
        try:
            with self._files.open(name) as file, open_picture(file) as image:
                height, width = image.height, image.width
                sideways = image.getexif().get(0x0112) in _SIDEWAYS
        except Exception as error:  # a broken image can raise nearly anything
            raise self._broken(name, error) from error
        return (width, height) if sideways else (height, width)

    def _decoded(self, number: int) -> np.ndarray:
        name = self._names[number]
        if not self.resize and (own := self._size_of(name)) != self.size:
            first = f"{self._names[0]} of {self.size[0]}x{self.size[1]}"
            raise ValueError(
                f"{self.path}: {name} is of {own[0]}x{own[1]} pixels and {first}: --size "
                f"{min(*own, *self.size)} brings all to one size"
            )
        try:
            with self._files.open(name) as file:
                return decode(file, 3, self.size)
        except Exception as error:  # a broken image can raise nearly anything
            raise self._broken(name, error) from error

    def _broken(self, name: str, error: Exception) -> ValueError:
        return ValueError(f"{self.path}: {name} cannot be read ({error}): remove it")


def _images(path: str) -> np.ndarray:
    """An .npy of images as (N, C, H, W), mapped."""
    array = open_array(Path(path))
    if array.dtype != np.uint8:
        raise ValueError(
            f"{path} holds {array.dtype}: give uint8 from 0 to 255 (of images in [-1, 1], "
            "zoo.data.images.pixels.to_uint8), or features as N x d"
        )
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"{path} is of shape {array.shape}: give N x H x W, N x C x H x W or N x H x W x C"
        )
    return array
