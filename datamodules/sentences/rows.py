"""What is said of rows of a file that cannot be read."""

import warnings
from collections.abc import Sequence
from pathlib import Path

_NAMED = 3  # bad rows that a warning spells out


class Problems:
    """Bad rows of a file.

    Args:
        path: The file.
        rows: Those that are known already.
        told: Whether they were told before.
    """

    def __init__(self, path: Path, rows: Sequence[str] = (), *, told: bool = False) -> None:
        self.path, self.rows, self.told = path, list(rows), told

    def add(self, line: int, reason: str) -> None:
        """Remembers a bad row."""
        self.rows.append(f"{self.path}, line {line}: {reason}")

    def tell(self, good: int) -> None:
        """Warns of the bad rows, once; raises ValueError if there is no good one."""
        if not good:
            first = self.rows[0] if self.rows else f"{self.path} is empty"
            raise ValueError(f"{self.path} has no row that can be read: {first}")
        if self.rows and not self.told:
            self.told = True
            more = len(self.rows) - _NAMED
            shown = "; ".join(self.rows[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
            warnings.warn(
                f"left out {len(self.rows)} of {good + len(self.rows)} rows: {shown}", stacklevel=3
            )
