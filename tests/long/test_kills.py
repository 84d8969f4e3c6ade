"""Ten kills of each model's runs; `make test-long` goes on to a hundred and writes the table."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.long.kills import all_series

MODELS = sorted({series.model for series in all_series()})


@pytest.mark.long
@pytest.mark.parametrize("model", MODELS)
def test_runs_that_are_killed_and_resumed_end_as_the_undisturbed_one(model):
    command = [sys.executable, "-m", "tests.long.kills", "--kills", "10", "--only", model]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
