"""Text as one stream of symbols, in windows of one length; documents may be kept apart."""

import warnings
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from datamodules.image_data import Split
from datamodules.loader import Batches, EpochLoader, epoch_loader
from datamodules.text_files import read_documents
from datamodules.vocabulary import Level, Vocabulary, check_level

Documents = Literal["none", "file", "paragraph", "line"]


class LanguageBatch(NamedTuple):
    """Windows of text: what is read is `tokens[:, :-1]`, what is predicted `tokens[:, 1:]`."""

    tokens: Tensor
    """(B, n + 1) int64."""
    scored: Tensor
    """(B, n) bool: which predictions count."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index
    """(B,) int64, each window's number in its split."""
    doc_ids: Tensor | None = None
    """(B, n) int64, document of each token that is read, where documents are kept apart."""

    def to(self, device: torch.device | str) -> "LanguageBatch":
        """The batch on `device`; the copy from pinned memory does not wait."""
        moved = (None if t is None else t.to(device, non_blocking=True) for t in self)
        return LanguageBatch(*moved)  # type: ignore[arg-type]

    def pin_memory(self) -> "LanguageBatch":
        """The batch in pinned memory."""
        return LanguageBatch(*(None if t is None else t.pin_memory() for t in self))  # type: ignore[arg-type]


