"""What is shown while symbols come one by one."""

import codecs
import re

from zoo.data.text.vocabulary import Subwords, Vocabulary

_NO_SPACE_BEFORE = re.compile(r"[.,;:!?%)\]}]")


class Typewriter:
    """Text of one symbol at a time.

    Args:
        vocabulary: Of the symbols.
        prompt: What they continue, which subwords are joined to.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: str = "") -> None:
        self.vocabulary = vocabulary
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._typed = vocabulary.typing() if isinstance(vocabulary, Subwords) else None
        if self._typed is not None:
            for number in vocabulary.encode(prompt):
                self._typed(int(number))

    def type(self, number: int) -> str:
        """What this symbol adds; nothing if it is the beginning of a character."""
        words = self.vocabulary
        if number == words.end:
            return "\n"
        if words.level == "byte":
            return self._bytes.decode(bytes([number]))
        if self._typed is not None:
            return self._typed(number)
        symbol = words.symbols[number]
        joined = words.level == "wordpunct" and _NO_SPACE_BEFORE.fullmatch(symbol)
        return symbol if words.level == "char" or joined else f" {symbol}"
