"""Waits: nothing of short ones, two lines of long ones, a bar in a terminal alone."""

import os
import pty
import re
import subprocess
import sys
import termios
import time

import pytest

from zoo import waiting as module
from zoo.waiting import Bar, silent, unmeasured, waiting


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_short_wait_is_silent(clock, capsys):
    assert list(waiting(range(1000), "count")) == list(range(1000))
    assert capsys.readouterr() == ("", "")


def test_a_long_one_has_an_estimate_once_and_an_end(clock, capsys):
    with Bar("read", 1000, "rows", done=200) as bar:
        for _ in range(800):
            clock[0] += 0.05
            bar.update()
    assert bar.n == 1000
    # After 101 of the 800 rows that are left, each of 0.05 seconds.
    expected = "read: 301 of 1,000 rows, about 35 seconds more\nread: 1,000 rows in 40 seconds\n"
    assert capsys.readouterr().err == expected


def test_an_estimate_leaves_out_what_was_before_the_first(clock, capsys):
    """Workers that start for 20 seconds, then 100 a second: not the rate of the first one."""
    with Bar("read", 10_000, "pictures") as bar:
        clock[0] += 20
        for _ in range(100):
            bar.update(100)
            clock[0] += 1
    first, told, end = capsys.readouterr().err.splitlines()
    assert first == "read: 100 of 10,000 pictures"
    assert told == "read: 200 of 10,000 pictures, about 98 seconds more"
    assert end == "read: 10,000 pictures in 2 minutes"


def test_of_what_nobody_can_count_it_says_how_many_were_done(clock, capsys):
    def items():
        for i in range(10):
            clock[0] += 1
            yield i

    assert len(list(waiting(items(), "mine", unit="groups"))) == 10
    assert capsys.readouterr().err == "mine: 6 groups\nmine: 10 groups in 10 seconds\n"


def test_other_processes_say_nothing(clock, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with Bar("read", 2) as bar:
        clock[0] += 100
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_what_is_done_within_another_bar_is_silent(clock, capsys, monkeypatch):
    monkeypatch.setattr(module, "_LONG", 0.0)
    with silent(), Bar("read", 2) as bar, unmeasured("compiling"):
        clock[0] += 100
        bar.update(2)
        time.sleep(0.1)
    assert capsys.readouterr().err == ""
    with Bar("read", 2) as bar:
        clock[0] += 100
        bar.update(2)
    assert "read: 2 items" in capsys.readouterr().err


def test_what_has_no_end_is_told_and_timed(capsys, monkeypatch):
    monkeypatch.setattr(module, "_LONG", 0.05)
    with unmeasured("compiling", "usually 30 s"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "compiling, usually 30 s ...\ncompiling: 0 seconds\n"
    with unmeasured("compiling"):
        pass
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar():
    code = (
        "import time, zoo.waiting as w\nw._SHORT = 0.1\n"
        "for _ in w.waiting(range(20), 'read', unit='rows'): time.sleep(0.05)"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        shown += part
    assert process.wait() == 0
    os.close(ours)
    assert re.search(rb"read: +\d+%.*/20.* rows/s", shown)
