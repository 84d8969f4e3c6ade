"""Text as one stream, cut into windows of equal length, for language models."""

import copy
import math
import re
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.images.base import Split
from zoo.data.loader import Batches, EpochLoader
from zoo.data.text.base import TextData
from zoo.data.text.vocabulary import Level, Vocabulary
from zoo.ranges import Count

Documents = Literal["file", "paragraph", "line"]
_LINE_END = re.compile(r"\r?\n")
_EMPTY_LINES = re.compile(r"\r?\n(?:[^\S\n]*\n)+")  # lines of spaces are empty too
NO_TARGET = -100  # what cross_entropy ignores by default


class StreamBatch(NamedTuple):
    """A batch of windows."""

    tokens: Tensor
    """(B, T) int64; after the end of the text, ends."""
    targets: Tensor
    """(B, T) int64, the symbol after each; -100 where none is to be predicted: after a document's
    end, since the next document has nothing to do with it, and after the text's."""
    documents: Tensor
    """(B, T) int64, the number of each symbol's document in its split, for models that keep
    documents of a window apart; -1 between documents and after the end of the text."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(B,) int64, each window's number in its split."""

    def to(self, device: torch.device | str) -> "StreamBatch":
        """The batch on `device`; the copy from pinned memory does not wait."""
        return StreamBatch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Windows:
    """Windows [iT, iT + T) of documents that stand one behind the other.

    Together they predict every symbol once, but for the first of each document.

    Args:
        documents: Numbers of the symbols of each document.
        length: Symbols T of a window.
        end: What stands between documents and after the end of the last.
        stride: Symbols from one window to the next; T if not given.
        align: Documents begin at multiples of this.
    """

    def __init__(
        self,
        documents: list[NDArray[np.int64]],
        length: int,
        end: int,
        *,
        stride: int | None = None,
        align: int = 1,
    ) -> None:
        self.length, self.stride, self.end = length, stride or length, end
        small = np.min_scalar_type(max(int(d.max(initial=end)) for d in documents))
        sizes = [-(-len(d) // align) * align for d in documents]
        self.starts = np.cumsum([0, *sizes[:-1]])
        self.stops = self.starts + np.array([len(d) for d in documents])
        self.symbols = np.full(int(self.stops[-1]), end, small)
        for start, document in zip(self.starts, documents, strict=True):
            self.symbols[start : start + len(document)] = document

    def __len__(self) -> int:
        return -(-max(len(self.symbols) - 1, 0) // self.stride)

    def inside(self, skip: int = 0) -> NDArray[np.integer]:
        """The documents' symbols without the first `skip` of each, and without what aligns them."""
        pairs = zip(self.starts, self.stops, strict=True)
        return np.concatenate([self.symbols[start + skip : stop] for start, stop in pairs])

    def of_length(self, length: int) -> "Windows":
        """The same text in windows of another length, without overlap."""
        other = copy.copy(self)
        other.length = other.stride = length
        return other

    def __getitems__(self, indices: list[int]) -> StreamBatch:
        index = np.array(indices, np.int64)
        places = index[:, None] * self.stride + np.arange(self.length + 1)
        inside = places < len(self.symbols)
        symbols = self.symbols[np.minimum(places, len(self.symbols) - 1)].astype(np.int64)
        document = np.searchsorted(self.starts, places, side="right") - 1
        inside &= places < self.stops[document]
        symbols, document = np.where(inside, symbols, self.end), np.where(inside, document, -1)
        known = inside[:, 1:] & (document[:, 1:] == document[:, :-1])
        targets = np.where(known, symbols[:, 1:], NO_TARGET)
        parts = (symbols[:, :-1], targets, document[:, :-1], index)
        return StreamBatch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def encode_document(text: str, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """A document's symbols: of words an end after each line, empty lines left out."""
    if vocabulary.level in ("char", "byte"):
        return vocabulary.encode(text)
    lines = (vocabulary.encode(line) for line in text.split("\n") if line.strip())
    parts = [part for line in lines for part in (line, np.array([vocabulary.end]))]
    return np.concatenate([*parts, np.zeros(0, np.int64)])


class Text(TextData):
    """Any text as windows of a stream of its symbols, as `StreamBatch`es.

    Bytes and characters are the text itself, with an end between its documents; of words every
    line has its end, as the Penn Treebank is read. enwik8 at byte level has the usual splits of 90,
    5 and 5 million bytes. In evaluation windows do not overlap.

    >>> data = Text(level="byte", sequence_length=64, batch_size=8)
    >>> next(iter(data.train_dataloader())).tokens.shape
    torch.Size([8, 64])

    Args:
        level: What a symbol is: byte, char, word (text with spaces between words and punctuation)
            or wordpunct (other text).
        sequence_length: Symbols of a window.
        test_lengths: Symbols of a window in the test, each a test of its own;
            `sequence_length` if not given.
        stride: Symbols from one training window to the next; `sequence_length` if not given.
        documents: What a document is: a file, a paragraph (parted by empty lines) or a line.
        align: Begin documents at multiples of this, of which the windows must be multiples too: at
            those of a model's chunk its documents are what each is alone; 1 wastes no space.

    Raises:
        FileNotFoundError: There is no text at `root`.
        ValueError: A count is not positive, a length is no multiple of `align`, or a split has less
            than two symbols.
    """

    def __init__(
        self,
        *,
        level: Level = "char",
        sequence_length: Count = 256,
        test_lengths: list[Count] | None = None,
        stride: Count | None = None,
        documents: Documents = "file",
        align: Count = 1,
        **text: Any,
    ) -> None:
        super().__init__(level=level, **text)
        self.sequence_length, self.stride = sequence_length, stride
        self.documents, self.align = documents, align
        self.test_lengths = list(test_lengths or [sequence_length])
        self._many_tests = bool(test_lengths)
        if min(self.test_lengths) < 1:
            raise ValueError(f"--data.test_lengths={test_lengths}: lengths are at least 1")
        for name, length in (
            ("sequence_length", sequence_length),
            ("stride", stride or sequence_length),
            *(("test_lengths", length) for length in self.test_lengths),
        ):
            if length % align:
                raise ValueError(
                    f"--data.{name}={length}: must be a multiple of --data.align={align}, as "
                    "documents would not begin at multiples of it in every window"
                )
        if documents not in get_args(Documents):
            known = ", ".join(get_args(Documents))
            raise ValueError(f"--data.documents={documents!r}: choose one of {known}")
        self.by_line = documents != "file"
        self.unit = f"windows of {sequence_length}"

    def texts(self, split: Split) -> list[str]:
        """The documents of a split."""
        texts, kind = super().texts(split), self.documents
        if kind == "file":
            return texts
        separator = _EMPTY_LINES if kind == "paragraph" else _LINE_END
        parts = [part.strip("\r\n") for text in texts for part in separator.split(text)]
        return [part for part in parts if part.strip()]

    def load_split(self, split: Split) -> Windows:
        """Encodes the documents of a split, an end between them."""
        words = self.vocabulary
        documents = [encode_document(text, words) for text in self.texts(split)]
        longest = max(map(len, documents), default=0)
        if split == "train" and self.limit is not None and self.limit < longest:
            self._limited = True
            self._notes.append(f"left out: symbols behind --data.limit={self.limit} in train")
            documents = [d[: self.limit] for d in documents]
        documents = [d for d in documents if len(d)]
        if words.level in ("char", "byte"):
            documents[:-1] = [np.append(d, words.end) for d in documents[:-1]]
        if sum(map(len, documents)) < 2:
            limited = split == "train" and self._limited
            fix = f"raise --data.limit={self.limit}" if limited else "give more text"
            raise ValueError(
                f"the {split} split of {self.root or 'the text'} has less than two symbols: {fix}"
            )
        stride = self.stride if split == "train" else None
        return Windows(documents, self.sequence_length, words.end, stride=stride, align=self.align)

    def unigram(self) -> float:
        """Nats a predicted symbol of the test split, by counts in the training split, from 1."""
        train, test = self.split("train").inside(), self.split("test").inside(skip=1)
        counts = np.bincount(train, minlength=len(self.vocabulary)) + 1
        return float(math.log(counts.sum()) - np.log(counts[test]).mean())

    def _test_loader(self, length: int) -> EpochLoader:
        tokens = self.val_batch_size * self.sequence_length
        return self._loader(self.split("test").of_length(length), max(tokens // length, 1))

    def test_dataloader(self) -> EpochLoader | list[EpochLoader]:  # type: ignore[override]
        """Every test window once, over all ranks, for each of `test_lengths`."""
        loaders = [self._test_loader(length) for length in self.test_lengths]
        return loaders if self._many_tests else loaders[0]

    def predict_dataloader(self) -> Batches:
        """The test windows of the first of `test_lengths`."""
        return Batches(self._test_loader(self.test_lengths[0]))
