"""What the symbols of a text are, and their numbers: words, characters, bytes or subwords."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_args
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from zoo.data.text.growth import check_growth
from zoo.reading import decoded, parsed, read_bytes
from zoo.waiting import waiting

Level = Literal["word", "wordpunct", "char", "byte"]
_UNSEEN = ("Zs", "Zl", "Zp", "Cc", "Cf")  # categories of Unicode
END, UNKNOWN = "</s>", "<unk>"
_ENDS = (END, "<|endoftext|>", "<|end_of_text|>", "<eos>", "[SEP]", "[EOS]", "<|im_end|>")
_WORDPUNCT = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_NUMBERS = 2**16  # of symbols without a text, which nanoGPT's 16 bits can say
_NO_SPACE_BEFORE = re.compile(r" ([.,;:!?%)\]}])")


def as_level(name: str) -> Level:
    """The level of this name.

    Raises:
        ValueError: There is none.
    """
    if name not in get_args(Level):
        raise ValueError(f"level={name!r}: choose one of {', '.join(get_args(Level))}")
    return name  # type: ignore[return-value]  # one of them


def is_blank(text: str) -> bool:
    """Whether there is nothing to see: spaces, ends of lines, and marks without a width."""
    return all(category(character) in _UNSEEN for character in text)


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
        self.level: str = as_level(level)
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
        for text in waiting(texts, "count symbols", unit="texts"):
            counts.update(split(text, level))
        return cls.counted(counts, level, size=size, min_count=min_count)

    @classmethod
    def counted(
        cls, counts: Mapping[str, int], level: Level, *, size: int | None, min_count: int
    ) -> "Vocabulary":
        """The vocabulary of symbols that occur so often; arguments as of `of`."""
        known = ((-count, symbol) for symbol, count in counts.items() if count >= min_count)
        kept = sorted(pair for pair in known if pair[1] not in (END, UNKNOWN))
        room = None if size is None else max(size - 2, 0)
        if counts and not kept[:room]:
            raise ValueError(
                f"a least count of {min_count} and a size of {size or 'any'} leave no symbol of "
                "the text in the vocabulary: lower the one, or raise the other"
            )
        return cls(level, [END, UNKNOWN, *(symbol for _, symbol in kept[:room])])

    def pack(self) -> bytes:
        """The symbols as they are kept with a model's weights."""
        symbols = [] if self.level == "byte" else self.symbols
        return json.dumps([self.level, *symbols]).encode()

    @staticmethod
    def unpack(packed: bytes) -> "Vocabulary":
        """The vocabulary that `pack` wrote, or a tokenizer.json of the library `tokenizers`.

        Raises:
            ValueError: It is neither.
        """
        if packed.lstrip()[:1] == b"{":
            return Subwords(packed)
        match parsed(decoded(packed, "the vocabulary")):
            case ["number", int(size)] if 0 < size <= _NUMBERS:
                return Numbers(size)
            case [str(level), *symbols] if all(isinstance(symbol, str) for symbol in symbols):
                return Vocabulary(as_level(level), symbols)
        raise ValueError("no vocabulary that the zoo wrote")

    @staticmethod
    def read(path: str | Path) -> "Vocabulary":
        """The vocabulary of a file.

        Raises:
            ValueError: It holds none; the message names it.
        """
        try:
            return Vocabulary.unpack(read_bytes(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @cached_property
    def digest(self) -> str:
        """A hash of the symbols: of subwords the SHA-256 of their tokenizer.json."""
        return hashlib.sha256(self.pack()).hexdigest()

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
        symbols = split(text, as_level(self.level))
        return np.array([number_of.get(s, unknown) for s in symbols], np.int64)

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Numbers of each document: of words an end after each line, empty lines left out."""
        if self.level not in ("word", "wordpunct"):
            return [self.encode(text) for text in texts]
        end, encoded = np.array([self.end]), []
        for text in texts:
            lines = (self.encode(line) for line in text.split("\n") if line.strip())
            parts = [part for line in lines for part in (line, end)]
            encoded.append(np.concatenate([*parts, np.zeros(0, np.int64)]))
        return encoded

    def is_blank(self, counts: NDArray[np.int64] | None) -> bool:
        """Whether symbols that occur so often make nothing but spaces and ends of lines."""
        if counts is None:
            return False
        return is_blank(self.decode(n for n in np.flatnonzero(counts).tolist() if n != self.end))

    @property
    def ends_documents(self) -> bool:
        """Whether an end stands between documents; of words there is one after each line."""
        return self.level not in ("word", "wordpunct")

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of these numbers up to the first end; broken UTF-8 is replaced."""
        kept = []
        for number in numbers:
            if number == self.end:
                break
            kept.append(int(number))
        if kept and not 0 <= min(kept) <= max(kept) < len(self):
            raise ValueError(f"a symbol's number is from 0 to {len(self) - 1}, not {kept}"[:120])
        if self.level == "byte":
            return bytes(kept).decode(errors="replace")
        symbols = [self.symbols[number] for number in kept]
        if self.level == "char":
            return "".join(symbols)
        text = " ".join(symbols)
        return _NO_SPACE_BEFORE.sub(r"\1", text) if self.level == "wordpunct" else text


class Numbers(Vocabulary):
    """Numbers without a text, as of shards that came without their tokenizer.

    Args:
        size: How many there are; the last is taken as the end.
    """

    def __init__(self, size: int) -> None:
        self.level, self.symbols, self.end = "number", list(map(str, range(size))), size - 1
        self.unknown = None

    def pack(self) -> bytes:
        """The size, as it is kept with a model's weights."""
        return json.dumps([self.level, len(self.symbols)]).encode()

    def encode(self, text: str) -> NDArray[np.int64]:
        """The numbers that a text names.

        Raises:
            ValueError: It holds something else.
        """
        if wrong := [word for word in text.split() if word not in set(self.symbols)]:
            raise ValueError(
                f"{wrong[0]!r}: this model knows numbers below {len(self.symbols)} and no text; "
                "give its tokenizer when it is trained: --data.tokenizer FILE"
            )
        return np.array(text.split(), np.int64)

    def decode(self, numbers: Iterable[int]) -> str:
        """The numbers as text."""
        return " ".join(map(str, numbers))


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Makes of what the library says a ValueError of one line that begins with `what`."""
    try:
        yield
    except BaseException as error:  # its panics are no Exceptions
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{what}: {said}") from error


class Subwords(Vocabulary):
    """The symbols of a tokenizer.json of the library `tokenizers`, of whatever kind.

    The end is its </s>, <|endoftext|> or the like; where it has none, one more symbol.

    Args:
        packed: The file's bytes, which are kept with a model's weights.

    Raises:
        ValueError: The library cannot read it.
    """

    AROUND = 200
    """Characters around a place that decide how it is read."""
    _STEP = 2**18  # characters that are encoded at once, if they may grow to 32 times as many

    def __init__(self, packed: bytes) -> None:
        from tokenizers import Tokenizer, models

        with _reading("no tokenizer.json that can be read"):
            self.tokenizer = Tokenizer.from_str(packed.decode())
            self._growth = check_growth(self.tokenizer)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.post_processor = None  # which may repeat the text
        model = self.tokenizer.model
        if isinstance(model, models.BPE):
            model.dropout = None  # one text has one encoding
        self._drops = isinstance(model, models.BPE) and model.unk_token is None
        self._kept = {t.content for t in self.tokenizer.get_added_tokens_decoder().values()}
        self.packed, self.level = packed, "token"
        number_of = self.tokenizer.get_vocab(with_added_tokens=True)
        size = max(number_of.values(), default=-1) + 1
        if size > len(packed):  # a list of so many symbols would fill the memory
            raise ValueError(f"no tokenizer.json that can be read: a symbol of number {size - 1}")
        found = [number_of[name] for name in _ENDS if name in number_of]
        self.end = found[0] if found else size
        self.symbols = [""] * (size if found else size + 1)
        for symbol, number in number_of.items():
            self.symbols[number] = symbol
        self.unknown = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subwords) and self.packed == other.packed

    def pack(self) -> bytes:
        """The bytes of the tokenizer.json."""
        return self.packed

    def __reduce__(self) -> Any:
        return Subwords, (self.packed,)

    @property
    def _step(self) -> int:
        return int(self._STEP / max(self._growth / 32, 1))

    def _ids(self, *texts: str) -> list[list[int]]:
        """Numbers of the symbols of each text.

        Raises:
            ValueError: The library cannot encode one, as where it has no symbol for the unknown, or
                would leave characters out.
        """
        with _reading("the tokenizer cannot encode the text"):
            if self._drops and (new := set().union(*texts) - self._kept):
                if lost := sorted(filter(self._loses, new)):
                    shown = ", ".join(map(repr, lost[:5]))
                    raise ValueError(
                        f"it has no symbol for {shown} ({len(lost)} of the characters here) and "
                        "none for the unknown, and would leave them out: give one with unk_token, "
                        "byte_fallback or bytes, or take them out of the text"
                    )
                self._kept |= new
            encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [text.ids for text in encoded]

    def _loses(self, character: str) -> bool:
        """Whether the model has no symbols for what reaches it of a character."""
        normal, parts = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        text = normal.normalize_str(character) if normal else character
        pieces = [piece for piece, _ in parts.pre_tokenize_str(text)] if parts else [text]
        for piece in pieces:
            spans = [token.offsets for token in self.tokenizer.model.tokenize(piece)]
            if sum(stop - start for start, stop in spans) < len(piece.encode()):
                return True
        return False

    def encode(self, text: str, before: str = "") -> NDArray[np.int64]:
        """Numbers of the text's symbols, as they are behind what stands `before`.

        A long text is cut where that changes nothing, since the library takes a hundred times the
        memory of what it encodes.
        """
        numbers, start = [np.zeros(0, np.int64)], 0
        while start < len(text):
            context = before if start == 0 else text[max(start - self.AROUND, 0) : start]
            context = context[-self.AROUND :]
            later = range(start + self._step, len(text), self.AROUND)
            found = (self.cut(text, place) for place in later)
            stop = next((place for place in found if place is not None), len(text))
            skip = len(self._ids(context)[0]) if context else 0
            numbers.append(np.array(self._ids(context + text[start:stop])[0][skip:], np.int64))
            start = stop
        return np.concatenate(numbers)

    def cut(self, text: str, start: int) -> int | None:
        """The first place near behind `start` where a text can be cut; None where there is none.

        What stands before it has the same symbols with what follows and without. That is asked of
        the text around the place alone, which decides for all tokenizers that first part words.
        """
        around = self.AROUND
        near = range(max(start, 1), min(start + around, len(text)))
        gaps = [p for p in near if text[p].isspace() and not text[p - 1].isspace()]
        others = [p for p in near[:32] if text[p - 1 : p + 1] != "\r\n"]
        for place in (*gaps, *others):
            before = text[max(place - around, 0) : place].replace("\r\n", "\n")
            after = text[place : place + around].replace("\r\n", "\n")
            ids, longer = self._ids(before, before + after)
            if longer[: len(ids)] == ids:
                return place
        return None

    def encode_documents(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Numbers of each document, which are encoded whole and side by side."""
        if sum(map(len, texts)) > self._step:
            return [self.encode(text) for text in texts]
        return [np.array(ids, np.int64) for ids in self._ids(*texts)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of these numbers up to the first end."""
        kept = list(takewhile(lambda number: number != self.end, map(int, numbers)))
        with _reading("the tokenizer cannot decode its symbols"):
            return str(self.tokenizer.decode(kept))

    def typing(self) -> Callable[[int], str]:
        """What each next number adds to the text; nothing if it begins a character."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=True)
        return lambda number: stream.step(self.tokenizer, number) or ""