class Stream:
    """Symbols in one row, and where documents begin.

    Args:
        symbols: Numbers of the symbols, int32.
        documents: Document of each symbol, int32; -1 is padding. None if all is one.
    """

    def __init__(self, symbols: NDArray[np.int32], documents: NDArray[np.int32] | None) -> None:
        self.symbols, self.documents = symbols, documents

    @classmethod
    def of(cls, documents: list[NDArray[np.int64]], end: int, apart: bool, align: int) -> "Stream":
        """Documents one after another, an end after each.

        Args:
            documents: Symbols of each.
            end: Number of the end.
            apart: Keep them apart; an end alone is no document.
            align: Begin each at a multiple of this, with padding of ends before.
        """
        if not apart:
            parts = [p for d in documents for p in (d, [end])][:-1]  # none after the last
            return cls(np.concatenate(parts).astype(np.int32), None)
        sizes = [-(-(len(d) + 1) // align) * align for d in documents]
        symbols = np.full(sum(sizes), end, np.int32)
        numbers = np.full(sum(sizes), -1, np.int32)
        start = 0
        for i, (document, size) in enumerate(zip(documents, sizes, strict=True)):
            symbols[start : start + len(document)] = document
            numbers[start : start + len(document) + 1] = i
            start += size
        return cls(symbols, numbers)

    def __len__(self) -> int:
        return len(self.symbols)


class Windows:
    """Windows of a stream, indexed by a whole batch of numbers.

    Every prediction of the stream is scored in one window, if windows begin `length` apart: symbol
    t is predicted where symbol t - 1 is read. Only the stream's first symbol never is.

    Args:
        stream: The text.
        length: Symbols that a window reads.
        stride: Symbols from one window's beginning to the next.
        whole: Leave out the last window if it is shorter.
    """

    def __init__(self, stream: Stream, length: int, *, stride: int, whole: bool) -> None:
        self.stream, self.length, self.stride = stream, length, stride
        predictions = len(stream) - 1
        if whole:
            self.count = (predictions - length) // stride + 1 if predictions >= length else 0
        else:
            self.count = -(-predictions // stride)

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, indices: list[int]) -> LanguageBatch:
        index = np.array(indices, np.int64)
        place = index[:, None] * self.stride + np.arange(self.length + 1)
        last = len(self.stream) - 1
        inside = place <= last
        place = np.minimum(place, last)
        tokens = torch.from_numpy(self.stream.symbols[place].astype(np.int64))
        scored = inside[:, 1:]
        documents = self.stream.documents
        doc_ids = None
        if documents is not None:
            numbers = documents[place]
            scored = scored & (numbers[:, 1:] == numbers[:, :-1]) & (numbers[:, 1:] >= 0)
            doc_ids = torch.from_numpy(numbers[:, :-1].astype(np.int64))
        return LanguageBatch(tokens, torch.from_numpy(scored), torch.from_numpy(index), doc_ids)


class Language(LightningDataModule):
    """Any text as windows for a language model, as `LanguageBatch`es.

    The vocabulary is the training split's. Without `documents` the text is one stream, and a
    window may hold the end of a document and the beginning of the next. Evaluation predicts every
    symbol once, whatever the length of the windows.

    Args:
        root: Folder with a file of each split (such as the Penn Treebank's), any folder of .txt
            files, or a file (of enwik8 the usual 90, 5 and 5 million bytes are the splits); tiny
            Shakespeare, which the zoo embeds, if not given.
        level: What a symbol is: byte, char, word (text with spaces between words and
            punctuation) or wordpunct (other text).
        length: Symbols that a training window reads.
        val_length: Symbols of a window in validation; `length` if not given.
        test_lengths: Symbols of a window in the test, each a test of its own; `val_length` if not
            given. The first is the headline.
        stride: Symbols from one training window to the next; `length` if not given.
        documents: What is a document, of which no token sees another's: file, paragraph (parted by
            empty lines) or line; none packs all into one stream.
        align: Begin documents at multiples of this; the chunk of a model makes them separate to
            the last bit, 1 wastes no space.
        line_ends: At word level, make the end of a line a symbol, as is usual for the Treebank.
        vocabulary_size: Most symbols of the vocabulary; the most frequent are kept. All if not
            given.
        batch_size: Training windows a step and process.
        val_batch_size: Windows of `val_length` a step and process in evaluation, and of longer
            ones fewer; `batch_size` if not given.
        seed: Seed of the order.
        limit: Train on the first so many windows only, for short runs.

    Raises:
        FileNotFoundError: There is no text at `root`.
        ValueError: A count is not positive, or the text is shorter than a window.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        level: Level = "char",
        length: int = 256,
        val_length: int | None = None,
        test_lengths: list[int] | None = None,
        stride: int | None = None,
        documents: Documents = "none",
        align: int = 1,
        line_ends: bool = True,
        vocabulary_size: int | None = None,
        batch_size: int = 32,
        val_batch_size: int | None = None,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        check_level(level)
        if documents not in get_args(Documents):
            known = ", ".join(get_args(Documents))
            raise ValueError(f"--data.documents={documents!r}: choose one of {known}")
        counts = (
            "length", "val_length", "stride", "align", "vocabulary_size", "batch_size",
            "val_batch_size", "limit",
        )  # fmt: skip
        for name in counts:
            value = self.hparams[name]
            if value is not None and value < 1:
                raise ValueError(f"--data.{name} must be at least 1, got {value}")
        if test_lengths is not None and (not test_lengths or min(test_lengths) < 1):
            raise ValueError(f"--data.test_lengths={test_lengths}: give lengths of at least 1")
        if line_ends and level == "word" and documents == "line":
            raise ValueError("--data.documents=line ends its lines: set --data.line_ends=false")
        self.root, self.level, self.length = root, level, length
        self.val_length = val_length or length
        self.test_lengths = list(test_lengths or [self.val_length])
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self._texts: dict[Split, list[str]] = {}
        self._streams: dict[Split, Stream] = {}
        self._vocabulary: Vocabulary | None = None

    def setup(self, stage: str | None = None) -> None:
        """Loads the splits of a stage ("fit", "validate", "test", "predict"), or all."""
        stages: dict[str | None, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
        }
        every: tuple[Split, ...] = ("train", "val", "test") if stage is None else ("test",)
        for name in stages.get(stage, every):
            self.split(name)
        # A batch is a few lookups: workers would only add a copy, so the advice is wrong here.
        warnings.filterwarnings("ignore", ".*does not have many workers.*", PossibleUserWarning)

    def texts(self, split: Split) -> list[str]:
        """The documents of a split."""
        if split not in self._texts:
            errors = "surrogateescape" if self.level == "byte" else "replace"  # bytes stay bytes
            # A cut inside a line does a stream no harm, and enwik8's split is by bytes.
            whole_lines = self.hparams["documents"] != "none" or self.level.startswith("word")
            texts = [
                document.decode(errors=errors)
                for document in read_documents(self.root, split, lines=whole_lines)
            ]
            kind = self.hparams["documents"]
            if kind in ("paragraph", "line"):
                separator = "\n\n" if kind == "paragraph" else "\n"
                texts = [part.strip("\n") for text in texts for part in text.split(separator)]
                texts = [text for text in texts if text.strip()]
            if self.level == "word" and self.hparams["line_ends"]:
                texts = [text.replace("\n", " </s> ") for text in texts]
            self._texts[split] = texts
        return self._texts[split]

    @property
    def vocabulary(self) -> Vocabulary:
        """The symbols of the training split."""
        if self._vocabulary is None:
            size = self.hparams["vocabulary_size"]
            self._vocabulary = Vocabulary.of(self.texts("train"), self.level, size=size)
        return self._vocabulary

    def split(self, name: Split) -> Stream:
        """One split's stream."""
        if name not in self._streams:
            words = self.vocabulary
            encoded = [self._encode(text) for text in self.texts(name)]
            apart, align = self.hparams["documents"] != "none", self.hparams["align"]
            self._streams[name] = Stream.of(encoded, words.end, apart, align)
        return self._streams[name]

    def _encode(self, text: str) -> NDArray[np.int64]:
        words = self.vocabulary
        if not (self.level == "word" and self.hparams["line_ends"]):
            return words.encode(text)
        lines = [words.encode(line) for line in text.split("</s>")]
        parts = [part for line in lines for part in (line, np.array([words.end]))]
        return np.concatenate(parts[:-1])

    def unigram(self) -> float:
        """Nats a symbol of the test split, coded by counts in the training split, from 1."""
        train, test = (self.split(s).symbols for s in ("train", "test"))
        size = len(self.vocabulary)
        counts = np.bincount(train, minlength=size) + 1
        return float(-np.log(counts[test[1:]] / counts.sum()).mean())

    def _windows(self, split: Split, length: int, train: bool = False) -> Windows:
        stride = (self.hparams["stride"] or length) if train else length
        windows = Windows(self.split(split), length, stride=stride, whole=train)
        if train:
            windows.count = min(windows.count, self.hparams["limit"] or windows.count)
        if len(windows) == 0:
            raise ValueError(
                f"the {split} split has {len(self.split(split))} symbols, fewer than a window: "
                f"lower --data.length from {length}"
            )
        return windows

    def _loader(self, split: Split, length: int, batch: int, train: bool = False) -> EpochLoader:
        trainer = self.trainer
        return epoch_loader(
            self._windows(split, length, train),
            batch,
            train=train,
            seed=self.hparams["seed"],
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )

    def train_dataloader(self) -> EpochLoader:
        """Windows of this rank in an order that depends on (seed, epoch)."""
        return self._loader("train", self.length, self.batch_size, train=True)

    def val_dataloader(self) -> EpochLoader:
        """Every validation window once, over all ranks."""
        return self._loader("val", self.val_length, self.val_batch_size)

    def test_dataloader(self) -> list[EpochLoader]:
        """Every test window once, over all ranks, for each of `test_lengths`."""
        tokens = self.val_batch_size * self.val_length
        return [
            self._loader("test", length, max(tokens // length, 1)) for length in self.test_lengths
        ]

    def predict_dataloader(self) -> Batches:
        """The test windows of the first of `test_lengths`."""
        return Batches(self.test_dataloader()[0])
