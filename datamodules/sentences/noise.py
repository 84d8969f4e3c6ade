"""Noise on a source text as BART's and BERT's: whole words masked, kept or replaced."""

import importlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from zoo.data.sentences.tokenizer import Tokenizer

Segmenter = Callable[[str], Sequence[str]]
_MASKED, _KEPT, _REPLACED = 0.12, 0.135, 0.15  # bounds of the draw of a word (8454's code)


def segmenter(name: str | None) -> Segmenter | None:
    """A function that cuts a text into words, or None for spans of characters.

    Args:
        name: jieba, or nothing.

    Raises:
        ValueError: There is no such segmenter, or it is not installed.
    """
    if not name:
        return None
    if name != "jieba":
        raise ValueError(f"segmenter={name!r}: give jieba, or leave it out for character spans")
    try:
        jieba: Any = importlib.import_module("jieba")
    except ModuleNotFoundError as error:
        raise ValueError("segmenter=jieba: pip install jieba, or leave it out") from error
    jieba.setLogLevel(60)
    return jieba.lcut


def words_of(
    text: str, tokenizer: Tokenizer, cut: Segmenter | None, rng: Random
) -> list[list[int]]:
    """Tokens of a text, a list a word: the segmenter's, or spans of 1 to 3 characters."""
    if cut is not None:
        return [ids for ids in tokenizer.pieces_of(list(cut(text))) if ids]
    characters = tokenizer.words(tokenizer.pieces_of([text])[0])
    spans, start = [], 0
    while start < len(characters):
        # About as long as Chinese words are.
        size = rng.choices((1, 2, 3), (0.45, 0.45, 0.1))[0]
        spans.append([i for c in characters[start : start + size] for i in c])
        start += size
    return spans


def noised(
    words: Sequence[Sequence[int]], tokenizer: Tokenizer, rng: Random
) -> tuple[list[int], list[int]]:
    """Whole-word noise of kexue.fm/archives/8454's training code.

    A word is masked with probability 0.12, kept but predicted with 0.015, replaced by random
    tokens with 0.015, and else left alone.

    Args:
        words: Tokens, a list a word.
        tokenizer: Says which token is [MASK].
        rng: The draws.

    Returns:
        The noised tokens, and the original token at each place that a masked language model
        predicts, -1 elsewhere.
    """
    tokens: list[int] = []
    targets: list[int] = []
    for word in words:
        r = rng.random()
        targets += word if r < _REPLACED else [-1] * len(word)
        if r < _MASKED:
            tokens += [tokenizer.mask] * len(word)
        elif _KEPT <= r < _REPLACED:
            tokens += [rng.randrange(1, len(tokenizer)) for _ in word]
        else:
            tokens += word
    return tokens, targets
