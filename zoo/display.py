"""What results look like in a notebook: images as a picture, numbers and sentences as a table."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from torch import Tensor

from zoo.training.grid import grid_of, picture_of_points

if TYPE_CHECKING:
    from PIL.Image import Image

_ROWS = 20  # of a table that are shown


class Picture:
    """Images side by side, which a notebook shows.

    Args:
        image: Them, as Pillow has it.
    """

    def __init__(self, image: "Image") -> None:
        self.image = image

    def __repr__(self) -> str:
        return f"<picture of {self.image.width}x{self.image.height} pixels>"

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.image.save(file, "PNG")
        return file.getvalue()


class Table:
    """Columns of equal length, which a notebook shows; `print` aligns them.

    >>> Table({"text": ["a", "b"], "similarity": [0.5, 0.25]})
    text  similarity
    a         0.5000
    b         0.2500

    Args:
        columns: Numbers or texts by name: lists or tensors (N,).
    """

    def __init__(self, columns: Mapping[Any, Any]) -> None:
        self.columns: dict[str, list[Any]] = {
            str(name): values.tolist() if isinstance(values, Tensor) else list(values)
            for name, values in columns.items()
        }

    def to_pandas(self) -> Any:
        """The same as a pandas.DataFrame; ModuleNotFoundError where pandas is not installed."""
        import pandas

        return pandas.DataFrame(self.columns)

    def _cells(self) -> list[list[str]]:
        shown = [values[:_ROWS] for values in self.columns.values()]
        return [
            [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row]
            for row in zip(*shown, strict=True)
        ]

    def _more(self) -> str:
        count = max(map(len, self.columns.values()), default=0)
        return f"{count - _ROWS:,} more rows" if count > _ROWS else ""

    def __repr__(self) -> str:
        rows = [list(self.columns), *self._cells()]
        widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
        numbers = [isinstance((v or [""])[0], float) for v in self.columns.values()]
        lines = [
            "  ".join(
                _padded(cell, width, right)
                for cell, width, right in zip(row, widths, numbers, strict=True)
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *filter(None, [self._more()])])

    def _repr_html_(self) -> str:
        def line(cells: Sequence[str], kind: str) -> str:
            return f"<tr>{''.join(f'<{kind}>{html.escape(c)}</{kind}>' for c in cells)}</tr>"

        rows = "".join(line(row, "td") for row in self._cells())
        head = f"<thead>{line(list(self.columns), 'th')}</thead>"
        return f"<table>{head}<tbody>{rows}</tbody></table>{self._more()}"


def _width(text: str) -> int:
    """Columns of a terminal that a text takes: two for a Chinese character."""
    return sum(1 + (east_asian_width(letter) in "WF") for letter in text)


def _padded(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def show(result: Any) -> Picture | Table:
    """What a model returned, as something that a notebook shows; the result stays what it is.

    >>> import torch
    >>> show(torch.zeros(4, 1, 8, 8))
    <picture of 134x134 pixels>

    Args:
        result: Images in [-1, 1], (C, H, W), (N, C, H, W) or, laid out as they are, (rows, columns,
            C, H, W); points (N, 2); densities of `log_density`; a list of paraphrases, of tuples or
            of dicts, a row each; or a dict of columns.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(result, Tensor):
        if result.ndim == 2 and result.shape[1] == 2:
            return Picture(grid_of(picture_of_points(result)))
        if 3 <= result.ndim <= 5 and result.shape[-3] in (1, 3):
            columns = result.shape[1] if result.ndim == 5 else None
            return Picture(grid_of(result.reshape(-1, *result.shape[-3:]), columns))
        shape = tuple(result.shape)
        raise ValueError(f"a tensor {shape} is neither images (N, C, H, W) nor points (N, 2)")
    if isinstance(result, tuple) and hasattr(result, "_asdict"):
        result = result._asdict()
    if isinstance(result, Mapping):
        return Table(result)
    if not isinstance(result, Sequence) or not all(isinstance(r, tuple | dict) for r in result):
        raise ValueError(f"a {type(result).__name__} has no picture and no table")
    rows = [r if isinstance(r, dict) else _named(r) for r in result]
    return Table({name: [row.get(name, "") for row in rows] for name in rows[0]} if rows else {})


def _named(row: Any) -> dict[Any, Any]:
    return row._asdict() if hasattr(row, "_asdict") else dict(enumerate(row))
