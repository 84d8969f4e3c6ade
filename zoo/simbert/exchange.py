"""The formats that go in and out of each model of this room."""

from collections.abc import Callable
from typing import Any

from zoo.simbert.interchange import Exporter, generator, to_transformers
from zoo.simbert.interchange_sentences import (
    from_bert,
    from_sentence_transformers,
    to_sentence_transformers,
)

_OUT: dict[str, Exporter] = {
    "transformers": to_transformers,
    "sentence-transformers": to_sentence_transformers,
}
EXPORTERS = dict.fromkeys(("SimBERT", "RoFormerSim", "SentenceSimilarity"), _OUT)
IMPORTERS: dict[str, dict[str, Callable[..., Any]]] = {
    "SimBERT": {"simbert": generator("learned")},
    "RoFormerSim": {"roformer-sim": generator("rotary")},
    "SentenceSimilarity": {"sentence-transformers": from_sentence_transformers, "bert": from_bert},
}
