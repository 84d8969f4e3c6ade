#!/usr/bin/env bash
# jsonargparse takes Annotated[int, annotated_types.Ge(1)] as a type and validates such types.
# One would guess: where annotated-types is installed, -1 is refused, or the annotation is.
# True: without pydantic the range is shown in the help and checked by nobody; -1 goes through with
# no word. With pydantic installed the same program refuses it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet "jsonargparse[signatures]==4.53.0" "annotated-types==0.7.0"
cat >program.py <<'PY'
import sys
from typing import Annotated

import annotated_types
import jsonargparse


def train(width: Annotated[int, annotated_types.Ge(1)] = 8):
    """Trains.

    Args:
        width: Units.
    """
    print("width", width)


parser = jsonargparse.ArgumentParser(exit_on_error=False)
parser.add_function_arguments(train)
try:
    train(**parser.parse_args(sys.argv[1:]).as_dict())
except Exception as error:
    print("refused:", " ".join(str(error).split())[:100])
PY
venv/bin/python --version
venv/bin/pip list 2>/dev/null | grep -i -E "jsonargparse|annotated|pydantic"
echo "without pydantic:"
without=$(venv/bin/python program.py --width=-1)
echo "  $without"
venv/bin/pip install --quiet "pydantic==2.12.5"
echo "with pydantic:"
with=$(venv/bin/python program.py --width=-1)
echo "  $with"
[ "$without" = "width -1" ] && [[ $with == refused:* ]]
