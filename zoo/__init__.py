"""A PyTorch Lightning zoo of the models in eight kexue.fm posts.

`zoo.load(path)` returns a trained model, by path or by name, `zoo.save_pretrained(model, folder)`
writes one, and `zoo.list_models(pattern)` names them. `zoo.trainer(run_dir)` trains one as
`zoo fit` does, on data of `zoo.data`, and `zoo.show(result)` is what a notebook shows. All are
imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zoo.pretrained import list_models
from zoo.registry import MODELS
from zoo.version import zoo_version

if TYPE_CHECKING:
    from zoo.ddpm.module import DDPM as DDPM
    from zoo.display import show as show
    from zoo.flash.module_lm import FlashLM as FlashLM
    from zoo.flash.module_mlm import FlashMLM as FlashMLM
    from zoo.loading import load as load
    from zoo.loading import save_pretrained as save_pretrained
    from zoo.run import trainer as trainer
    from zoo.simbert.module import SimBERT as SimBERT
    from zoo.simbert.roformer_sim import RoFormerSim as RoFormerSim
    from zoo.simbert.similarity import SentenceSimilarity as SentenceSimilarity
    from zoo.vae.module import VAE as VAE
    from zoo.vae.module_vmf import VMFVAE as VMFVAE
    from zoo.vae.text.module import TextVAE as TextVAE
    from zoo.wgan.module import WGAN as WGAN

    __version__: str

__all__ = [
    "DDPM",
    "VAE",
    "VMFVAE",
    "WGAN",
    "FlashLM",
    "FlashMLM",
    "RoFormerSim",
    "SentenceSimilarity",
    "SimBERT",
    "TextVAE",
    "list_models",
    "load",
    "save_pretrained",
    "show",
    "trainer",
]


_MODULES = {name: model.module for name, model in MODELS.items()} | {
    "load": "zoo.loading",
    "save_pretrained": "zoo.loading",
    "show": "zoo.display",
    "trainer": "zoo.run",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "data":
        return importlib.import_module("zoo.data")
    if name == "__version__":
        return zoo_version()
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES, "data"])
