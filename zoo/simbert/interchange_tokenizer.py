"""The vocabulary of a transformers folder, and whether its texts are split as ours are."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.data.sentences.tokenizer import Tokenizer, read_tokens
from zoo.untrusted import read_json_object

# Classes of transformers that split as BERT does, and those that do what tokenizer.json says.
_AS_BERT = re.compile(r"(Bert|DistilBert|Electra|MobileBert|RoFormer)Tokenizer(Fast)?")
_BY_FILE = ("PreTrainedTokenizerFast", "TokenizersBackend")
_USUAL = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}


def read_tokenizer(folder: Path, size: int) -> Tensor:
    """The vocabulary of a folder, of the size of the embedding, as the models keep it.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of another size, or texts are split as `encode` does not.
    """
    settings: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json_object(folder / "tokenizer_config.json")
    if (folder / "vocab.txt").is_file():
        tokens = read_tokens(folder / "vocab.txt")
    elif (folder / "tokenizer.json").is_file():
        tokens = _tokens_of_json(folder / "tokenizer.json")
    else:
        raise FileNotFoundError(f"{folder} has neither vocab.txt nor tokenizer.json")
    # A vocabulary that was simplified twice gives every token another one's embedding.
    if len(tokens) != size:
        raise ValueError(
            f"{folder}: a vocabulary of {len(tokens)} tokens for {size} embeddings: "
            "it belongs to another model"
        )
    lower = _lower(folder, settings)
    try:
        return Tokenizer(tokens, lower).get_extra_state()
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _lower(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a folder's tokenizer lower-cases, and drops accents then; nothing else may differ."""
    kind = str(settings.get("tokenizer_class") or "BertTokenizer")
    asked = {name: settings.get(name, usual) for name, usual in _USUAL.items()}
    if kind in _BY_FILE:
        content = read_json_object(folder / "tokenizer.json")
        normal, parts = (_part(content, name) for name in ("normalizer", "pre_tokenizer"))
        if (normal.get("type"), parts.get("type")) != ("BertNormalizer", "BertPreTokenizer"):
            raise ValueError(f"{folder / 'tokenizer.json'} does not split texts as BERT does")
        names = ("lowercase", "strip_accents", "handle_chinese_chars")
        asked = dict(zip(_USUAL, map(normal.get, names), strict=True))
    elif not _AS_BERT.fullmatch(kind):
        raise ValueError(f"{folder}: {kind} does not split texts as BERT does")
    lower = asked["do_lower_case"]
    if not isinstance(lower, bool):
        raise ValueError(f"{folder}: do_lower_case {lower!r:.80} is neither true nor false")
    for name, known in (("strip_accents", (None, lower)), ("tokenize_chinese_chars", (True,))):
        if asked[name] not in known:
            raise ValueError(
                f"{folder}: {name} {asked[name]!r:.80} beside do_lower_case {lower} is not "
                "supported: its texts would be split in another way"
            )
    return lower


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _tokens_of_json(path: Path) -> list[str]:
    """The vocabulary of a tokenizer.json, in the order of its numbers."""
    model = _part(read_json_object(path), "model")
    if (kind := model.get("type", "WordPiece")) != "WordPiece":
        raise ValueError(f"{path}: {kind!r:.80} does not split texts as BERT's WordPiece does")
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not all(
        isinstance(number, int) for number in vocabulary.values()
    ):
        raise ValueError(f"{path}: model.vocab has no number for each token")
    return sorted(vocabulary, key=vocabulary.__getitem__)
