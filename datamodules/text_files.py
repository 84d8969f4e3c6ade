"""Text from a file, a folder or the zoo itself, and which part of it is train, val and test."""

import gzip
from importlib.resources import files
from pathlib import Path

from datamodules.image_data import Split

_NAMES: dict[Split, set[str]] = {
    "train": {"train"},
    "val": {"valid", "val", "validation", "dev"},
    "test": {"test"},
}
_BARE = {f".{name}" for names in _NAMES.values() for name in names}  # as in `ptb.train`


def read_documents(root: str | None, split: Split, *, lines: bool) -> list[bytes]:
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
        lines: Move a cut to the end of its line.

    Raises:
        FileNotFoundError: There is no such file or folder, or no text in it, or some splits have a
            file and others have none.
    """
    if root is None:
        packed = files("datamodules") / "assets" / "tinyshakespeare.txt.gz"
        return _cut([gzip.decompress(packed.read_bytes())], split, lines)
    path = Path(root)
    if path.is_file():
        return _cut([_read(path)], split, lines)
    if not path.is_dir():
        raise FileNotFoundError(f"no such file or folder: {root} (set --data.root)")
    own = {name: find_split(path, name) for name in _NAMES}
    if all(own.values()):
        file = own[split]
        assert file is not None
        return [_read(file)]
    missing = [_NAMES[name] for name, file in own.items() if file is None]
    if len(missing) < len(own):  # to cut all files anew would train on what was kept for the test
        names = " and ".join("/".join(sorted(part)) for part in missing)
        raise FileNotFoundError(f"{root} has files of some splits, but none named {names}")
    texts = [file for pattern in ("*.txt", "*.txt.gz") for file in path.rglob(pattern)]
    if not texts:
        raise FileNotFoundError(
            f"no text in {root}: it needs train.txt, valid.txt and test.txt, or any .txt files"
        )
    return _cut([_read(file) for file in sorted(texts)], split, lines)


def find_split(folder: Path, split: Split) -> Path | None:
    """The file of a split in `folder`: a part of its name, between dots, is the split's."""
    for file in sorted(folder.iterdir()):
        named = not _NAMES[split].isdisjoint(file.name.split("."))
        if named and file.is_file() and file.suffix in ("", ".txt", ".tokens", ".gz", *_BARE):
            return file
    return None


def _read(file: Path) -> bytes:
    data = file.read_bytes()
    if file.suffix == ".gz":
        try:
            return gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise ValueError(f"{file} is cut off or not gzip") from error
    return data


def _cut(documents: list[bytes], split: Split, lines: bool) -> list[bytes]:
    """The part of a split: bytes [0, 90 %), [90 %, 95 %) or [95 %, 100 %) of all documents."""
    total = sum(map(len, documents))
    bounds = [0, total * 90 // 100, total * 95 // 100, total]
    if lines:
        bounds[1:3] = [_line_end(documents, bound) for bound in bounds[1:3]]
    i = ("train", "val", "test").index(split)
    first, last = bounds[i], bounds[i + 1]
    parts, start = [], 0
    for document in documents:
        part = document[max(first - start, 0) : max(last - start, 0)]
        if part:
            parts.append(part)
        start += len(document)
    return parts


def _line_end(documents: list[bytes], position: int) -> int:
    """The first position from `position` on at which a line or a document begins."""
    start = 0
    for document in documents:
        end = start + len(document)
        if start < position < end:
            found = document.find(b"\n", position - 1 - start)
            return end if found < 0 else start + found + 1
        start = end
    return position
