"""Names of many files in one: {000..146} and {a,b}, as WebDataset writes them."""

import re

_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_MOST_SHARDS = 1_000_000


def expanded(pattern: str) -> list[str]:
    """The names that braces stand for, as WebDataset writes them: {000..146} or {a,b}.

    Raises:
        ValueError: They stand for none, or for more shards than are read.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    low, high, listed = match.groups()
    numbers = range(int(low), int(high) + 1) if low else ()
    if low and not 0 < int(high) - int(low) + 1 <= _MOST_SHARDS:
        raise ValueError(
            f"{pattern}: {match[0]} must count upwards, to at most {_MOST_SHARDS:,} shards"
        )
    parts = [f"{n:0{len(low)}}" for n in numbers] if low else listed.split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    behind = expanded(after)
    if len(parts) * len(behind) > _MOST_SHARDS:
        raise ValueError(f"{pattern} stands for more than {_MOST_SHARDS:,} shards")
    return [f"{before}{part}{end}" for part in parts for end in behind]
