"""Tiny Shakespeare as nanoGPT cuts it: the last tenth is for the validation."""

import gzip
from pathlib import Path

from zoo.data.text.files import embedded


def write_split(folder: Path) -> None:
    """Writes train.txt, valid.txt and test.txt, unless they are there.

    nanoGPT has no test: ours is the second half of the validation's part, the text that the zoo
    keeps for the test by itself.
    """
    with gzip.open(embedded(), "rt", encoding="utf-8", newline="") as file:
        text = file.read()
    first, middle = len(text) * 9 // 10, len(text) * 95 // 100
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", text[:first]), ("valid", text[first:]), ("test", text[middle:])):
        path = folder / f"{name}.txt"
        if not path.is_file():
            path.write_text(part, "utf-8", newline="")
