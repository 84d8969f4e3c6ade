"""What users tried with text, pairs and sentence models, from the command line."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
SIMBERT = ["-c", "simbert/demo", "--trainer.accelerator", "cpu", "--trainer.max_steps", "1"]
SIMBERT += ["--model.hidden", "16", "--model.layers", "1", "--model.heads", "2"]
SIMBERT += ["--model.examples", "0", "--trainer.val_check_interval", "1000"]
TEXT = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "1", "--data.batch_size", "4"]
TEXT += ["--trainer.limit_val_batches", "1"]
TEXT += ["--model.dim", "16", "--model.depth", "1", "--model.head_size", "8"]
SIMBERT += ["--trainer.log_every_n_steps", "1"]
TEXT += ["--trainer.log_every_n_steps", "1"]
PAIR = "number {i} here\tthe {i} there\t1"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of a sentence model."""
    folder = tmp_path_factory.mktemp("run") / "s"
    command = [sys.executable, "-m", "zoo.cli", "fit", *SIMBERT, "--run_dir", str(folder)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, cwd=folder.parent, capture_output=True)
    return folder


def table(
    path, header="sentence1\tsentence2\tlabel", n=60, row="number {i} here\tthe {i} there\t1"
):
    lines = [header, *(row.format(i=i, j=2 * i, odd=i % 2) for i in range(n))]
    path.write_text("".join(f"{line}\n" for line in lines))


def test_a_root_without_files_is_read_and_told(tmp_path, done):
    (tmp_path / "own").mkdir()
    table(tmp_path / "own" / "pairs.tsv")
    said = done("fit", *SIMBERT, "--data.root", "own", "--run_dir", "s")
    assert "data: sentences of own" in said
    assert "pairs.tsv: tabs, no quotes; sentence1 and sentence2 with label; yes or no" in said
    assert "embedded" not in said
    assert "the embedded PAWS-X pairs" in done("fit", *SIMBERT, "--run_dir", "t")


def test_one_file_without_brackets(tmp_path, done, mistake):
    table(tmp_path / "pairs.tsv")
    done("fit", *SIMBERT, "--data.files", "pairs.tsv", "--run_dir", "a")
    done("fit", *SIMBERT, "--data.root", "pairs.tsv", "--run_dir", "b")
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    line = mistake("fit", *SIMBERT, "--data.files", "lines.txt", "--run_dir", "c")
    assert "lines.txt holds single lines, and no pairs: taken are .tsv, .csv" in line


def test_other_headers_and_scales(tmp_path, done, mistake):
    quora = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    table(tmp_path / "q.tsv", quora, row="{i}\t{j}\t1\tnumber {i} here\tthe {i} there\t{odd}")
    said = done("fit", *SIMBERT, "--data.files", "q.tsv", "--run_dir", "q")
    assert "question1 and question2 with is_duplicate; yes or no; 30 of 60 pairs" in said
    table(tmp_path / "g.tsv", n=101, row="number {i} here\tthe {i} there\t{i}")
    assert "--data.scale '[0, 100]'" in mistake("fit", *SIMBERT, "--data.files", "g.tsv")
    scaled = ["--data.files", "g.tsv", "--data.scale", "[0, 100]", "--run_dir", "g"]
    assert "grades of 0 to 100, similar from 80; 21 of 101" in done("fit", *SIMBERT, *scaled)
    table(tmp_path / "w.tsv", "a\tb\tc\td", row="{i}\tnumber {i} here\tthe {i} there\t{odd}")
    assert "It has a, b, c, d; taken are" in mistake("fit", *SIMBERT, "--data.files", "w.tsv")
    named = ["--data.files", "w.tsv", "--data.columns", "[b, c, d]", "--run_dir", "w"]
    assert "b and c with d; yes or no" in done("fit", *SIMBERT, *named)


