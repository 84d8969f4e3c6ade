"""What modules and callbacks ask of DataModules, and callbacks of modules, each by its own name.

Any class that has the attributes meets a Protocol: `isinstance(data, HasReferenceImages)`. Python
3.12 and later does not see a submodule or parameter of an `nn.Module` so, only what is in its class
or set as a plain attribute.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from zoo.figures import Figure
from zoo.pages import Tab

Split = Literal["train", "val", "test"]
Moment = Literal["val", "end", "test"]


def datamodule_of(trainer: object) -> object:
    """The DataModule of a run; None where it has loaders alone, or where there is no Trainer."""
    return getattr(trainer, "datamodule", None)


# DataModules


@runtime_checkable
class HasSplits(Protocol):
    """Data whose splits are map-style data sets, indexed by a batch of numbers."""

    def split(self, name: Split, /) -> Any:
        """The data set of a split, read when it is first needed."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """What is left to do with a batch that has come to the device."""


@runtime_checkable
class HasBatchSize(Protocol):
    """Data that come in training batches of one size."""

    batch_size: int
    """Training items a step and process."""


@runtime_checkable
class HasImages(Protocol):
    """Images of one size."""

    channels: int
    size: tuple[int, int]
    """(H, W)."""


@runtime_checkable
class HasClasses(Protocol):
    """Items with labels."""

    num_classes: int
    """0 or 1 where there are no classes."""


@runtime_checkable
class HasReferenceImages(Protocol):
    """Images to compare samples with."""

    def reference_images(self, split: Split, count: int | None = None) -> Tensor:
        """The first `count` images of a split, or all, never flipped; uint8 (N, C, H, W)."""


@runtime_checkable
class HasFeatures(Protocol):
    """Items that are vectors."""

    features: int
    """Numbers of an item."""


@runtime_checkable
class HasReferencePoints(Protocol):
    """Points of a known distribution to compare samples with."""

    name: Any
    """The distribution's."""

    def reference_points(self, split: Split, count: int | None = None) -> Tensor:
        """The first `count` points of a split, or all, (N, 2)."""


@runtime_checkable
class HasVocabulary(Protocol):
    """Text of known symbols."""

    vocabulary: Any
    """The symbols, or what makes them."""


@runtime_checkable
class HasSymbols(Protocol):
    """Sequences of whole numbers below one."""

    symbols: int
    """How many symbols there are."""


@runtime_checkable
class HasTestLengths(Protocol):
    """Sequences that are tested in windows of several lengths, a loader each."""

    test_lengths: Any
    """The lengths, the first being that of training; None for one."""


@runtime_checkable
class HasPurpose(Protocol):
    """Sentences for an objective."""

    purpose: str
    """similar, labelled, mlm or simcse."""


@runtime_checkable
class HasGroups(Protocol):
    """Groups of sentences that say the same."""

    def groups(self, split: Split, /) -> list[list[str]]:
        """The groups of a split."""


@runtime_checkable
class HasLabelledPairs(Protocol):
    """Pairs of sentences with labels, to judge a cosine by."""

    def labelled(self, split: Split, /) -> dict[str, list[Any]]:
        """The pairs of a split by the name of their set."""


# Modules and callbacks


@runtime_checkable
class HasSamples(Protocol):
    """A module that draws."""

    def sample(self, n: int, /, *, seed: int = 0, first: int = 0) -> Tensor:
        """Samples first, first + 1, ..., each a function of (seed, its number)."""


@runtime_checkable
class HasSampler(Protocol):
    """A module that draws in one of several ways."""

    def sampler_protocol(self, **asked: Any) -> str:
        """The way, in words, where `sample` is given these of its arguments."""
        ...


@runtime_checkable
class WritesLines(Protocol):
    """A module that draws sentences."""

    def generate_text(self, n: int, /, *, seed: int = 0, first: int = 0) -> list[str]:
        """Lines first, first + 1, ..., each a function of (seed, its number)."""


@runtime_checkable
class HasTexts(Protocol):
    """A module that shows by texts what it has learned, as others do by images."""

    def texts(self, n: int, /, *, seed: int = 0) -> Mapping[str, Sequence[str | float]]:
        """Columns of a table by their names, with n texts; none where it has no words."""
        ...


@runtime_checkable
class HasPictures(Protocol):
    """A module that shows more than samples: reconstructions, paths, its manifold."""

    def pictures(self, kind: str, /, **options: Any) -> tuple[Tensor, int]:
        """The images (N, C, H, W) of a kind, and how many make a row."""


@runtime_checkable
class HasProtocol(Protocol):
    """A module or callback that can say how its numbers were made."""

    def protocol(self) -> dict[str, str]:
        """A line for each number, by the name that it is logged under."""


@runtime_checkable
class HasArrays(Protocol):
    """A module whose test finds more than numbers."""

    def arrays(self) -> dict[str, list[float]]:
        """Spectra and histograms for results.json, by name."""


@runtime_checkable
class HasFigures(Protocol):
    """A module that shows what it has learned."""

    def figures(self, moment: Moment, /) -> Mapping[str, Figure]:
        """Figures by name, after a validation, at the end of the training, or after a test.

        Called on every process, in evaluation and with averaged weights; no generator moves.
        """


@runtime_checkable
class HasTabs(Protocol):
    """A module that can be played with on a page, `zoo serve`."""

    def tabs(self) -> Sequence[Tab]:
        """What it offers."""
        ...
