"""BERT's tokenizer: Chinese characters one by one, other words in pieces; kept with the weights."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.reading import decoded, parsed, read_bytes
from zoo.waiting import Bar, waiting

if TYPE_CHECKING:
    from tokenizers import Tokenizer as WordPieces

MAX_LENGTH = 64  # tokens of a sentence if nothing says otherwise, as in the posts' evaluations
PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Where a sentence may be cut, the better places first (kexue.fm/archives/7427's preprocessing).
_TOGETHER = 10_000  # texts that are tokenised at a time
_CUTS = "\n。！？!?；;，, "


class Tokenizer(nn.Module):
    """Texts to token numbers and back, as transformers' BertTokenizer does.

    It is a module without parameters so that a checkpoint holds the vocabulary: `state_dict` has it
    as bytes under `_extra_state`, whatever its length.

    Args:
        tokens: The vocabulary in order, with [PAD], [UNK], [CLS], [SEP] and [MASK] in it; none
            until they are known.
        lower: Lower-case, and drop accents.

    Raises:
        ValueError: A special token is not among the tokens, or one occurs twice.
    """

    def __init__(self, tokens: Sequence[str] = (), lower: bool = True) -> None:
        super().__init__()
        self.tokens: list[str] = []
        self.lower = lower
        self.max_length: int | None = None  # tokens at which sentences are cut, if the model says
        self._pieces: WordPieces | None = None
        if tokens:
            self.adopt(tokens, lower)

    def adopt(self, tokens: Sequence[str], lower: bool = True) -> None:
        """Takes a vocabulary.

        Raises:
            ValueError: A special token is not among the tokens, or one occurs twice.
        """
        missing = [t for t in SPECIAL if t not in set(tokens)]
        if missing:
            raise ValueError(f"the vocabulary of {len(tokens)} tokens has no {missing[0]}")
        if len(set(tokens)) < len(tokens):
            twice = Counter(tokens).most_common(1)[0][0]
            raise ValueError(f"the vocabulary of {len(tokens)} tokens has {twice!r} twice")
        self.tokens, self.lower = list(tokens), lower
        self.pad, self.unk, self.cls, self.sep, self.mask = map(self.tokens.index, SPECIAL)
        self._pieces = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens at which sentences are cut: what the model was trained with, or 64."""
        return self.max_length or MAX_LENGTH

    def get_extra_state(self) -> Tensor:
        """The vocabulary and the length as uint8, for `state_dict`."""
        content: dict[str, Any] = {"lower": self.lower, "tokens": self.tokens}
        if self.max_length is not None:
            content["max_length"] = self.max_length
        text = json.dumps(content, ensure_ascii=False)
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes the vocabulary and the length out of a `state_dict`.

        Raises:
            ValueError: They are not what `get_extra_state` writes.
        """
        try:
            content = parsed(bytes(state.cpu().tolist()).decode())
            tokens, lower = list(content["tokens"]), content["lower"]
            length = content.get("max_length")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the vocabulary of the weights is damaged: {error}") from error
        texts = all(isinstance(token, str) and token for token in tokens)
        if not texts or not isinstance(lower, bool) or not _is_length(length):
            raise ValueError("the vocabulary of the weights is damaged: a value of another type")
        if tokens:
            self.adopt(tokens, lower)
        self.max_length = length

    @property
    def pieces(self) -> "WordPieces":
        """The machine behind it, of the library `tokenizers`.

        Raises:
            ValueError: There is no vocabulary yet.
        """
        if self._pieces is None:
            from tokenizers import Tokenizer as WordPieces
            from tokenizers import decoders
            from tokenizers.models import WordPiece
            from tokenizers.normalizers import BertNormalizer
            from tokenizers.pre_tokenizers import BertPreTokenizer

            if not self.tokens:
                raise ValueError("the model has no vocabulary: train it, or give it an init")
            vocabulary = {token: i for i, token in enumerate(self.tokens)}
            pieces = WordPieces(WordPiece(vocabulary, unk_token=UNK))
            pieces.normalizer = BertNormalizer(lowercase=self.lower)
            pieces.pre_tokenizer = BertPreTokenizer()
            pieces.decoder = decoders.WordPiece()
            self._pieces = pieces
        return self._pieces

    def pieces_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers of each text, without special tokens."""
        if len(texts) <= _TOGETHER:  # an item of a batch, say, which a bar would slow down
            encoded = self.pieces.encode_batch_fast(list(texts), add_special_tokens=False)
            return [e.ids for e in encoded]
        ids: list[list[int]] = []
        with Bar("tokenise", len(texts), "texts") as bar:
            for start in range(0, len(texts), _TOGETHER):
                ids += self.pieces_of(texts[start : start + _TOGETHER])
                bar.update(len(ids) - start)
        return ids

    def fitting(self, texts: Sequence[str], room: int) -> list[str]:
        """Each text, or its beginning of no more than `room` tokens, cut as `first_piece` does."""
        fitted = []
        for text in texts:
            # A token is a character or more, but for decomposed ones, whose rows are cut later.
            whole = len(text) <= room or len(self.pieces_of([text])[0]) <= room
            length = len(text) if whole else self._characters(text, room)
            fitted.append(first_piece(text, length))
        return fitted

    def _characters(self, text: str, tokens: int) -> int:
        """How many characters of a text its first tokens are of."""
        offsets = self.pieces.encode(text, add_special_tokens=False).offsets
        return int(offsets[tokens - 1][1]) if tokens else 0

    def share_cut(self, texts: Sequence[str], max_length: int) -> float:
        """The share of the texts that have more tokens than `max_length` has room for."""
        lengths = [len(ids) for ids in self.pieces_of(texts)]
        return sum(n > max_length - 2 for n in lengths) / max(len(lengths), 1)

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """[CLS] text [SEP] of each text, at most `max_length` tokens."""
        cut = max_length - 2
        return [[self.cls, *ids[:cut], self.sep] for ids in self.pieces_of(texts)]

    def encode_masked(self, text: str, max_length: int) -> list[int]:
        """[CLS] text [SEP], where "[MASK]" in the text is the token and not six characters."""
        parts = self.pieces_of(text.split(MASK))
        ids = parts[0]
        for part in parts[1:]:
            ids = [*ids, self.mask, *part]
        return [self.cls, *ids[: max_length - 2], self.sep]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens without [CLS], [SEP], [PAD]; spaces only between words of letters."""
        text = ""
        for i in ids:
            token = self.tokens[i]
            if i in (self.pad, self.cls, self.sep):
                continue
            if token.startswith("##"):
                text += token[2:]
            elif text and _spaced(text[-1]) and _spaced(token[0]):
                text += " " + token
            else:
                text += token
        return text

    def words(self, ids: Sequence[int]) -> list[list[int]]:
        """Tokens grouped so that the pieces of a word are together; a Chinese character is one."""
        groups: list[list[int]] = []
        for i in ids:
            if groups and self.tokens[i].startswith("##"):
                groups[-1].append(i)
            else:
                groups.append([i])
        return groups


def _is_length(value: Any) -> bool:
    """Whether a value is a length that sentences can be cut at, or none."""
    return value is None or (type(value) is int and 3 <= value < 2**31)


def _spaced(character: str) -> bool:
    """Whether words that end and begin so have a space between them: letters, not Chinese."""
    return character.isalnum() and ord(character) < 0x2E80


def train_tokens(texts: Iterable[str], size: int, lower: bool = True) -> list[str]:
    """A character vocabulary of exactly `size` tokens from texts, the most frequent first.

    Characters that occur within words get a second token for the inside of a word. If there are
    fewer than `size` tokens, [unused1] and so on fill the rest.

    Args:
        texts: The corpus.
        size: Number of tokens, special ones included.
        lower: Lower-case, and drop accents.

    Raises:
        ValueError: `size` has no room for the special tokens.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    if size <= len(SPECIAL):
        raise ValueError(f"vocab_size={size}: {len(SPECIAL)} tokens are special, give more")
    normalizer, splitter = BertNormalizer(lowercase=lower), BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in waiting(texts, "build the vocabulary", unit="texts"):
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            counts[word[0]] += 1
            counts.update("##" + c for c in word[1:])
    # By count, then by code point: the same vocabulary whatever the order of the texts.
    known = sorted(counts, key=lambda t: (-counts[t], t))
    tokens = [*SPECIAL, *known[: size - len(SPECIAL)]]
    return pad_tokens(tokens, size)


