"""Verbs that need a model but no Trainer; the docstrings are their help."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data.protocols import HasPictures, HasSampler, HasSamples, WritesLines
from zoo.files import beside, check_no_run, keep_read, replacing, replacing_folder
from zoo.layers.counter_rng import normal
from zoo.loading import (
    build,
    device_of,
    find_checkpoint,
    load,
    read_checkpoint,
    save_pretrained,
    write_pretrained,
    zoo_name,
)
from zoo.memory import check_grid, check_items
from zoo.ranges import (
    Count,
    Finite,
    Seed,
    Share,
    Temperature,
    Whole,
    check_ranges,
    number_hints,
)
from zoo.registry import MODELS, nearest
from zoo.sources import open_source
from zoo.training.distributed import place
from zoo.training.grid import make_grid_png, picture_of_points
from zoo.training.parts import in_parts
from zoo.tuning.inference import Work, in_precision


def sample(
    ckpt: str,
    *,
    n: Count = 64,
    out: str | None = None,
    steps: Count | None = None,
    sampler: str | None = None,
    spacing: str | None = None,
    eta: Share | None = None,
    labels: list[Whole] | None = None,
    guidance: Finite | None = None,
    temperature: Temperature | None = None,
    kind: str | None = None,
    pixels: str | None = None,
    data: str | None = None,
    root: str | None = None,
    seed: Seed = 0,
    batch_size: Count = 64,
    columns: Count | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["32", "bf16", "auto"] = "32",
) -> None:
    """Draws images from a checkpoint into one PNG grid, or writes a text model's sentences.

    A seed gives the same samples whatever the batch size. Several processes share the batches under
    torchrun; those that are done are kept beside the output until all are, and a command that is
    given again goes on from there.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        n: Number of samples.
        out: The PNG to write, samples.png if not given; of a text model the text file, and if not
            given, or -, the sentences are printed.
        steps: Sampling steps; the model's own number by default. Of interpolation and traversals:
            images on a path; of a manifold: its side.
        sampler: dpmpp, ancestral or ddim; the model's own by default. What a paper's numbers were
            drawn with is --sampler ancestral, which takes all steps.
        spacing: Which steps: leading, trailing, linspace, quadratic or logsnr.
        eta: Noise of ddim and dpmpp, 0 (none) to 1.
        labels: Classes to draw, repeated to n images, for a class-conditional model.
        guidance: Classifier-free guidance scale; 1 is none.
        temperature: Temperature of a text model's words; 0 takes the likeliest.
        kind: What to show of a VAE: prior (the default), reconstructions, interpolation,
            traversals or manifold.
        pixels: mean of a VAE's pixels (the default), or a draw of them.
        data: Images that reconstructions start from: a folder, a .zip or an .npy of them, or a data
            set such as MNIST, whose test images are taken; that of the run by default.
            Interpolations and traversals start from it too, if it is named.
        root: Folder of that data, if it is another than the run's.
        seed: Seed of the noise.
        batch_size: Samples at a time.
        columns: Images in a row of the grid, at most all of them.
        device: Where to compute; auto takes a GPU if there is one.
        precision: Precision of the network; the sampler's state is float32. auto takes precision,
            memory format and threads as measured on this machine (zoo tune), now if not before.
    """
    given = {name: value for name, value in locals().items() if name not in ("out", "columns")}
    keep_read("--out", out, ckpt, data)
    where = device_of(device)
    model = load(ckpt).to(where)
    writes = model.generate_text if isinstance(model, WritesLines) else None
    file = Path(out or "samples.png")
    if not writes and file.suffix.lower() != ".png":
        raise ValueError(f"--out must name a .png file, not {out!r}")
    asked = {
        "steps": steps,
        "sampler": sampler,
        "spacing": spacing,
        "eta": eta,
        "guidance": guidance,
        "temperature": temperature,
        "pixels": pixels,
        "labels": labels or None,
    }
    options: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    if kind not in (None, "prior"):
        _check_kind(kind, [*options.keys() - {"steps"}] + ["precision"] * (precision != "32"))
        if place()[0]:
            return  # the first process makes them
        if not isinstance(model, HasPictures):
            raise ValueError(f"{type(model).__name__} has no --kind {kind}")
        check_grid(f"--n={n} --steps={steps or 1}", model, n * (steps or 1))
        real = None
        if kind == "reconstructions" or data or root:
            source = open_source(model, ckpt, data, root, "test")
            real = next(source.batches(n, n, where)).images
        images, width = model.pictures(kind, n=n, steps=steps, seed=seed, images=real)
        path = make_grid_png(_finite(images).float().cpu(), file, columns=columns or width)
        print(f"{kind} in {path}")
        return
    if (given_data := data or root) is not None:
        raise ValueError(
            f"--{'data' if data else 'root'} {given_data}: samples start from no images; leave it "
            "out, or give --kind reconstructions, interpolation or traversals"
        )
    if not writes and not isinstance(model, HasSamples):
        raise ValueError(f"{type(model).__name__} does not make images")
    draw: Any = writes or model.sample
    for name in options:
        if name not in inspect.signature(draw).parameters:
            raise ValueError(f"{type(model).__name__} has no --{name}")
    at_once = min(n, batch_size)
    work = sample_work(at_once)
    if not writes:
        check_grid(f"--n={n}", model, n)
        check_items(f"--batch_size={batch_size}", at_once, lambda few: work.run(model, few))
    own_bar = n <= batch_size and "progress" in inspect.signature(draw).parameters

    def make(first: int, stop: int) -> Any:
        more: dict[str, Any] = {"progress": True} if own_bar else {}
        if labels:
            chosen = [labels[i % len(labels)] for i in range(first, stop)]
            more["labels"] = torch.tensor(chosen, device=where)
        drawn = draw(stop - first, seed=seed, first=first, **(options | more))
        return drawn if writes else drawn.float().cpu()

    if writes and precision == "auto":
        raise ValueError("--precision auto: is for images; name a precision")
    target = out if writes else file
    with (
        in_precision(model, precision, work) as setting,
        in_parts(
            target,
            make,
            n,
            batch_size,
            given | {"ckpt": find_checkpoint(ckpt), "precision": setting.precision},
        ) as batches,
    ):
        if writes:
            _write_lines(batches, out)
            return
        grid = _finite(torch.cat(list(batches)))
        if grid.shape[1:] == (2,):
            print(f"{n} points in {make_grid_png(picture_of_points(grid), file)}")
            return
        how = ""
        if isinstance(model, HasSampler):
            told = {key: value for key, value in options.items() if key != "labels"}
            how = f" ({model.sampler_protocol(**told)})"
        print(f"{n} images in {make_grid_png(grid, file, columns=columns)}{how}")


def _check_kind(kind: str, given: list[str]) -> None:
    """Raises ValueError if options of samples are given for what is none."""
    for name in given:
        raise ValueError(f"--{name} means nothing with --kind {kind}: leave it out")


def sample_work(items: int) -> Work:
    """What `zoo sample` does for so many images: of a sampler with steps, the network once."""

    @torch.no_grad()
    def run(model: Any, n: int) -> Tensor:
        stepwise = isinstance(model, HasSampler)
        if not stepwise:
            return model.sample(n, seed=0)
        index = torch.arange(n, device=model.device)
        return model(normal(0, index, 0, model.shape), index * model.hparams["timesteps"] // n)

    return Work("sample", run, items)


def _finite(images: Tensor) -> Tensor:
    """The images, unless they hold what no picture shows."""
    if not images.isfinite().all():
        raise ValueError(
            "the samples hold NaN or infinity: their weights may, or --guidance is too large"
        )
    return images


def _write_lines(batches: Iterable[list[str]], out: str | None) -> None:
    """Prints lines as they come, or writes them to a file."""
    if out is None:
        for lines in batches:
            print("\n".join(lines), flush=True)
        return
    count = 0
    with replacing(out) as path, path.open("w", encoding="utf-8") as file:
        for lines in batches:
            file.writelines(f"{line}\n" for line in lines)
            count += len(lines)
    print(f"{count} lines in {out}", file=beside(out))


def export(
    ckpt: str,
    folder: str,
    *,
    format: str = "zoo",
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    options: dict[str, Any] | None = None,
) -> None:
    """Writes a checkpoint's averaged weights for others to use.

    Args:
        ckpt: A .ckpt file, a run directory, an exported folder or a model's name.
        folder: Folder to write; made if it is not there.
        format: zoo (model.safetensors and config.json), or one of the model's own, such as
            diffusers.
        dtype: Numbers of the file, of format zoo: half as long in float16, and float32 again where
            it is loaded.
        options: What a format can do, such as --options.drop_variance true of diffusers.
    """
    check_no_run(folder)
    model = load(ckpt)
    notes: list[str] = []
    if format == "zoo":
        if options:
            raise ValueError(f"format zoo has no option {next(iter(options))!r}")
        config = read_checkpoint(find_checkpoint(ckpt), keys=()).get("zoo_config")
        save_pretrained(model, folder, dtype=dtype, config=config)
    elif dtype != "float32":
        raise ValueError(f"--dtype {dtype} is of format zoo: leave it out with {format}")
    else:
        name = zoo_name(model)
        formats = _exchange(name, "EXPORTERS")
        if format not in formats:
            raise ValueError(
                f"{name} has no format {format!r}: {nearest(format, ['zoo', *formats])}"
            )
        write = formats[format]
        with replacing_folder(folder) as temporary, _options_of(format, write, options):
            told = write(dict(model.hparams), model.state_dict(), temporary, **(options or {}))
        notes = [note.replace(str(temporary), folder) for note in told or []]
    print("\n".join([f"written to {folder}", *notes]))


def import_(
    source: str, folder: str, *, format: str, options: dict[str, Any] | None = None
) -> None:
    """Reads foreign weights into a folder that every verb takes as a checkpoint.

    Args:
        source: The foreign file or folder.
        folder: Folder to write; made if it is not there.
        format: Layout of the source, such as diffusers, pesser or openai.
        options: What the source does not tell, such as --options.image_size 32.
    """
    formats = {
        name: (model, importer)
        for model in MODELS
        for name, importer in _exchange(model, "IMPORTERS").items()
    }
    if format not in formats:
        raise ValueError(f"there is no format {format!r}: {nearest(format, formats)}")
    if not Path(source).exists():
        raise FileNotFoundError(f"no such file or folder: {source}")
    name, importer = formats[format]
    try:
        with _options_of(format, importer, options):
            hparams, state_dict = importer(Path(source), **(options or {}))
    except OSError:
        raise
    except Exception as error:  # tensors and fields of any kind lead to errors of any kind
        said = " ".join(str(error).split())[:300]
        where = "" if source in said else f"{source}: "
        what = "" if isinstance(error, ValueError) else f"not of format {format}: "
        raise ValueError(f"{where}{what}{said or type(error).__name__}") from error
    build(f"zoo.{name}", hparams, state_dict, Path(source))  # refuses what does not fit
    write_pretrained(f"zoo.{name}", hparams, state_dict, folder)
    print(f"written to {folder}")


@contextmanager
def _options_of(
    format: str, function: Callable[..., Any], options: dict[str, Any] | None
) -> Iterator[None]:
    """Tells of an option out of its range, missing, or that there is not.

    Of the last two Python says TypeError.
    """
    given = options or {}
    for name, hint in number_hints(function).items():
        if hint is bool and not isinstance(given.get(name, False), bool):
            raise ValueError(f"--options.{name}={given[name]!r}: true or false?")
    check_ranges(function, given, "--options.")
    try:
        yield
    except TypeError as error:
        if "keyword" not in str(error):
            raise
        said = str(error).rsplit("()", 1)[-1].strip().replace("keyword-only argument", "--options")
        raise ValueError(f"format {format}: {said}") from error


def _exchange(model: str, table: str) -> dict[str, Any]:
    """Functions by format, of the tables of a family."""
    module = MODELS[model].exchange
    return getattr(importlib.import_module(module), table)[model] if module else {}
