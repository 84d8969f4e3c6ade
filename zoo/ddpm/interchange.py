"""Exchange of DDPM's weights with other libraries, by format name.

An exporter is called as `f(hparams, state_dict, folder, **options)` and returns what a user must
know to use the folder, if anything; an importer as `f(path, **options)` and
returns `(hparams, state_dict)`: keyword arguments and state dict of `zoo.DDPM`. The functions
behind them have the network's own keys, which are the model's without `net.`.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.ddpm.interchange_diffusers import from_diffusers, to_diffusers
from zoo.ddpm.interchange_openai import from_openai
from zoo.ddpm.interchange_pesser import from_pesser

Exporter = Callable[..., list[str]]
Importer = Callable[..., tuple[dict[str, Any], dict[str, Tensor]]]


def _exporter(write: Exporter) -> Exporter:
    @wraps(write)
    def export(
        hparams: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path, **options: Any
    ) -> list[str]:
        own = {key.removeprefix("net."): value for key, value in state.items()}
        return write(hparams, own, folder, **options)

    return export


def _importer(read: Importer) -> Importer:
    @wraps(read)
    def load(path: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        hparams, state = read(path, **options)
        return hparams, {f"net.{key}": value for key, value in state.items()}

    return load


EXPORTERS = {"DDPM": {"diffusers": _exporter(to_diffusers)}}
IMPORTERS = {
    "DDPM": {
        "diffusers": _importer(from_diffusers),
        "pesser": _importer(from_pesser),
        "openai": _importer(from_openai),
    }
}
