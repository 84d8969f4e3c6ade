"""The vocabulary that model and data must share: the checkpoint's, or the data's."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from zoo.cli.sizes import class_of, take
from zoo.data.sentences.base import SentenceData
from zoo.data.text.base import TextData
from zoo.data.text.vocabulary import Vocabulary
from zoo.loading import find_checkpoint, read_checkpoint, read_exported

_FLAGS = ("--model.vocab_size", "--model.init_args.vocab_size")
_SYMBOLS = ("words.symbols", "symbols")  # where models of text keep their vocabulary


def settle_symbols(
    config: Any, arguments: list[str], checkpoint: Path | None
) -> LightningDataModule | None:
    """Gives the model as many symbols as the text has, or the text the symbols of a checkpoint.

    Args:
        config: Of the verb, with `model` and `data`; the model's vocab_size is changed in place.
        arguments: The command line.
        checkpoint: The .ckpt file or exported folder that the model comes from, if any.

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
    typed = f"--model.vocab_size={model['vocab_size']}"
    fixed = any(a.split("=")[0] in _FLAGS for a in arguments)
    if issubclass(kind, SentenceData):
        return None if checkpoint is not None else _sentences(kind(**given), model, fixed, typed)
    start = checkpoint or model.get("pretrained")
    words = None if start is None else packed_vocabulary(start)
    data: TextData = kind(**given)
    if words is not None:
        data.take_vocabulary(words)
    if checkpoint is not None:
        return data
    own = getattr(class_of(config.model.class_path), "own_symbols", 0)
    size = len(data.vocabulary) + own
    if fixed and model["vocab_size"] != size:
        raise ValueError(
            f"{typed}: the data have {len(data.vocabulary)} symbols"
            + (f", with the model's own {size}" if own else "")
            + ": leave it out, it is taken from the data (--data.vocabulary_size takes fewer)"
        )
    take(model, "vocab_size", size)
    if "end" in model:
        take(model, "end", data.vocabulary.end)
    return data


def _sentences(data: SentenceData, model: Any, fixed: bool, typed: str) -> SentenceData:
    """The tokens of a sentence model: those of `init`, or as many as the data have, at most its."""
    if model.get("init"):
        file = find_checkpoint(model["init"])
        held = read_exported(file)[1] if file.is_dir() else read_checkpoint(file)
        hparams = held if file.is_dir() else held.get("hyper_parameters", {})
        size = hparams.get("vocab_size", model["vocab_size"])
        if fixed and model["vocab_size"] != size:
            raise ValueError(
                f"{typed}: --model.init={model['init']} has {size} tokens: leave it out"
            )
    else:
        data.setup()
        size = len(data.vocabulary())
        if data.vocab is None:  # the most frequent characters, of which there may be fewer
            size = model["vocab_size"] if fixed else min(size, model["vocab_size"])
        elif fixed and model["vocab_size"] < size:
            raise ValueError(f"{typed}: --data.vocab={data.vocab} has {size} tokens: leave it out")
        elif fixed:
            size = model["vocab_size"]
    take(model, "vocab_size", size)
    return data


def packed_vocabulary(path: str | Path) -> Vocabulary | None:
    """The vocabulary that a trained model of text holds, if it holds one.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It is damaged.
    """
    file = find_checkpoint(path)
    weights = read_exported(file)[2] if file.is_dir() else read_checkpoint(file)["state_dict"]
    for name in _SYMBOLS:
        packed = weights.get(name)
        if packed is not None and len(packed):
            return Vocabulary.unpack(bytes(packed.tolist()))
    return None