def pad_tokens(tokens: Sequence[str], size: int) -> list[str]:
    """The tokens, filled to `size` with [unused1], [unused2] and so on.

    Raises:
        ValueError: There are more tokens than that.
    """
    if len(tokens) > size:
        raise ValueError(
            f"a vocabulary of {len(tokens)} tokens for a model of {size}: set "
            f"--model.vocab_size {len(tokens)}"
        )
    known = set(tokens)
    fill = (name for i in range(1, 2 * size) if (name := f"[unused{i}]") not in known)
    return [*tokens, *(next(fill) for _ in range(size - len(tokens)))]


def read_tokens(path: str | Path) -> list[str]:
    """The vocabulary of a vocab.txt, one token a line.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is empty, or it is not UTF-8.
    """
    lines = decoded(read_bytes(path), path).split("\n")
    tokens = lines[:-1] if lines[-1] == "" else lines
    tokens = [token.rstrip("\r") for token in tokens]
    if "" in tokens:
        raise ValueError(f"{path}, line {tokens.index('') + 1}: a token is empty")
    return tokens


def first_piece(text: str, length: int) -> str:
    """The longest beginning of at most `length` characters that ends at the best kind of cut.

    A text that fits is returned whole; of a longer one the sentences that fit, or the clauses of
    its first sentence that fit, or as much as fits.
    """
    text = text.strip("；;，, \n")
    for cut in _CUTS:
        if len(text) <= length:
            break
        pieces = text.split(cut)
        if len(pieces) == 1:
            continue
        taken = pieces[0]
        for piece in pieces[1:]:
            # Marks at the beginning end no sentence.
            if taken.strip(cut) and len(taken) + 1 + len(piece) > length:
                break
            taken += cut + piece
        text = taken
    return text[:length]
