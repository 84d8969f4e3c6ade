"""What the symbols of a text are, and their numbers: words, characters or bytes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Level = Literal["word", "wordpunct", "char", "byte"]
END, UNKNOWN = "</s>", "<unk>"
_WORDPUNCT = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_NO_SPACE_BEFORE = re.compile(r" ([.,;:!?%)\]}])")


def check_level(level: str) -> None:
    """Raises ValueError if there is no such level."""
    if level not in get_args(Level):
        raise ValueError(f"level={level!r}: choose one of {', '.join(get_args(Level))}")


def split(text: str, level: Level) -> Sequence[str]:
    """The symbols of a text that is no longer bytes."""
    if level == "word":
        return text.split()
    return _WORDPUNCT.findall(text) if level == "wordpunct" else text


class Vocabulary:
    """Symbols and their numbers.

    Number 0 is the end of a sentence, `</s>`, and number 1 what is not in the vocabulary, `<unk>`;
    text that holds the word `<unk>` itself, as the Penn Treebank does, means this one. At byte
    level number b is byte b, 256 is the end, and nothing is unknown.

    Args:
        level: word splits at white space (text with spaces between words and punctuation, as the
            Penn Treebank has it); wordpunct also parts words from punctuation; char is a Unicode
            character a symbol; byte a byte of UTF-8.
        symbols: All symbols in the order of their numbers; not given at byte level.

    Raises:
        ValueError: Symbols are double, or do not begin with `</s>` and `<unk>`.
    """

    def __init__(self, level: Level, symbols: Sequence[str] = ()) -> None:
        check_level(level)
        self.level = level
        if level == "byte":
            symbols = [*map(chr, range(256)), END]
        elif tuple(symbols[:2]) != (END, UNKNOWN) or len(set(symbols)) != len(symbols):
            raise ValueError(f"a vocabulary begins with {END} and {UNKNOWN}, each symbol once")
        self.symbols = list(symbols)
        self._number = {symbol: i for i, symbol in enumerate(self.symbols)}
        self.end = self._number.pop(END)
        self.unknown = self._number.get(UNKNOWN)

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vocabulary):
            return NotImplemented
        return (self.level, self.symbols) == (other.level, other.symbols)

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(
        cls, texts: Iterable[str], level: Level, *, size: int | None = None, min_count: int = 1
    ) -> "Vocabulary":
        """The vocabulary of training text: by falling count, equal counts by symbol.

        Args:
            texts: The text, in parts.
            level: As for the class.
            size: Most symbols to keep, `</s>` and `<unk>` among them; all if not given.
            min_count: Least count of a symbol to keep.
        """
        if level == "byte":
            return cls(level)
        counts = Counter[str]()
        for text in texts:
            counts.update(split(text, level))
        for special in (END, UNKNOWN):
            counts.pop(special, None)
        kept = sorted((-count, symbol) for symbol, count in counts.items() if count >= min_count)
        room = None if size is None else max(size - 2, 0)
        return cls(level, [END, UNKNOWN, *(symbol for _, symbol in kept[:room])])

    def pack(self) -> bytes:
        """The symbols as they are kept with a model's weights."""
        symbols = [] if self.level == "byte" else self.symbols
        return json.dumps([self.level, *symbols]).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> "Vocabulary":
        """The vocabulary that `pack` wrote."""
        level, *symbols = json.loads(packed)
        return cls(level, symbols)

    @cached_property
    def _by_code(self) -> NDArray[np.int64]:
        """The symbol of each character code; the last is that of all greater codes."""
        number_of = {ord(s): n for s, n in self._number.items() if len(s) == 1}
        table = np.full(max(number_of, default=0) + 2, self.unknown, np.int64)
        table[list(number_of)] = list(number_of.values())
        return table

    def encode(self, text: str) -> NDArray[np.int64]:
        """Numbers of the text's symbols; no end is added."""
        if self.level == "byte":
            return np.frombuffer(text.encode(errors="surrogateescape"), np.uint8).astype(np.int64)
        if self.level == "char":
            codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
            numbers: NDArray[np.int64] = self._by_code.take(codes, mode="clip")
            return numbers
        number_of, unknown = self._number, self.unknown
        return np.array([number_of.get(s, unknown) for s in split(text, self.level)], np.int64)

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of these numbers up to the first end; broken UTF-8 is replaced."""
        kept = []
        for number in numbers:
            if number == self.end:
                break
            kept.append(int(number))
        if self.level == "byte":
            return bytes(kept).decode(errors="replace")
        symbols = [self.symbols[number] for number in kept]
        if self.level == "char":
            return "".join(symbols)
        text = " ".join(symbols)
        return _NO_SPACE_BEFORE.sub(r"\1", text) if self.level == "wordpunct" else text
