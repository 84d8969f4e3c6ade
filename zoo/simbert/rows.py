"""Rows of text files: their lines with numbers, and what is said of those that cannot be read."""

import gzip
import warnings
from collections.abc import Iterator
from pathlib import Path

_NAMED = 3  # bad rows that a warning spells out


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file, .gz or plain, with their numbers from 1.

    Raises:
        ValueError: A line is not UTF-8.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: not UTF-8, convert the file") from error


class Problems:
    """Bad rows of a file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[str]()

    def add(self, line: int, reason: str) -> None:
        """Remembers a bad row."""
        self.rows.append(f"{self.path}, line {line}: {reason}")

    def tell(self, good: int) -> None:
        """Warns of the bad rows.

        Args:
            good: Rows that could be read.

        Raises:
            ValueError: There are none.
        """
        if not good:
            first = self.rows[0] if self.rows else f"{self.path} is empty"
            raise ValueError(f"{self.path} has no row that can be read: {first}")
        if self.rows:
            more = len(self.rows) - _NAMED
            shown = "; ".join(self.rows[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
            warnings.warn(
                f"left out {len(self.rows)} of {good + len(self.rows)} rows: {shown}", stacklevel=3
            )