def test_a_length_is_told_saved_and_used(tmp_path, done):
    table(tmp_path / "p.tsv", row="a sentence of many letters, number {i}\tthe {i} there\t1")
    said = done("fit", *SIMBERT, "--data.files", "p.tsv", "--data.max_length", 20, "--run_dir", "s")
    assert "50 % of the training sentences are longer than 20 tokens" in said
    (tmp_path / "l.txt").write_text("a sentence of many letters, number 99\nshort\n")
    said = done("embed", "s", "-i", "l.txt", "-o", "v.npy")
    assert "1 of 2 lines are cut at 20 tokens (the model's own length)" in said
    done("embed", "s", "-i", "l.txt", "-o", "w.npy", "--max_length", 20)
    assert np.array_equal(np.load("v.npy"), np.load("w.npy"))


def test_lines_from_a_file_and_from_standard_input(tmp_path, run_dir):
    data = "one\u2028two\nthree\x0cfour\nfive\x85six\r\n".encode()
    (tmp_path / "lines.txt").write_bytes(data)
    rows = []
    for source in ("lines.txt", "-"):
        command = [sys.executable, "-m", "zoo.cli", "embed", str(run_dir), "-i", source]
        subprocess.run([*command, "-o", "v.npy"], input=data, check=True, capture_output=True)
        rows.append(np.load("v.npy"))
    assert rows[0].shape[0] == 3
    assert np.array_equal(*rows)


OWN = """\
import zoo
class MySimBERT(zoo.SimBERT):
    pass
class MyLM(zoo.FlashLM):
    pass
class DDPM(zoo.DDPM):
    "Of the same name."
"""


def test_own_classes_are_found_by_every_verb(tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root}", "ZOO_TRUST": "mine"}

    def run(*arguments, trust="mine", code=0):
        command = [sys.executable, "-m", "zoo.cli", *map(str, arguments)]
        own = {**environment, "ZOO_TRUST": trust}
        said = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
        assert said.returncode == code, said.stderr
        assert "Traceback" not in said.stderr
        return said.stdout + said.stderr

    run("fit", *SIMBERT, "--model", "mine.MySimBERT", "--run_dir", "s")
    (tmp_path / "l.txt").write_text("one\ntwo\n")
    run("embed", "s", "-i", "l.txt", "-o", "v.npy")
    run("similar", "s", "-i", "l.txt", "--query", "one")
    run("paraphrase", "s", "one", "-n", 2, "--max_new", 3)
    run("test", "--ckpt_path", "s")
    run("export", "s", "e")
    assert json.loads((tmp_path / "e" / "config.json").read_text())["zoo_class"] == "mine.MySimBERT"
    run("embed", "e", "-i", "l.txt", "-o", "w.npy")
    assert np.array_equal(np.load("v.npy"), np.load("w.npy"))
    run("export", "s", "st", "--format", "sentence-transformers")
    refused = run("embed", "s", "-i", "l.txt", trust="", code=2)
    assert (
        "'mine.MySimBERT' is not a model of the zoo: if you trust the package mine, set" in refused
    )
    run("fit", "-c", "flash/shakespeare", *TEXT, "--model", "mine.MyLM", "--run_dir", "f")
    run("generate", "f", "-p", "ROMEO", "-n", 2)
    small = ["--trainer.max_steps", 1, "--model.width", 8, "--model.multipliers", "[1, 2]"]
    small += ["--model.groups", 4, "--trainer.accelerator", "cpu", "--model.timesteps", 4]
    small += ["--data.limit", 200, "--trainer.limit_val_batches", 0]
    run("fit", "-c", "ddpm/digits", *small, "--model", "mine.DDPM", "--run_dir", "d")
    run("sample", "d", "-n", 1, "--out", "d.png")


