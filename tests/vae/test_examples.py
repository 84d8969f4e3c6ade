"""The examples in the docstrings say what the code does."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import zoo.vae

MODULES = [m.name for m in pkgutil.walk_packages(zoo.vae.__path__, "zoo.vae.") if not m.ispkg]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(name), report=True)
    assert result.failed == 0
