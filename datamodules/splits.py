"""The words that name a split, in files and folders."""

import re

from zoo.data.protocols import Split

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "eval"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}


def split_named(name: str, between: str = "[._-]") -> Split | None:
    """The split that a file's name says, if it says one and no other.

    Args:
        name: The name, such as `ptb.valid.txt` or `dev_matched.tsv`.
        between: What parts its words, a regular expression.
    """
    words = re.split(between, name.lower())
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None
