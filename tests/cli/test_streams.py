"""What - stands for where a verb writes."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest

import zoo
from zoo.registry import COMMANDS

# Verbs that write files or folders, with the option or the place of what they write last.
_OTHERS = [
    ("compress", "CKPT", "test", "--out"),
    ("decompress", "CKPT", "a.zbb", "--out"),
    ("evaluate", "a", "b", "--out"),
    ("export", "CKPT"),
    ("import", "--format", "openai", "a.pt"),
    ("mine-pairs", "documents", "a.txt", "--output"),
    ("plot", "RUN", "--out"),
    ("prepare", "text", "a.txt"),
    ("push", "CKPT", "OWNER/REPO", "--space", "--out"),
    ("report", "RUN", "--out"),
    ("similar", "CKPT", "--query", "a", "-i", "a.txt", "--index"),
    ("study", "wasserstein", "--run_dir"),
    ("tune", "-c", "ddpm/digits", "--out"),
]


@pytest.mark.parametrize("command", _OTHERS, ids=lambda command: command[0])
def test_a_dash_is_no_name_of_a_file(command, zoo_cli):
    code, _, err = zoo_cli(*command, "-")
    assert (code, err.count("\n")) == (2, 1)
    assert f" -: zoo {command[0]} writes nothing to standard output: give a name" in err
    assert not os.listdir()


def test_a_dash_that_is_read_is_no_option(zoo_cli):
    code, _, err = zoo_cli("report", "-")
    assert (code, err) == (2, "zoo: error: - is not there: give a folder that `zoo fit` wrote\n")


def test_streams_are_options_of_their_verbs():
    streams = {verb: row.stream for verb, row in COMMANDS.items() if row.stream}
    assert streams == {"sample": "out", "embed": "output", "density": "out"}


@pytest.mark.slow
def test_vectors_and_densities_go_through_a_pipe(tmp_path):
    """As bytes of one .npy or CSV, and what is told beside them."""
    (tmp_path / "lines.txt").write_text("今天天气好\n你好吗\n")

    def run(*arguments):
        ran = subprocess.run(
            [sys.executable, "-m", "zoo.cli", *arguments], capture_output=True, check=True
        )
        return ran.stdout, ran.stderr.decode()

    written, told = run("embed", "simbert/zh", "-i", "lines.txt", "-o", "-")
    file = io.BytesIO(written)
    vectors = np.load(file)
    assert (file.tell(), vectors.shape) == (len(written), (2, 192))
    assert "2 vectors of 192 features" in told
    expected = zoo.load("simbert/zh").encode(["今天天气好", "你好吗"]).numpy()
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    density = ("density", "vae/digits", "--samples", "2", "--limit", "3", "--refine", "0")
    written, told = run(*density, "--out", "-")
    rows = written.decode().splitlines()
    assert (len(rows), rows[0].split(",")[0]) == (4, "index")
    assert "log_density " in told
    assert not (tmp_path / "-").exists()


def test_pairs_are_written_to_no_device_and_no_pipe(mistake, tmp_path):
    (tmp_path / "a.txt").write_text("some words of a text\n" * 3)
    reader, writer = os.pipe()  # whose path is that of no file
    for kind in ("lines", "documents"):
        for device in ("/dev/null", f"/dev/fd/{writer}"):
            said = mistake("mine-pairs", kind, "a.txt", "--output", device)
            assert f"{device} is no file: choose another output" in said
    os.close(reader)
    os.close(writer)
