"""Tests that would leave something behind, in a process of their own."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a module's function in a fresh process, and raises here what it raises there.

    For whatever compiles: it starts threads, after which PyTorch refuses backward passes in forked
    processes, with which other tests emulate several devices.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()
