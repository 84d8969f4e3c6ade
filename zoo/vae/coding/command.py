"""The verbs compress and decompress; the docstrings are their help."""

import io
import zlib
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from zoo.data.images.arrays import read_images
from zoo.data.protocols import Split
from zoo.files import keep_read, replacing, replacing_folder
from zoo.loading import find_checkpoint, load, read_checkpoint
from zoo.pretrained import pinned
from zoo.ranges import Count, Range
from zoo.sources import open_source
from zoo.vae.coding.ans import Integers, Message
from zoo.vae.coding.archive import Archive, content_digest, weights_hash
from zoo.vae.coding.bits_back import Codec

HeaderCount = Annotated[int, Range(1, 65_535)]  # what an archive's header has room for
_SEED = 0


def compress(
    ckpt: str,
    images: str,
    *,
    out: str = "images.zbb",
    root: str | None = None,
    limit: Count | None = None,
    chains: HeaderCount = 1,
    heads: HeaderCount | None = None,
    refine: Annotated[int, Range(0, 255)] = 0,
    check: bool = False,
) -> None:
    """Compresses images without loss into one file, by a VAE and bits-back coding.

    The code length is -ELBO on average, so the images should be such as the model was trained on.
    A model of black and white pixels compresses the images binarised at one half, and gives these
    back. Shown beside the size: that of PNG and of zlib for the same images.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        images: A folder or .zip of images, an .npy of uint8 images, or a split of the data that the
            checkpoint was trained on: train, val or test.
        out: The file to write.
        root: Folder of that data, where it is not the one that the checkpoint names.
        limit: Only the first so many images.
        chains: Images at a time: faster where the network is large, but every chain begins with
            random bits of its own, about 12 a latent number.
        heads: Pixels at a time, each costs about 32 bits once; by default up to 64, fewer for few
            images.
        refine: Newton steps from the encoder's posterior to one of each image's own, such as 3: the
            file is smaller, and both ways take longer.
        check: Read the file, decompress it and compare.
    """
    keep_read("--out", out, ckpt, images)
    model: Any = load(ckpt)
    grey, title = _grey(model, ckpt, images, root, limit)
    chains = min(chains, len(grey))
    heads = max(1, min(64, len(grey) // 32)) if heads is None else heads
    codec = Codec(model, chains=chains, heads=heads, refine=refine)
    message = codec.message(_SEED)
    name, kept = _weights_name(ckpt)
    archive, ideal, first = _encode(codec, model, message, grey)
    archive = archive._replace(name=name)
    path = Path(out)
    size = archive.write(path)
    if check:
        again = decode(Archive.read(path), load(ckpt), str(path))
        if not np.array_equal(again, grey):
            raise ValueError(f"{path} does not decode to the same images")
    print("\n".join(_report(codec, grey, title, message, size, ideal, first)))
    print(f"written to {path}" + (", decoded again and found equal" if check else ""))
    print(
        f"only these very weights decode it: {name} (SHA-256 {archive.weights.hex()[:16]})" + kept
    )


def decompress(ckpt: str, file: str, *, out: str = "images") -> None:
    """Writes the images of a file that `zoo compress` wrote.

    Args:
        ckpt: The model that compressed them: a .ckpt file, a run directory, an exported folder or a
            name.
        file: The file.
        out: An .npy to write, uint8 (N, C, H, W), or a new or empty folder for PNGs, numbered in
            their order.
    """
    keep_read("--out", out, ckpt, file, folder=True)
    path, target = Path(file), Path(out)
    as_array = target.suffix.lower() == ".npy"
    if not as_array and target.suffix and not target.is_dir():
        raise ValueError(f"--out {out}: give an .npy or a folder")
    if not as_array and target.exists() and not target.is_dir():
        raise ValueError(f"--out {out} is a file: give an .npy or a folder")
    if not as_array and target.is_dir() and any(target.iterdir()):
        raise ValueError(f"--out {out} is not empty: give another folder, or empty it")
    if Path(ckpt).suffix.lower() == ".zbb":
        raise ValueError(
            f"{ckpt} stands where CKPT does: zoo decompress CKPT FILE, as zoo compress"
        )
    archive = Archive.read(path)
    images = to_uint8(decode(archive, load(ckpt), file), archive.levels)
    images = images.reshape(-1, *archive.shape)
    if as_array:
        with replacing(target) as temporary, temporary.open("wb") as opened:
            np.save(opened, images)
    else:
        width = len(str(len(images) - 1))
        with replacing_folder(target) as folder:
            for i, image in enumerate(images):
                _picture(image).save(folder / f"{i:0{width}d}.png")
    print(f"{len(images)} images in {target}")


def decode(archive: Archive, model: Any, name: str) -> Integers:
    """Grey levels (N, C H W) of an archive.

    Args:
        archive: The archive.
        model: The model that made it.
        name: Name of the file, for messages.

    Raises:
        ValueError: It is another model, or another machine to the last bit.
    """
    if (ours := weights_hash(model)) != archive.weights:
        source = f", those of {archive.name}" if archive.name else ""
        theirs = archive.weights.hex()[:16]
        raise ValueError(
            f"{name} was compressed with other weights{source} (SHA-256 {theirs}) than this "
            f"model's ({ours.hex()[:16]}): they have been trained on, or it is another model"
        )
    codec = Codec(model, chains=archive.chains, heads=archive.heads, refine=archive.refine)
    _compare(archive, codec, name)
    differs = (
        "this machine or this PyTorch computes other probabilities than the one that compressed "
        f"{name} (PyTorch {archive.torch_version} there, {torch.__version__} here): decode it there"
    )
    if codec.check() != archive.check:
        raise ValueError(differs)
    try:
        message = Message.from_bytes(archive.message, (codec.chains, codec.heads), archive.seed)
    except ValueError as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    parts: list[Integers] = []  # as they come: no room is made for what the header promises
    starts = range(0, archive.number, archive.chains)
    for start in tqdm(reversed(starts), "decompress", len(starts), unit="step", disable=None):
        parts.append(codec.decode(message, min(archive.chains, archive.number - start)))
        if message.drawn:
            raise ValueError(
                f"{name} is damaged: its message ends after {sum(map(len, parts)):,} of "
                f"{archive.number:,} images"
            )
    grey = np.concatenate(parts[::-1])
    if not message.is_spent() or not archive.matches(grey):
        raise ValueError(
            f"{name} does not decode to what was compressed: it is damaged, or {differs}"
        )
    return grey


def _compare(archive: Archive, codec: Codec, name: str) -> None:
    """Refuses an archive whose header is not of this model's images."""
    for what, theirs, ours in (
        ("images of shape", archive.shape, codec.shape),
        ("grey levels", archive.levels, codec.levels),
        ("heads", archive.heads, codec.heads),
    ):
        if theirs != ours:
            raise ValueError(
                f"{name} is damaged: it says {what} {theirs}, and its model has {ours}"
            )


def _weights_name(ckpt: str) -> tuple[str, str]:
    """Where a model's weights are, and what to mind where they may change."""
    file = find_checkpoint(ckpt)
    if file.is_dir():
        return (str(file) if Path(ckpt).exists() else pinned(ckpt)), ""
    step = read_checkpoint(file, keys=()).get("global_step")
    changes = file.name in ("last.ckpt", "best.ckpt")
    kept = f"; training on overwrites {file}: zoo export {ckpt} DIR keeps them" if changes else ""
    return f"{file} at step {step}", kept


def to_uint8(grey: Integers, levels: int) -> NDArray[np.uint8]:
    """Grey levels as 0..255."""
    scaled: NDArray[np.uint8] = np.rint(grey * (255 / (levels - 1))).astype(np.uint8)
    return scaled


def grey_levels(images: Integers, levels: int) -> Integers:
    """Grey levels of images in 0..255 that have exactly these levels, the inverse of `to_uint8`.

    Raises:
        ValueError: A pixel lies between two levels.
    """
    grey: Integers = np.rint(images * ((levels - 1) / 255)).astype(np.int64)
    between = images[to_uint8(grey, levels) != images]
    if len(between):
        raise ValueError(
            f"a pixel is {between[0]}, which is none of this model's {levels} grey levels"
        )
    return grey


def _grey(
    model: Any, ckpt: str, images: str, root: str | None, limit: int | None
) -> tuple[Integers, str]:
    """Grey levels (N, C H W) of what is to be compressed, and what it is."""
    levels = Codec(model).levels
    splits: tuple[Split, ...] = get_args(Split)
    split = next((name for name in splits if name == images), None)
    if split and not Path(images).exists():
        source = open_source(model, ckpt, None, root, split)
        batches = source.batches(1024, limit, torch.device("cpu"))
        stored = model.levels
        x = torch.cat([batch.images for batch in batches])
        values, title = ((x.double() + 1) * ((stored - 1) / 2)).round().long().numpy(), source.title
    else:
        path = Path(images)
        if not path.exists():
            raise FileNotFoundError(
                f"{images} is no folder, .zip or .npy, nor a split ({', '.join(splits)})"
            )
        _, pixels = read_images(path, tuple(model.shape), exact=True)
        stored, values, title = 256, pixels[:limit].astype(np.int64), f"images in {images}"
    values = values.reshape(len(values), -1)
    if levels == 2:
        if stored > 2:
            title += ", binarised at one half"
        return (2 * values >= stored - 1).astype(np.int64), title
    if stored != levels:
        values = grey_levels(values, levels)
    return values, title


def _encode(
    codec: Codec, model: Any, message: Message, grey: Integers
) -> tuple[Archive, float, tuple[int, float, int]]:
    """The archive, and where the message was after the first images: a tenth, at most 100.

    Returns:
        The archive; -ELBO of the draws after those images, in bits; and these images, the content
        of the message and its random words when they were coded.
    """
    ideal, first = 0.0, (0, message.content, 0)
    early = min(100, len(grey) // 10)
    starts = range(0, len(grey), codec.chains)
    for start in tqdm(starts, "compress", unit="step", disable=None):
        batch = grey[start : start + codec.chains]
        bits = float(codec.encode(message, batch).sum())
        if start + len(batch) <= early:
            first = (start + len(batch), message.content, message.drawn)
        else:
            ideal += bits
    weights = weights_hash(model)
    archive = Archive(
        shape=codec.shape,
        levels=codec.levels,
        number=len(grey),
        chains=codec.chains,
        heads=codec.heads,
        seed=_SEED,
        check=codec.check(),
        digest=content_digest(grey, codec.shape, codec.levels, weights),
        weights=weights,
        torch_version=torch.__version__,
        message=message.to_bytes(),
        version=3 if codec.refine else 2,
        refine=codec.refine,
    )
    return archive, ideal, first


def _report(
    codec: Codec,
    grey: Integers,
    title: str,
    message: Message,
    size: int,
    ideal: float,
    first: tuple[int, float, int],
) -> list[str]:
    """What is printed: sizes in bytes and bits a dimension."""
    n, pixels = len(grey), codec.pixels
    images = to_uint8(grey, codec.levels).reshape(-1, *codec.shape)

    def line(name: str, size: float) -> str:
        return f"{name:<34}{size:>12,.0f} bytes  {8 * size / (n * pixels):.4f} bits/dim"

    early, content, drawn = first
    later = message.content - content - 32 * (message.drawn - drawn)
    bits = later / ((n - early) * pixels)
    minus_elbo = ideal / ((n - early) * pixels)
    begun = (31 * message.heads.size + 32 * message.drawn) / 8
    packed = np.packbits(grey.astype(np.uint8)) if codec.levels == 2 else grey.astype(np.uint8)
    return [
        f"{n} {title}, {codec.levels} levels:",
        line("bits-back, the whole file", size),
        f"  of them random bits to begin with {begun:>12,.0f} bytes",
        f"  after the first {early} images: {bits:.4f} bits/dim; -ELBO of the same draws "
        f"{minus_elbo:.4f}, {100 * (bits / minus_elbo - 1):+.2f} %",
        line("PNG, a file an image", sum(_png_size(image) for image in images)),
        line("PNG, one tall image", _png_size(np.concatenate(list(images), axis=1))),
        line(
            "zlib -9" + (", 8 pixels a byte" if codec.levels == 2 else ""),
            len(zlib.compress(packed.tobytes(), 9)),
        ),
    ]


def _picture(image: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def _png_size(image: NDArray[np.uint8]) -> int:
    picture = _picture(image)
    if len(image) == 1 and not np.isin(image, (0, 255), invert=True).any():
        picture = picture.convert("1")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.tell()
