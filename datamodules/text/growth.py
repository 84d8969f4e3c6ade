"""How much longer a tokenizer may make a text, before it makes any."""

import base64
import json
from math import prod
from typing import Any

MOST = 1000


def check_growth(tokenizer: Any) -> float:
    """The most characters that a tokenizer of the library `tokenizers` may make of one.

    Raises:
        ValueError: They are more than `MOST`, to which no script leads: a ligature has 18.
    """
    parts = {
        "normalizer and pre_tokenizer make": (tokenizer.normalizer, tokenizer.pre_tokenizer),
        "decoder makes": (tokenizer.decoder,),
    }
    most = 1.0
    for what, made_of in parts.items():
        found = prod(_growth(json.loads(part.__getstate__())) for part in made_of if part)
        if found > MOST:
            raise ValueError(
                f"its {what} a text up to {found:.3g} times as long, as no tokenizer needs "
                f"(the most is {MOST})"
            )
        most = max(most, found)
    return most


def _growth(part: dict[str, Any]) -> float:
    match part:
        case {"type": "Sequence", **inner}:
            listed = next(found for found in inner.values() if isinstance(found, list))
            return prod(map(_growth, listed))
        case {"type": "Prepend", "prepend": more}:
            return 1 + len(more)
        case {"type": "Replace", "pattern": {"String": old}, "content": new} if old:
            return max(1, len(new) / len(old))
        case {"type": "Replace", "content": new}:  # of nothing, between any two characters
            return 1 + len(new)
        case {"type": "Precompiled", "precompiled_charsmap": packed}:
            table = base64.b64decode(packed)
            strings = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")
            return max(1, *(len(string.decode(errors="replace")) for string in strings))
        case {"type": "ByteLevel"}:
            return 4
        case {"type": "Metaspace"}:
            return 2
    return 1
