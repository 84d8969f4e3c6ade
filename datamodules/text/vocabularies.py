"""Making the vocabulary of a corpus: by counting, by training subwords, or from a file."""

import os
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch.utilities import rank_zero_info

from zoo.data.protocols import Split
from zoo.data.text.corpus import Corpus, Piece
from zoo.data.text.pieces import Documents, Reading, count, texts_of
from zoo.data.text.vocabulary import Level, Subwords, Vocabulary, as_level
from zoo.data.workers import Pool
from zoo.reading import read_bytes
from zoo.waiting import Bar, unmeasured

_STEP = 2**22  # bytes of a piece
_SAMPLE = 2**28  # bytes of which subwords are made, evenly spread
_FEWEST = 300  # subwords, of which 257 are </s> and the bytes
TRAINED = ("bpe", "unigram")
KINDS = (*get_args(Level), *TRAINED)


def make_vocabulary(
    corpus: Corpus,
    tokenizer: str,
    size: int | None,
    min_count: int,
    documents: Documents,
    pool: Pool,
) -> Vocabulary:
    """The vocabulary of the training split, or of a file."""
    if tokenizer == "byte":
        return Vocabulary("byte")
    if tokenizer not in KINDS:
        return tokenizer_file(tokenizer)
    train = (piece for piece in corpus.pieces(_STEP) if piece.split == "train")
    if tokenizer in TRAINED:
        if size is not None and size < _FEWEST:
            raise ValueError(f"a vocabulary of {size}: {tokenizer} needs {_FEWEST} or more")
        total = sum(p.end - p.begin for p in corpus.whole if p.split == "train")
        pieces, left = list[Piece](), _SAMPLE
        for piece in islice(train, 0, None, max(1, -(-total // _SAMPLE))):
            pieces.append(piece)
            left -= sum(map(len, piece.texts))
            if left < 0:  # of a stream
                break
        rank_zero_info(f"making {tokenizer} subwords of {corpus.root}")
        how = Reading(documents, corpus.column, "", "char")
        with unmeasured(f"making {tokenizer} subwords"):
            return Subwords(pool.run(_train, pieces, how, tokenizer, size))
    counts = Counter[str]()
    with bar_of(corpus, "count", "train") as bar:
        for found, size_of in pool.map(
            count, train, Reading(documents, corpus.column, "", tokenizer)
        ):
            counts.update(found)
            bar.update(size_of)
    return Vocabulary.counted(counts, as_level(tokenizer), size=size, min_count=min_count)


def _train(pieces: list[Piece], how: Reading, kind: str, size: int | None) -> bytes:
    """A process's own training, so that no other has its memory."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    texts = (text for piece in pieces for text in texts_of(piece, how))
    packed = train_subwords(kind, size, texts).pack()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return packed


def tokenizer_file(path: str) -> Subwords:
    """The subwords of a tokenizer.json.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"no such tokenizer: {path}: give {', '.join(KINDS)}, or a tokenizer.json"
        )
    try:
        return Subwords(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def train_subwords(kind: str, size: int | None, texts: Iterable[str]) -> Subwords:
    """Subwords that are made of texts, by bytes, so that nothing is unknown and all is decoded.

    Args:
        kind: bpe or unigram.
        size: Symbols, </s> and the 256 bytes among them; 16,000 if not given.
        texts: The texts.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    size = size or 16_000
    bytes_of = pre_tokenizers.ByteLevel.alphabet()
    common: dict[str, Any] = {
        "vocab_size": size, "special_tokens": ["</s>"], "initial_alphabet": bytes_of,
        "show_progress": False,
    }  # fmt: skip
    tokenizer = Tokenizer(models.BPE() if kind == "bpe" else models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer if kind == "bpe" else trainers.UnigramTrainer
    tokenizer.train_from_iterator(texts, trainer(**common))
    return Subwords(tokenizer.to_str().encode())


def bar_of(corpus: Corpus, what: str, split: Split | None = None, done: int = 0) -> Bar:
    """The bar of what is done with a corpus, or with a split of it."""
    sizes = [p.end - p.begin for p in corpus.whole if split in (None, p.split)]
    rows = any(p.kind in ("parquet", "dataset") for p in corpus.whole)
    return Bar(what, sum(sizes) or None, "rows" if rows else "B", done)
