"""Text from a file, a folder or the zoo itself, and which part of it is train, val and test."""

from pathlib import Path
from typing import NamedTuple, get_args

from zoo.data.protocols import Split
from zoo.data.splits import SPLIT_WORDS, split_named
from zoo.reading import read_bytes

_BARE = {f".{word}" for word in SPLIT_WORDS}  # as in `ptb.train`
_SUFFIXES = {"", ".txt", ".tokens", ".gz", *_BARE}


class Document(NamedTuple):
    """A text, or the part of it that a split has."""

    path: Path
    """The file that it is of."""
    data: bytes
    line: int = 0
    """Lines of the file before it."""


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
        ValueError: A .gz is damaged, or unpacks to too much.
    """
    parts = text_files(root)
    if isinstance(parts, dict):
        return [Document(parts[split], read_bytes(parts[split]))]
    return _cut([Document(file, read_bytes(file)) for file in parts], split, lines)


def text_files(root: str | None) -> dict[Split, Path] | list[Path]:
    """The file of each split, or the files that are cut into splits.

    Raises:
        FileNotFoundError: There is no text at `root`, or none for some splits.
    """
    if root is None:
        return [Path(__file__).parents[1] / "assets" / "tinyshakespeare.txt.gz"]
    path = Path(root)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no such file or folder: {root} (set --data.root)")
    own = {name: find_split(path, name) for name in get_args(Split)}
    found = {name: file for name, file in own.items() if file is not None}
    if len(found) == len(own):
        return found
    if found:  # to cut all files anew would train on what was kept for the test
        missing = [name for name, file in own.items() if file is None]
        names = " and ".join(
            "/".join(sorted(word for word, split in SPLIT_WORDS.items() if split == name))
            for name in missing
        )
        raise FileNotFoundError(f"{root} has files of some splits, but none named {names}")
    texts = [file for file in path.rglob("*") if file.is_file() and _is_text(file)]
    if not texts:
        raise FileNotFoundError(
            f"no text in {root}: it needs train.txt, valid.txt and test.txt, or any .txt files"
        )
    return sorted(texts)


def _is_text(file: Path) -> bool:
    return file.name.lower().endswith((".txt", ".txt.gz"))


def left_out(root: str | None) -> list[str]:
    """Names of the files of a folder that are no text of the set."""
    if root is None or not Path(root).is_dir():
        return []
    parts = text_files(root)
    taken = set(parts.values() if isinstance(parts, dict) else parts)
    return sorted(f.name for f in Path(root).rglob("*") if f.is_file() and f not in taken)


def find_split(folder: Path, split: Split) -> Path | None:
    """The file of a split in `folder`: a part of its name, between dots, is the split's."""
    for file in sorted(folder.iterdir()):
        named = split_named(file.name, r"\.") == split
        if named and file.is_file() and file.suffix.lower() in _SUFFIXES:
            return file
    return None


def _cut(documents: list[Document], split: Split, lines: bool) -> list[Document]:
    """The part of a split: bytes [0, 90 %), [90 %, 95 %) or [95 %, 100 %) of all documents."""
    total = sum(len(document.data) for document in documents)
    bounds = [0, total * 90 // 100, total * 95 // 100, total]
    if lines:
        bounds[1:3] = _whole_lines(documents, bounds[1:3], total)
    i = ("train", "val", "test").index(split)
    first, last = bounds[i], bounds[i + 1]
    parts, start = [], 0
    for path, data, _ in documents:
        here = max(first - start, 0)
        part = data[here : max(last - start, 0)]
        if part:
            parts.append(Document(path, part, data.count(b"\n", 0, here)))
        start += len(data)
    return parts


def _whole_lines(documents: list[Document], bounds: list[int], total: int) -> list[int]:
    """The bounds moved to where a line begins; or, if a split were empty, a word or a character."""
    for ends in (b"\n", b" \t\n", None):
        moved = [_next(documents, bound, ends) for bound in bounds]
        if len({0, *moved, total}) == len(moved) + 2:
            return moved
    return bounds


def _next(documents: list[Document], position: int, ends: bytes | None) -> int:
    """The first position from `position` on that is behind such a byte, or begins a document.

    Without `ends`: that begins a character of UTF-8.
    """
    start = 0
    for _, data, _ in documents:
        end = start + len(data)
        if start < position < end:
            at = position - start
            if ends is None:
                while at < len(data) and data[at] & 0xC0 == 0x80:
                    at += 1
                return start + at
            found = [place for byte in ends if (place := data.find(byte, at - 1)) >= 0]
            return start + min(found) + 1 if found else end
        start = end
    return position
