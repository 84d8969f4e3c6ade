"""The small arrays of a picture as a file without pickles: families make them, reports draw them.

A figure is a kind, which says how it is drawn, arrays by name, and words: titles of axes, names of
rows, texts of points.

| kind | arrays | words |
|---|---|---|
| images | images (rows, columns, C, H, W) uint8 | rows, columns: names |
| field | real (N, 2), fake (M, 2), x (m,), y (n,), values (n, m) | values |
| estimates | values, errors, shape (N,) each | x, y, limit |
| bars | values (N,) or (groups, N) | names, groups, x, y |
| lines | x (N,), one array (N,) more for each line | x, y, log |
| heatmap | values (n, m) | rows, columns, x, y, value |
| histograms | an array (N,) for each group | x, marks |
| points | xy (N, 2), group (N,) int | texts, groups |
"""

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from zoo.files import replacing

Kind = Literal["images", "field", "estimates", "bars", "lines", "heatmap", "histograms", "points"]
_BYTES = 64 * 2**20  # unpacked
_ABOUT = "about"


@dataclass(frozen=True)
class Figure:
    """What a picture is drawn from.

    Args:
        kind: How it is drawn.
        title: What it shows.
        arrays: Its arrays.
        note: How to read it, in a sentence.
        words: Its words.
    """

    kind: Kind
    title: str
    arrays: dict[str, NDArray[Any]]
    note: str = ""
    words: dict[str, Any] = field(default_factory=dict)


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as .npz; floats in single precision."""
    about = [figure.kind, figure.title, figure.note, figure.words]
    arrays = {
        name: array.astype(np.float32) if array.dtype.kind == "f" else array
        for name, array in figure.arrays.items()
    }
    arrays[_ABOUT] = np.array(json.dumps(about))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_figure(path: Path) -> Figure:
    """The figure of a file.

    Raises:
        ValueError: It is none.
    """
    try:
        if not path.is_file():  # a FIFO would never end
            raise ValueError("it is no regular file")
        with zipfile.ZipFile(path) as packed:
            if sum(item.file_size for item in packed.infolist()) > _BYTES:
                raise ValueError("it is too large")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        kind, title, note, words = json.loads(str(arrays.pop(_ABOUT)))
        if kind not in get_args(Kind) or not isinstance(words, dict):
            raise ValueError(f"there is no kind {kind!r}")
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(f"{path} is no figure of a run ({error}): remove it") from error
    return Figure(kind, str(title), arrays, str(note), words)
