#!/usr/bin/env bash
# jsonargparse reads a value as the first type of a union that takes it, so that Union[int, float]
# keeps 1 (so many batches, to Lightning's Trainer) and 1.0 (all of them) apart.
# One would guess: the order in which a signature writes its types decides.
# True: Python's typing caches Optional[...] by equality, and Union[int, float] equals
# Union[float, int]. Whoever writes one of them first, in any package within the last 128 unions,
# decides for all, int | float | None among them: 1 is then read as 1.0, with no word.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet "jsonargparse[signatures]==4.53.0"
cat >program.py <<'PY'
import sys
from typing import Optional, Union

import jsonargparse

if "another package" in sys.argv:
    Optional[Union[float, int]]


def train(limit: Optional[Union[int, float]] = None, part: int | float | None = None):
    """Trains.

    Args:
        limit: So many batches, or a share of them.
        part: The same, in the form of Python 3.10.
    """


parser = jsonargparse.ArgumentParser(exit_on_error=False)
parser.add_function_arguments(train)
found = parser.parse_args(["--limit=1", "--part=1"])
print("limit", found.limit, "part", found.part)
PY
venv/bin/python --version
venv/bin/pip list 2>/dev/null | grep -i jsonargparse
alone=$(venv/bin/python program.py)
after=$(venv/bin/python program.py "another package")
echo "alone: $alone"
echo "where another package wrote Optional[Union[float, int]] before: $after"
[ "$alone" = "limit 1 part 1" ] && [ "$after" = "limit 1.0 part 1.0" ]
