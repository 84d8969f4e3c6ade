"""Exchange of RoFormer-Sim's weights: junnyu's, WangZeJun's and blmoistawinde's folders."""

from zoo.simbert.interchange import EXPORTERS, generator

IMPORTERS = {"roformer-sim": generator("rotary")}

__all__ = ["EXPORTERS", "IMPORTERS"]
