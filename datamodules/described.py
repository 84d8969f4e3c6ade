"""What a DataModule says, at the start of every verb, about the data that are read."""

from typing import Protocol, runtime_checkable

from lightning.pytorch.utilities import rank_zero_info

from zoo.data.remote import is_remote
from zoo.files import printable


@runtime_checkable
class Described(Protocol):
    """A DataModule that can say what it has read."""

    def describe(self) -> list[str]:
        """Short lines, once `setup(stage)` has run, of the splits that were loaded.

        The first is the format and the place ("JSONL in pairs/"); then "what: how many" each: the
        items of a split, classes or symbols, what was left out and why.
        """


def account(data: Described) -> list[str]:
    """What a DataModule has read, in lines that any file and terminal holds."""
    first, *more = data.describe()
    root = getattr(data, "hparams", {}).get("root")
    copied = [f"copied from {root}"] if is_remote(root) else []
    return [printable(line) for line in (first, *copied, *more)]


def block(lines: list[str]) -> str:
    """The lines as they are shown."""
    first, *more = lines
    return "\n".join([f"data: {first}", *(f"  {line}" for line in more)])


def tell(data: object) -> None:
    """Shows what a DataModule has read, on rank 0; nothing if it does not know."""
    if isinstance(data, Described):
        tell_lines(account(data))


def tell_lines(lines: list[str]) -> None:
    """Shows the lines of such an account, on rank 0."""
    rank_zero_info(block(lines))
