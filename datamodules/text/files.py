"""Text from a file, a folder or the zoo itself, and which part of it is train, val and test."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from zoo.data.protocols import Split
from zoo.data.splits import SPLIT_WORDS, split_named
from zoo.reading import read_bytes

_BARE = {f".{word}" for word in SPLIT_WORDS}  # as in `ptb.train`
_SUFFIXES = {"", ".txt", ".tokens", ".gz", ".zst", *_BARE}
_PACKED = re.compile(r"\.(gz|zst)$")
FileKind = Literal["text", "jsonl", "parquet", "dataset", "stream"]
STREAM = "hf:"  # begins the name of a data set that the library `datasets` streams


class Document(NamedTuple):
    """A text, or the part of it that a split has."""

    path: Path
    """The file that it is of."""
    data: bytes
    line: int = 0
    """Lines of the file before it."""


def embedded() -> Path:
    """The text that the zoo embeds."""
    return Path(__file__).parents[1] / "assets" / "tinyshakespeare.txt.gz"


def kind_of(path: str | Path) -> FileKind:
    """What a file or folder holds, by its name; of a folder by what `datasets` has saved in it."""
    if str(path).startswith(STREAM):
        return "stream"
    if Path(path).is_dir():
        return "dataset"
    name = _PACKED.sub("", Path(path).name.lower())
    return (
        "jsonl"
        if name.endswith((".jsonl", ".ndjson"))
        else ("parquet" if name.endswith(".parquet") else "text")
    )


def documents_of(root: str | None, split: Split, *, lines: bool) -> list[Document]:
    """The documents of a split, in order.

    * No root: tiny Shakespeare (40,000 lines of the plays, public domain), which the zoo embeds.
    * A folder with a file of each split (train, valid or val, test; `ptb.train.txt` and
      `wiki.train.tokens` are such names too): those, a document each. None of the three may lack.
    * Any other folder: its .txt files at any depth, by name. A file: itself. The document that
      these make together is cut at 90 % and 95 % of its bytes, which of enwik8 makes the usual
      90, 5 and 5 million.

    Args:
        root: Folder or file, plain or .gz.
        split: "train", "val" or "test".
        lines: Move a cut to the end of its line; where there are few lines, to a space or at least
            to the end of a character.

    Raises:
        FileNotFoundError: There is no such file or folder, or no text in it, or some splits have a
            file and others have none.
        ValueError: A packed file is damaged or unpacks to too much, or there are rows alone.
    """
    parts = text_files(root)
    listed = [f for files in parts.values() for f in files] if isinstance(parts, dict) else parts
    if rows := [file for file in listed if kind_of(file) != "text"]:
        raise ValueError(f"{rows[0]} has rows, which --data Text reads: give .txt files here")
    if isinstance(parts, dict):
        return [Document(file, read_bytes(file)) for file in parts[split]]
    texts = [read_bytes(file) for file in parts]
    ends = (b"\n", b" \t\n", None) if lines else ()
    return [
        Document(parts[i], texts[i][first:last], texts[i].count(b"\n", 0, first))
        for i, first, last in ranges_of(texts, split, ends)
    ]


def text_files(root: str | None) -> dict[Split, list[Path]] | list[Path]:
    """The files of each split, or the files that are cut into splits.

    Where a folder has no .txt files, those of JSONL, or else of Parquet.

    Raises:
        FileNotFoundError: There is no text at `root`, or none for some splits.
    """
    if root is None:
        return [embedded()]
    path = Path(root)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no such file or folder: {root} (set --data.root)")
    splits = get_args(Split)
    one = {split: find_split(path, split) for split in splits}
    own = {split: [file] for split, file in one.items() if file is not None}
    files = [] if own else sorted(file for file in path.rglob("*") if file.is_file())
    texts = [file for file in files if _PACKED.sub("", file.name.lower()).endswith(".txt")]
    for kind in ("jsonl", "parquet"):
        if not texts and (texts := [file for file in files if kind_of(file) == kind]):
            by_name = {s: [f for f in texts if split_named(f.name) == s] for s in splits}
            named = {split: group for split, group in by_name.items() if group}
            own = {} if list(named) == ["train"] else named  # which is all that there is
    if len(own) == len(splits):
        return own
    if own:  # to cut all files anew would train on what was kept for the test
        missing = [split for split in splits if split not in own]
        names = " and ".join(
            "/".join(sorted(word for word, split in SPLIT_WORDS.items() if split == name))
            for name in missing
        )
        raise FileNotFoundError(f"{root} has files of some splits, but none named {names}")
    if not texts:
        raise FileNotFoundError(
            f"no text in {root}: it needs train.txt, valid.txt and test.txt, or any .txt, .jsonl "
            "or .parquet files"
        )
    return texts


def left_out(root: str | None) -> list[str]:
    """Names of the files of a folder that are no text of the set."""
    if root is None or not Path(root).is_dir():
        return []
    parts = text_files(root)
    taken = {f for files in parts.values() for f in files} if isinstance(parts, dict) else parts
    return sorted(f.name for f in Path(root).rglob("*") if f.is_file() and f not in taken)


def find_split(folder: Path, split: Split) -> Path | None:
    """The file of a split in `folder`: a part of its name, between dots, is the split's."""
    for file in sorted(folder.iterdir()):
        named = split_named(file.name, r"\.") == split
        if named and file.is_file() and file.suffix.lower() in _SUFFIXES:
            return file
    return None


def ranges_of(
    texts: Sequence[Any], split: Split, ends: Sequence[bytes | None]
) -> list[tuple[int, int, int]]:
    """The part of a split: bytes [0, 90 %), [90 %, 95 %) or [95 %, 100 %) of all texts.

    Args:
        texts: The texts, one behind the other: bytes, or what has their length and finds in them.
        split: Which part.
        ends: Bytes behind which the bounds are moved, the first that leave no split empty; None for
            the end of a character. None of them: the bounds stay. A line's end alone: always.

    Returns:
        The number of each text of which there is a part, and where that begins and ends.
    """
    total = sum(map(len, texts))
    bounds = [0, total * 90 // 100, total * 95 // 100, total]
    for which in ends:
        moved = [_next(texts, bound, which) for bound in bounds[1:3]]
        if len({0, *moved, total}) == 4 or which == ends[-1] == b"\n":
            bounds[1:3] = moved
            break
    i = get_args(Split).index(split)
    parts, start = [], 0
    for number, data in enumerate(texts):
        first, last = (min(max(bound - start, 0), len(data)) for bound in bounds[i : i + 2])
        if first < last:
            parts.append((number, first, last))
        start += len(data)
    return parts


def _next(texts: Sequence[Any], position: int, ends: bytes | None) -> int:
    """The first position from `position` on that is behind such a byte, or begins a text.

    Without `ends`: that begins a character of UTF-8.
    """
    start = 0
    for data in texts:
        end = start + len(data)
        if start < position < end:
            at = position - start
            if ends is None:
                while at < len(data) and data[at] & 0xC0 == 0x80:
                    at += 1
                return start + at
            found = [place for byte in ends if (place := data.find(bytes([byte]), at - 1)) >= 0]
            return start + min(found) + 1 if found else end
        start = end
    return position
