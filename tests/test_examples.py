"""The examples in the docstrings say what the code does."""

import doctest
import importlib
from pathlib import Path

import pytest
import torch

import datamodules
import zoo

ROOT = Path(zoo.__path__[0]).parent
MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in (zoo, datamodules)
    for file in sorted(Path(package.__path__[0]).rglob("*.py"))
    if ">>>" in file.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name), report=True)
    assert result.failed == 0
