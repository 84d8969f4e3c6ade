"""The vocabulary that model and data must share: the checkpoint's, or the data's."""

from collections.abc import Mapping
from typing import Any, cast

from lightning.pytorch import LightningDataModule
from torch import Tensor

from zoo.cli.flags import typed
from zoo.cli.sizes import class_of, take
from zoo.data.sentences.base import SentenceData
from zoo.data.text.base import TextData
from zoo.data.text.vocabulary import Vocabulary
from zoo.loading import find_checkpoint, read_checkpoint

_SYMBOLS = ("words.symbols", "symbols")  # where models of text keep their vocabulary


def settle_symbols(
    config: Any, arguments: list[str], weights: Mapping[str, Tensor]
) -> LightningDataModule | None:
    """Gives the model as many symbols as the text has, or the text the symbols of a checkpoint.

    Args:
        config: Of the verb, with `model` and `data`; the model's vocab_size is changed in place.
        arguments: The command line.
        weights: Of the checkpoint that the model comes from; empty if there is none.

    Returns:
        The DataModule, if it had to be made and read for that.

    Raises:
        ValueError: A flag, or the checkpoint, and the data say different things.
    """
    model, kind = config.model.get("init_args"), class_of(config.data.class_path)
    if model is None or "vocab_size" not in model or not issubclass(kind, TextData | SentenceData):
        return None
    options = config.data.get("init_args")
    given = {} if options is None else dict(vars(options))
    said = f"--model.vocab_size={model['vocab_size']}"
    fixed = "model.vocab_size" in typed(arguments)
    if issubclass(kind, SentenceData):
        return None if weights else _sentences(kind(**given), model, fixed, said)
    words = packed_vocabulary(weights or weights_of(model.get("pretrained")))
    data: TextData = kind(**given)
    if words is not None:
        data.take_vocabulary(words)
    if weights:
        return data
    own = getattr(class_of(config.model.class_path), "own_symbols", 0)
    size = len(data.vocabulary) + own
    if fixed and model["vocab_size"] != size:
        raise ValueError(
            f"{said}: the data have {len(data.vocabulary)} symbols"
            + (f", with the model's own {size}" if own else "")
            + ": leave it out, it is taken from the data (--data.vocabulary_size takes fewer)"
        )
    take(model, "vocab_size", size)
    if "end" in model:
        take(model, "end", data.vocabulary.end)
    return data


def _sentences(data: SentenceData, model: Any, fixed: bool, said: str) -> SentenceData:
    """The tokens of a sentence model: those of `init`, or as many as the data have, at most its."""
    if model.get("init"):
        held = read_checkpoint(find_checkpoint(model["init"]))
        size = held.get("hyper_parameters", {}).get("vocab_size", model["vocab_size"])
        if fixed and model["vocab_size"] != size:
            raise ValueError(
                f"{said}: --model.init={model['init']} has {size} tokens: leave it out"
            )
    else:
        data.setup()
        size = len(data.vocabulary())
        if data.vocab is None:  # the most frequent characters, of which there may be fewer
            size = model["vocab_size"] if fixed else min(size, model["vocab_size"])
        elif fixed and model["vocab_size"] < size:
            raise ValueError(f"{said}: --data.vocab={data.vocab} has {size} tokens: leave it out")
        elif fixed:
            size = model["vocab_size"]
    take(model, "vocab_size", size)
    return data


def weights_of(path: str | None) -> Mapping[str, Tensor]:
    """Those of a checkpoint; none of none."""
    if path is None:
        return {}
    return cast(Mapping[str, Tensor], read_checkpoint(find_checkpoint(path))["state_dict"])


def packed_vocabulary(weights: Mapping[str, Tensor]) -> Vocabulary | None:
    """The vocabulary among the weights of a trained model of text, if it holds one."""
    for name in _SYMBOLS:
        packed = weights.get(name)
        if packed is not None and len(packed):
            try:
                return Vocabulary.unpack(packed.cpu().numpy().tobytes())
            except ValueError as error:
                raise ValueError(f"{name} of the checkpoint: {error}") from error
    return None
