"""Corpora from the command line: prepared once, trained on, resumed; stopped, damaged, shared."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

FIT = ["fit", "-c", "flash/shakespeare", "--trainer.accelerator", "cpu", "--data.batch_size", "4"]
FIT += ["--data.sequence_length", "32", "--data.stride", "32", "--data.test_lengths", "[32, 64]"]
FIT += ["--trainer.limit_val_batches", "2", "--trainer.log_every_n_steps", "1"]
FIT += ["--trainer.val_check_interval", "4", "--trainer.enable_progress_bar", "false"]
FIT += ["--model.dim", "16", "--model.depth", "1", "--model.head_size", "8"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 7))) for _ in range(300)]
    lines = (" ".join(draw.choices(words, k=10)) for _ in range(2000))
    (tmp_path / "a.txt").write_text("\n".join(lines))


def started(*arguments):
    command = [sys.executable, "-m", "zoo.cli", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_model_carries_its_tokenizer_from_the_corpus_to_the_text(tmp_path, done, mistake):
    said = done("prepare", "text", "a.txt", "out", "--tokenizer", "bpe", "--vocab_size", 400)
    assert "vocabulary: 400 symbols" in said
    said = done(*FIT, "--data.root", "out", "--run_dir", "r", "--trainer.max_steps", 8)
    assert "data: text of out" in said
    assert "model.vocab_size is 400, as the data have it (not 67)" in said
    done("test", "--ckpt_path", "r")
    results = json.loads(Path("r/results.json").read_text())
    metrics = results["metrics"]
    index = json.loads(Path("out/index.json").read_text())["splits"]["test"]
    per_byte = index["symbols"] / index["bytes"]
    for name in ("test", "baseline"):
        assert metrics[f"{name}/bits_per_byte"] == pytest.approx(
            metrics[f"{name}/bits_per_token"] * per_byte, rel=1e-6
        )
    assert "symbols of each byte" in results["protocol"]["test/bits_per_byte"]
    text = done("generate", "r", "-p", "abc", "-n", 9)
    assert text.startswith("abc")
    tokenizer = Path("out/vocabulary.json").read_bytes()
    state = torch.load("r/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["words.symbols"].numpy().tobytes() == tokenizer
    # Others of the same size: made of another text.
    Path("b.txt").write_text(Path("a.txt").read_text()[::-1])
    done("prepare", "text", "b.txt", "other", "--tokenizer", "bpe", "--vocab_size", 400)
    line = mistake(*FIT, "--data.root", "other", "--run_dir", "r", "--ckpt_path", "last")
    assert "--data.root=other was prepared with another tokenizer (token, " in line
    assert "prepare the text with --tokenizer and the model's run" in line
    done("prepare", "text", "b.txt", "again", "--tokenizer", "r")
    done("test", "--ckpt_path", "r", "--data.root", "again")
    Path("out/train-00000.bin").write_bytes(Path("out/train-00000.bin").read_bytes()[:-2])
    line = mistake(*FIT, "--data.root", "out", "--run_dir", "s")
    assert "out/train-00000.bin is cut off or changed" in line


@pytest.mark.slow
def test_a_run_on_a_mapped_text_resumes_to_the_bit(tmp_path, done):
    for run, root, tokenizer in (("x", "a.txt", "unigram"), ("y", "a.txt", "unigram")):
        flags = ["--data.root", root, "--data.tokenizer", tokenizer, "--run_dir", run]
        flags += ["--data.vocabulary_size", 300]
        if run == "x":
            done(*FIT, *flags, "--trainer.max_steps", 11)
            continue
        done(*FIT, *flags, "--trainer.max_steps", 5)
        said = done(*FIT, *flags, "--ckpt_path", "last", "--trainer.max_steps", 11)
        assert "content of the training data is another" not in said
    one, two = (torch.load(f"{r}/checkpoints/last.ckpt", weights_only=True) for r in "xy")
    for name, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][name]), name


@pytest.mark.long  # a kill, at a moment that hangs on the machine
def test_what_was_killed_goes_on_and_two_at_once_make_one(tmp_path, done):
    text = Path("a.txt").read_text()
    with open("large.txt", "w") as file:
        file.writelines(text for _ in range(15))
    command = ["prepare", "text", "large.txt"]
    flags = ["--tokenizer", "bpe", "--vocab_size", 400, "--processes", 2]
    process = started(*command, "parts", *flags)
    while not Path("parts/train-00000.bin").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    note = json.loads(Path("parts/progress.json").read_text())
    both = [started(*command, "parts", *flags) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
    assert note["pieces"] >= 0
    done(*command, "whole", "--tokenizer", "parts/vocabulary.json", "--processes", 1)
    for split in ("train", "val", "test"):
        name = f"{split}-00000.bin"
        assert np.array_equal(*(np.fromfile(f"{d}/{name}", "u2") for d in ("parts", "whole")))
    assert not [f for f in os.listdir("parts") if f.startswith(("unpacked", "progress"))]


SCRIPT = """\
from zoo.data import Text
data = Text(root="rows.jsonl", tokenizer="bpe", vocabulary_size=300, sequence_length=32)
data.setup("fit")  # where no line says if __name__ == "__main__"
print("read", len(data.split("train")))
"""


@pytest.mark.slow
def test_a_script_is_not_run_again_by_the_processes_that_it_begins(tmp_path, mistake):
    lines = Path("a.txt").read_text().split("\n")
    Path("rows.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("read") == 1
    line = mistake("fit", "-c", "vae/text-shakespeare", "--data.root", "rows.jsonl")
    assert "rows.jsonl has rows, which --data Text reads: give .txt files here" in line