def test_texts_of_any_shape(tmp_path, done, mistake):
    random.seed(0)
    words = [
        "the",
        "a",
        "of",
        "and",
        "red",
        "green",
        "house",
        "tree",
        "river",
        "walks",
        "sees",
        "takes",
    ]
    line = " ".join(random.choices(words, k=9000))
    (tmp_path / "text8").write_text(line)
    fit = ["fit", "-c", "flash/shakespeare", *TEXT]
    said = done(*fit, "--data.root", "text8", "--run_dir", "a")
    assert "data: text of text8: cut at 90 % and 95 % of the bytes" in said
    assert "model.vocab_size is" in said
    (tmp_path / "gbk.txt").write_bytes(("今天天气很好我们去公园散步\n" * 900).encode("gbk"))
    refused = mistake(*fit, "--data.root", "gbk.txt", "--run_dir", "b")
    assert "gbk.txt, line 1: not UTF-8" in refused
    text = "\n\n".join(" ".join(random.choices(words, k=30)) for _ in range(400))
    (tmp_path / "lf.txt").write_bytes(text.encode())
    (tmp_path / "crlf.txt").write_bytes(text.replace("\n", "\r\n").encode())
    by = ["--data.documents", "paragraph"]
    train = []
    for name in ("lf.txt", "crlf.txt"):
        said = done(*fit, "--data.root", name, *by, "--run_dir", name[:-4])
        train.append([line for line in said.splitlines() if "train:" in line or "symbols" in line])
    assert train[0] == train[1]


def test_symbols_follow_from_the_text_and_from_the_checkpoint(tmp_path, done, mistake):
    for name, letters in (("a", "abcde "), ("b", "abcdefghij ")):
        random.seed(1)
        text = "\n".join("".join(random.choices(letters, k=40)) for _ in range(300))
        (tmp_path / f"{name}.txt").write_text(text)
    fit = ["fit", "-c", "flash/shakespeare", *TEXT]
    assert "model.vocab_size is 9, as the data" in done(
        *fit, "--data.root", "a.txt", "--run_dir", "a"
    )
    said = done("test", "--ckpt_path", "a", "--data.root", "b.txt")
    assert "vocabulary: 9 symbols" in said
    line = mistake(*fit, "--data.root", "b.txt", "--model.vocab_size", 9, "--run_dir", "c")
    assert "--model.vocab_size=9: the data have 14 symbols: leave it out" in line
    line = mistake("test", "--ckpt_path", "a", "--data.level", "byte")
    assert "--data.level=byte: the model's symbols are of level char: set --data.level=char" in line
    vae = ["fit", "-c", "vae/text-shakespeare", "--trainer.accelerator", "cpu"]
    vae += ["--trainer.max_steps", 1, "--model.hidden", 8, "--model.embedding", 8]
    vae += ["--data.root", "a.txt", "--data.level", "byte", "--run_dir", "v"]
    said = done(*vae, "--trainer.limit_val_batches", 1)
    assert "model.vocab_size is 257, as the data" in said
    assert "model.end is 256, as the data" in said


def test_lengths_of_sentence_transformers_go_in_and_out(tmp_path, done, run_dir):
    done("export", run_dir, "st", "--format", "sentence-transformers")
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        file = tmp_path / "st" / name
        file.write_text(json.dumps({**json.loads(file.read_text()), key: 16}))
    done("import", "st", "m", "--format", "sentence-transformers")
    (tmp_path / "l.txt").write_text("今天天气很好我们去北京看朋友" * 8 + "\n")
    assert "1 of 1 lines are cut at 16 tokens" in done("embed", "m", "-i", "l.txt", "-o", "a.npy")
    done("embed", "m", "-i", "l.txt", "-o", "b.npy", "--max_length", 16)
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))
    learned = ["--model.positions", "learned", "--model.max_positions", 32]
    done("fit", *SIMBERT, *learned, "--data.max_length", 16, "--run_dir", "p")
    done("export", "p", "out", "--format", "sentence-transformers")
    written = json.loads((tmp_path / "out" / "sentence_bert_config.json").read_text())
    assert written["max_seq_length"] == 16
