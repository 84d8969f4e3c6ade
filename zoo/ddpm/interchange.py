"""Exchange of DDPM's weights with other libraries, by format name.

An exporter is called as `f(hparams, state_dict, folder)`, an importer as `f(path, **options)` and
returns `(hparams, state_dict)`; hparams are keyword arguments of `zoo.DDPM`, and the state dict has
the keys of `zoo.ddpm.unet.UNet`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.ddpm.interchange_diffusers import from_diffusers, to_diffusers
from zoo.ddpm.interchange_openai import from_openai
from zoo.ddpm.interchange_pesser import from_pesser

EXPORTERS: dict[str, Callable[[Mapping[str, Any], Mapping[str, Tensor], Path], None]] = {
    "diffusers": to_diffusers,
}

IMPORTERS: dict[str, Callable[..., tuple[dict[str, Any], dict[str, Tensor]]]] = {
    "diffusers": from_diffusers,
    "pesser": from_pesser,
    "openai": from_openai,
}

__all__ = ["EXPORTERS", "IMPORTERS", "from_diffusers", "from_openai", "from_pesser", "to_diffusers"]
