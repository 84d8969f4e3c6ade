"""Which files of sentences there are: named ones, those of a folder, or the embedded pairs."""

from pathlib import Path
from typing import Literal, NamedTuple

from zoo.data.sentences.tables import ACCEPTED, is_table
from zoo.data.splits import split_named

EMBEDDED = "pawsx-zh-dev"
_TABLES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json")


class Source(NamedTuple):
    """A file of sentences."""

    path: Path
    split: Literal["val", "test"] | None
    """The split that it is of; None if it is to train on, and for the splits without files."""


def source_of(path: Path) -> Source:
    """A file of a folder, with the split that its name says, as names of GLUE's files do."""
    split = split_named(path.name)
    return Source(path, None if split == "train" else split)


def embedded() -> Path:
    """The file of the pairs that the zoo embeds."""
    return Path(__file__).parents[1] / "assets" / f"{EMBEDDED}.tsv.gz"


def named(root: str | None, name: str) -> Path:
    """The file of this name in a folder, or at this path."""
    first = Path(root or "data") / name
    for path in (first, Path(name)):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no such file: {first} (set --data.root to its folder)")


def scanned(root: Path, *, single: bool) -> tuple[list[Source], list[str]]:
    """The files of sentences in a folder, by name, and what was left out and why.

    Files whose names say dev or test are of that split, see `source_of`.

    Args:
        root: A folder, or a file.
        single: Take files of single sentences too.

    Raises:
        FileNotFoundError: There is no such folder, or nothing in it to train on.
    """
    if root.is_file():
        return [Source(root, None)], []
    if not root.is_dir():
        raise FileNotFoundError(f"no such file or folder: {root} (set --data.root)")
    found, other = [], []
    for path in sorted(root.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and _is_taken(path, single):
            found.append(source_of(path))
        else:
            other.append(path.name + "/" * path.is_dir())
    if found and all(source.split is not None for source in found):
        kept = ", ".join(f"{source.path.name} is of {source.split}" for source in found[:5])
        raise FileNotFoundError(
            f"no file of sentences to train on in {root}: {kept}, by its name; rename one that "
            "trains, or give it itself as --data.root"
        )
    if not found:
        names = ", ".join(other[:5]) or "nothing else"
        raise FileNotFoundError(f"no file of sentences to train on in {root} ({names}): {ACCEPTED}")
    shown = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
    return found, [f"left out: {shown} (no files of sentences)"] if other else []


def _is_taken(path: Path, single: bool) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind in _TABLES:
        return True
    return kind in (".txt", ".tab") and (single or is_table(path))
