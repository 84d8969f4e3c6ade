"""What may import what: the contracts stand in pyproject.toml, and import-linter reads them."""

import subprocess
import sys
from pathlib import Path


def test_no_file_imports_what_is_above_it():
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
