"""Files of other implementations' weights."""

from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.untrusted import check_tensors, read_safetensors, read_torch

_NAMES = ("model.safetensors", "pytorch_model.bin", "model.pt")


def read_weights(source: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file, or of a folder that holds one."""
    if source.is_dir():
        found = [source / name for name in _NAMES if (source / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{source} has none of {', '.join(_NAMES)}")
        source = found[0]
    read = read_safetensors if source.suffix == ".safetensors" else read_torch
    weights: Any = read(source)
    for inner in ("state_dict", "model"):
        if isinstance(weights, dict) and isinstance(weights.get(inner), dict):
            weights = weights[inner]
    weights = check_tensors(weights, str(source), source.stat().st_size)
    return {key.removeprefix("module."): tensor for key, tensor in weights.items()}


class Taken:
    """Weights of a format that are taken by name, each once, so that none is forgotten."""

    def __init__(self, weights: dict[str, Tensor], what: str) -> None:
        self._left, self._what = dict(weights), what

    def take(self, name: str) -> Tensor:
        """One tensor; ValueError if it is not there."""
        if name not in self._left:
            raise ValueError(f"these are no weights of {self._what}: there is no {name}")
        return self._left.pop(name)

    def optional(self, name: str) -> Tensor | None:
        """One tensor, or None."""
        return self._left.pop(name, None)

    def done(self) -> None:
        """Raises ValueError if something is left."""
        if self._left:
            first = next(iter(self._left))
            raise ValueError(
                f"{len(self._left)} tensors do not belong to {self._what}; the first is {first}"
            )
