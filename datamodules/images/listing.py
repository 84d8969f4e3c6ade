"""What there is of a set of pictures: the files of each split, their classes, what is left out."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from zoo.data.images.files import ImageFiles
from zoo.data.images.layout import Folders, sort_files
from zoo.data.protocols import Split
from zoo.files import printable


@dataclass
class Known:
    """What is said of pictures, which a cache keeps, so that no file need be looked at."""

    counts: dict[Split, int]
    """Files of each split."""
    classes: list[str]
    unlabelled: list[Split]
    """Splits whose images have no class, though there are classes."""
    hashed: list[Split]
    """Splits that are parted from train by a hash."""
    formats: list[tuple[str, int]]
    notes: list[str]
    left_out: list[str]


@dataclass
class Listing:
    """The files of each split, in order, and their classes."""

    names: dict[Split, list[str]]
    class_of: dict[str, str]
    known: Known

    def labels(self, names: Iterable[str]) -> NDArray[np.int64]:
        """The numbers of the classes of files; 0 of those that have none."""
        number = {name: i for i, name in enumerate(self.known.classes)}
        return np.array([number.get(self.class_of.get(n, ""), 0) for n in names], np.int64)


def list_pictures(files: ImageFiles, root: object, folders: Folders) -> Listing:
    """Sorts all files into splits and classes.

    Args:
        files: The files.
        root: For messages.
        folders: As `sort_files` takes it.

    Raises:
        FileNotFoundError: There are no pictures.
        ValueError: The folders may mean two things, or an archive is damaged.
    """
    layout = sort_files(files.names(), root, folders, numbered=files.labelled)
    given, hashed = layout.splits, list[Split]()
    keys = {name: parts for group in given.values() for name, parts in group.items()}
    ranks = {name: _rank("/".join(parts)) for name, parts in keys.items()}
    for decile, split in enumerate(get_args(Split)[1:]):
        if split not in given and "train" in given:
            part = [name for name in given["train"] if ranks[name] % 10 == decile]
            given[split] = {name: given["train"].pop(name) for name in part}
            hashed.append(split)
    names: dict[Split, list[str]] = {
        split: sorted(given.get(split, {}), key=lambda n: (ranks[n], n))
        for split in get_args(Split)
    }
    unlabelled = layout.unlabelled | {s for s in hashed if "train" in layout.unlabelled}
    more = []
    if layout.left_out:
        shown = ", ".join(layout.left_out[:5]) + (", ..." if len(layout.left_out) > 5 else "")
        more = [f"{len(layout.left_out):,} outside of the folders ({shown})"]
    class_of = {name: printable(kind) for name, kind in layout.class_of.items()}
    kinds = Counter(PurePosixPath(n).suffix.lower() for group in names.values() for n in group)
    known = Known(
        counts={split: len(group) for split, group in names.items()},
        classes=list(dict.fromkeys(map(printable, layout.classes))),
        unlabelled=sorted(unlabelled),
        hashed=hashed,
        formats=[(printable(kind), n) for kind, n in kinds.most_common()],
        notes=[printable(note) for note in layout.notes],
        left_out=[printable(line) for line in files.left_out_lines(more)],
    )
    return Listing(names, class_of, known)


def _rank(name: str) -> int:
    """A fixed pseudo-random 63-bit number of a file name, the same on every machine."""
    digest = blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
