"""A text that datatrove's tasks prepare has the bytes of one that this process prepares."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from zoo.data.text import prepare as preparing
from zoo.data.text import tasks


@pytest.fixture(autouse=True)
def loguru_writes_to_the_stderr_of_now():
    """It keeps the one that it was imported under, which is closed in the next test."""
    try:
        from loguru import logger
    except ImportError:
        return
    logger.remove()
    logger.add(lambda message: sys.stderr.write(message))


def files(folder):
    """The bytes of a prepared text."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).iterdir())
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def corpus(monkeypatch):
    """Several pieces of several files."""
    monkeypatch.setattr(preparing, "_STEP", 2**12)
    monkeypatch.setattr(preparing, "_SMALL_STEP", 2**12)
    Path("corpus").mkdir()
    lines = [f"{i}: 今天天气 {hashlib.sha256(bytes(i)).hexdigest()}" for i in range(400)]
    Path("corpus/a.txt").write_text("\n\n".join(lines), encoding="utf-8")
    rows = [json.dumps({"text": line[::-1]}) for line in lines]
    Path("rows.jsonl").write_text("\n".join(rows), encoding="utf-8")


def test_without_the_extra_one_line_says_what_to_install(corpus, mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "datatrove", None)
    monkeypatch.setitem(sys.modules, "datatrove.executor", None)
    line = mistake("prepare", "text", "corpus", "out", "--executor", "local")
    assert 'pip install "lightning-model-zoo[datatrove]"' in line


@pytest.mark.slow
def test_two_workers_write_what_one_process_writes(corpus, zoo_cli):
    pytest.importorskip("datatrove", reason="needs the extra datatrove")
    for number, (root, *flags) in enumerate((
        ("corpus", "--tokenizer", "char"),
        ("rows.jsonl", "--tokenizer", "bpe", "--vocab_size", "400"),
    )):  # fmt: skip
        for out, more in ((f"one{number}", ["--processes", "1"]),
                          (f"two{number}", ["--executor", "local", "--tasks", "3"])):  # fmt: skip
            code, _, err = zoo_cli("prepare", "text", root, out, *flags, *more)
            assert code == 0, err
        assert len(files(f"one{number}")) > 8
        assert files(f"two{number}") == files(f"one{number}")


@pytest.mark.slow
def test_slurm_runs_the_tasks_and_the_command_waits_for_them(corpus, zoo_cli, mistake, monkeypatch):
    """With an sbatch that starts the tasks of an array at once."""
    pytest.importorskip("datatrove", reason="needs the extra datatrove")
    Path("bin").mkdir()
    Path("bin/sbatch").write_text(f"""\
#!{sys.executable}
import os, re, subprocess, sys
text = sys.stdin.read() if not os.path.exists(sys.argv[-1]) else open(sys.argv[-1]).read()
array = re.search(r"--array=0-([0-9]+)", text)
job = re.search(r"launch_pickled_pipeline (\\S+)", text)
for i in range(int(array[1]) + 1) if job else []:
    subprocess.Popen([sys.executable, "-m", "datatrove.tools.launch_pickled_pipeline", job[1]],
                     env={{**os.environ, "SLURM_ARRAY_TASK_ID": str(i), "SLURM_NODELIST": "here"}},
                     stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
""")
    for name, line in (("squeue", "exit 0"), ("scontrol", "echo here")):
        Path("bin", name).write_text(f"#!/bin/sh\n{line}\n")
    for path in Path("bin").iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}:{os.environ['PATH']}")
    monkeypatch.setenv("SBATCH_PARTITION", "cpu")
    monkeypatch.setattr(tasks, "_WAIT", 0.1)
    for out, more in (("one", []), ("two", ["--executor", "slurm", "--tasks", "2"])):
        code, _, err = zoo_cli("prepare", "text", "corpus", out, "--tokenizer", "byte", *more)
        assert code == 0, err
    assert files("two") == files("one")
    Path("bin/scontrol").write_text("#!/bin/sh\nexit 1\n")
    line = mistake("prepare", "text", "corpus", "three", "--executor", "slurm", "--tasks", "2")
    assert "2 tasks of job 7 ended before they were done" in line


def test_what_was_made_before_a_stop_is_not_made_again(corpus, monkeypatch):
    made = []

    def count(piece, how):
        made.append(piece)
        return [piece, how]

    task = tasks.Task(count, ["a", "b", "c"], "how", Path.cwd())
    task(None, 1, 2)
    task(None, 0, 2)
    task(None, 0, 1)
    assert made == ["b", "a", "c"]
    task.file("b").write_bytes(task.file("a").read_bytes()[:-30])
    task.file("c").unlink()
    assert [task.result(piece) for piece in "abc"] == [("a", "how"), ["b", "how"], ["c", "how"]]
    assert made == ["b", "a", "c", "b", "c"]


def test_what_a_task_refuses_is_told_where_its_result_is_asked_for():
    def refuse(piece, how):
        if piece == "b":
            raise ValueError("b is damaged")
        return [piece, how]

    task = tasks.Task(refuse, ["a", "b", "c"], "how", Path.cwd())
    task(None, 0, 1)
    assert [task.file(piece).is_file() for piece in "abc"] == [True, False, True]
    assert task.result("c") == ("c", "how")
    with pytest.raises(ValueError, match="b is damaged"):
        task.result("b")
