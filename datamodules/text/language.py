"""Text as one stream, cut into windows of equal length, for language models."""

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.images.base import Split
from zoo.data.loader import Batches, EpochLoader
from zoo.data.text.base import TextData
from zoo.data.text.corpus import saved_dataset
from zoo.data.text.files import embedded, kind_of, text_files
from zoo.data.text.pieces import Documents, parts_of
from zoo.data.text.prepare import prepare
from zoo.data.text.store import Store, Tokens, is_prepared
from zoo.data.text.vocabularies import KINDS, TRAINED, tokenizer_file
from zoo.data.text.vocabulary import Level, Vocabulary, is_blank
from zoo.ranges import Count
from zoo.waiting import waiting

_CHUNK = 2**24  # symbols that are looked at together
_SMALL = 2**24  # bytes of a text that is read into memory, as packed .txt files a quarter of it
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

    symbols: NDArray[np.unsignedinteger] | Tokens
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

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
        symbols = np.full(int(self.stops[-1]), end, small)
        for start, document in zip(self.starts, documents, strict=True):
            symbols[start : start + len(document)] = document
        self.symbols = symbols

    def __len__(self) -> int:
        return -(-max(int(self.stops[-1]) - 1, 0) // self.stride)

    def parts(self, skip: int = 0) -> Iterator[NDArray[np.int64]]:
        """The documents' symbols without the first `skip` of each, and without what aligns them."""
        total = int(self.stops[-1])
        for first in range(0, total, _CHUNK):
            places = np.arange(first, min(first + _CHUNK, total))
            document = np.searchsorted(self.starts, places, side="right") - 1
            inside = places < self.stops[document]
            inside &= places >= self.starts[document] + skip
            yield self._read(places[inside], document[inside])

    def _read(self, places: NDArray[np.int64], document: NDArray[np.int64]) -> NDArray[np.int64]:
        """The symbols at these places, which are in these documents."""
        return np.asarray(self.symbols[places]).astype(np.int64)

    def of_length(self, length: int) -> "Windows":
        """The same text in windows of another length, without overlap."""
        other = copy.copy(self)
        other.length = other.stride = length
        return other

    def __getitems__(self, indices: list[int]) -> StreamBatch:
        index = np.array(indices, np.int64)
        places = index[:, None] * self.stride + np.arange(self.length + 1)
        document = np.searchsorted(self.starts, places, side="right") - 1
        symbols = self._read(np.minimum(places, int(self.stops[-1]) - 1), document)
        inside = places < self.stops[document]
        symbols, document = np.where(inside, symbols, self.end), np.where(inside, document, -1)
        known = inside[:, 1:] & (document[:, 1:] == document[:, :-1])
        targets = np.where(known, symbols[:, 1:], NO_TARGET)
        parts = (symbols[:, :-1], targets, document[:, :-1], index)
        return StreamBatch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


class StoredWindows(Windows):
    """Windows of a prepared text, of which memory holds what is used.

    Args:
        store: The text.
        split: Which part of it.
        length: As of `Windows`.
        end: As of `Windows`.
        stride: As of `Windows`.
        align: As of `Windows`.
        limit: Symbols of each document; all if not given.
        ends: Whether documents, but for the last, end with an end, which is not cut off.
    """

    def __init__(
        self,
        store: Store,
        split: Split,
        length: int,
        end: int,
        *,
        stride: int | None = None,
        align: int = 1,
        limit: int | None = None,
        ends: bool = True,
    ) -> None:
        self.length, self.stride, self.end = length, stride or length, end
        self.fingerprint = store.index["fingerprint"]
        self.symbols, offsets = store.tokens(split), store.offsets(split)
        self.starts, self.stops = offsets[:-1], offsets[1:]
        self._offsets = offsets if align > 1 or limit is not None else None
        if self._offsets is not None:
            self._ends = np.full(len(self.starts), int(ends))
            self._ends[-1:] = 0
            lengths = self.stops - self.starts - self._ends
            lengths = (lengths if limit is None else np.minimum(lengths, limit)) + self._ends
            sizes = -(-lengths // align) * align
            self.starts = np.cumsum(sizes) - sizes
            self.stops = self.starts + lengths

    def _read(self, places: NDArray[np.int64], document: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._offsets is not None:
            last = self._offsets[document + 1] - 1
            at_end = (places == self.stops[document] - 1) & (self._ends[document] == 1)
            places = self._offsets[document] + places - self.starts[document]
            places = np.where(at_end, last, np.minimum(places, last))
        return np.asarray(self.symbols[places]).astype(np.int64, copy=False)


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
        tokenizer: Instead of the level: bpe or unigram, of `vocabulary_size` symbols made of the
            training split, or the file tokenizer.json of any tokenizer of the library `tokenizers`.
        sequence_length: Symbols of a window.
        test_lengths: Symbols of a window in the test, each a test of its own;
            `sequence_length` if not given.
        stride: Symbols from one training window to the next; `sequence_length` if not given.
        documents: What a document is: a file, a paragraph (parted by empty lines) or a line; of
            JSONL and tables a row.
        column: Where the text of a row is.
        align: Begin documents at multiples of this, of which the windows must be multiples too: at
            those of a model's chunk its documents are what each is alone; 1 wastes no space.

    Raises:
        FileNotFoundError: There is no text at `root`.
        ValueError: A count is not positive, a length is no multiple of `align`, or a split has less
            than two symbols, or blanks alone.
    """

    def __init__(
        self,
        *,
        level: Level = "char",
        tokenizer: str | None = None,
        sequence_length: Count = 256,
        test_lengths: list[Count] | None = None,
        stride: Count | None = None,
        documents: Documents = "file",
        column: str = "text",
        align: Count = 1,
        **text: Any,
    ) -> None:
        named = next((known for known in get_args(Level) if known == tokenizer), None)
        super().__init__(level=named or level, **text)
        self.tokenizer, self.column = None if named else tokenizer, column
        if self.tokenizer is not None:
            self.level = "token"
        self._store: Store | None = None
        self._bytes: dict[Split, int | None] = {}
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

    @property
    def store(self) -> Store | None:
        """The prepared text; None of a small one, which is read into memory."""
        if self._store is None and is_prepared(self.root):
            self._store = Store(str(self.root))
            self._notes += self._without_effect(self._store.index.get("made"))
        elif self._store is None and (self.tokenizer in TRAINED or _is_large(self.root)):
            # What is trained is kept, since another training of it may give another one.
            self._store = prepare(
                self.root or str(embedded()),
                None,
                tokenizer=self.tokenizer or self.level,
                vocabulary_size=self.vocabulary_size,
                min_count=self.min_count,
                documents=self.documents,
                column=self.column,
                vocabulary=self._vocabulary,
            )
        return self._store

    def _without_effect(self, made: dict[str, Any] | None) -> list[str]:
        """A line for each option that says other than what the text was prepared with."""
        usual = {"documents": "file", "column": "text", "min_count": 1}
        names = ["documents", "column", "min_count", "vocabulary_size"]
        names += ["tokenizer"] if self.hparams["tokenizer"] in KINDS else []
        return [
            f"--data.{name}={self.hparams[name]} has no effect: {self.root} was prepared with "
            f"{made.get(name)!r:.80}"
            for name in names
            if made and self.hparams[name] not in (usual.get(name), made.get(name))
        ]

    def take_vocabulary(self, words: Vocabulary) -> None:
        """Uses a trained model's symbols instead of those of the training split.

        Raises:
            ValueError: They are of another level, or the text was prepared with others.
        """
        if not is_prepared(self.root):
            super().take_vocabulary(words)
            return
        self._vocabulary = None
        theirs = self.vocabulary
        if theirs != words:
            raise ValueError(
                f"--data.root={self.root} was prepared with another tokenizer "
                f"({theirs.level}, {theirs.digest[:12]}) than the model's ({words.level}, "
                f"{words.digest[:12]}): prepare the text with --tokenizer and the model's run"
            )
        self._vocabulary = words

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the training split, or of a tokenizer."""
        if self._vocabulary is None and (store := self.store) is not None:
            words = store.vocabulary
            if self.tokenizer not in (None, *TRAINED) and words.level == "number":
                given = tokenizer_file(str(self.tokenizer))
                if len(given) < len(words):
                    raise ValueError(
                        f"--data.tokenizer={self.tokenizer} has {len(given)} symbols, and "
                        f"{self.root} numbers to {len(words) - 1}: give the one that made it"
                    )
                words = given
            self._vocabulary = words
        elif self._vocabulary is None and self.tokenizer is not None:
            self._vocabulary = tokenizer_file(self.tokenizer)
        return super().vocabulary

    @property
    def in_memory(self) -> bool:
        """Whether the text itself is read, not its numbers in files that were prepared."""
        return self.store is None

    def texts(self, split: Split) -> list[str]:
        """The documents of a split of a text that is read into memory."""
        return [part for text in super().texts(split) for part in parts_of(text, self.documents)]

    def where(self) -> tuple[str, list[str]]:
        """What is read, in words, and the files of the folder that are not."""
        if self.store is None:
            return super().where()
        made = f"text of {self.root or 'tiny Shakespeare, which the zoo embeds'}"
        if not is_prepared(self.root):
            made += f", prepared in {self.store.folder}"
        return made, []

    def load_split(self, split: Split) -> Windows:
        """The documents of a split, an end between them."""
        words, store, limit = self.vocabulary, self.store, None
        stride = self.stride if split == "train" else None
        documents: list[NDArray[np.int64]] = []
        if store is None:
            texts = self.texts(split)
            self._bytes[split] = sum(len(t.encode(errors="surrogateescape")) for t in texts)
            for text in waiting(texts, "tokenise", unit="texts"):
                documents += words.encode_documents([text])
            longest = max(map(len, documents), default=0)
            blank = all(map(is_blank, texts))
        else:
            self._bytes[split] = store.bytes_of(split)
            blank = words.is_blank(store.counts(split))
            longest = int(np.diff(store.offsets(split)).max(initial=0)) if self.limit else 0
        if split == "train" and self.limit is not None and self.limit < longest:
            self._limited, limit = True, self.limit
            self._notes.append(f"left out: symbols behind --data.limit={self.limit} in train")
        documents = [d[:limit] for d in documents if len(d)]
        if (sum(map(len, documents)) if store is None else len(store.tokens(split))) < 2:
            fix = f"raise --data.limit={limit}" if limit else "give more text"
            raise ValueError(
                f"the {split} split of {self.root or 'the text'} has less than two symbols: {fix}"
            )
        if blank:
            raise ValueError(
                f"the {split} split of {self.root} holds nothing but spaces and ends of lines: "
                "take them out, or give more text"
            )
        if store is not None:
            return StoredWindows(
                store,
                split,
                self.sequence_length,
                words.end,
                stride=stride,
                align=self.align,
                limit=limit,
                ends=words.ends_documents,
            )
        if words.ends_documents:
            documents[:-1] = [np.append(d, words.end) for d in documents[:-1]]
        return Windows(documents, self.sequence_length, words.end, stride=stride, align=self.align)

    def symbols_per_byte(self, split: Split) -> float | None:
        """Symbols of a split for each byte of its text in UTF-8, an end counting as one."""
        windows = self.split(split)
        size = self._bytes[split]
        symbols = int(windows.stops.sum() - windows.starts.sum())
        if size is not None and self.vocabulary.ends_documents:
            size += len(windows.starts) - 1
        return symbols / size if size else None

    def unigram(self) -> float:
        """Nats a predicted symbol of the test split, by counts in the training split, from 1."""
        known = self.store.counts("train") if self.store is not None and not self._limited else None
        if known is None:
            size = len(self.vocabulary)
            found = (np.bincount(p, minlength=size) for p in self.split("train").parts())
            known = sum(found, np.zeros(size, np.int64))
        counts = known + 1
        sums = [(np.log(counts[p]).sum(), len(p)) for p in self.split("test").parts(skip=1)]
        nats, number = map(sum, zip(*sums, strict=True))
        return float(math.log(counts.sum()) - nats / number)

    def describe(self) -> list[str]:
        """What was read, and how much of it no training window has."""
        stride, length = self.stride or 0, self.sequence_length
        if stride <= length or "train" not in self._splits:
            return super().describe()
        return [
            *super().describe(),
            f"left out: {100 * (1 - length / stride):.2g} % of the training symbols, as "
            f"--data.stride={stride} is more than --data.sequence_length={length}",
        ]

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


def _is_large(root: str | None) -> bool:
    """Whether a text is mapped, not read into memory: of more than 16 MB, or no .txt files."""
    if root is None:
        return False
    if kind_of(root) == "stream" or saved_dataset(root):
        return True
    found = text_files(root)
    files = [f for part in found.values() for f in part] if isinstance(found, dict) else found
    if any(kind_of(file) != "text" for file in files):
        return True
    packed = (".gz", ".zst")
    sizes = (file.stat().st_size * (4 if file.suffix in packed else 1) for file in files)
    return sum(sizes) > _SMALL
