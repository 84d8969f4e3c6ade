"""What a hostile or careless surrounding does to a run: it holds, or ends in one line."""

import json
import os
import re
import typing
from pathlib import Path
from typing import Optional, Union, get_args

import numpy as np
import pytest
from lightning.pytorch import Trainer

import zoo
from zoo.cli.run import parse_function
from zoo.data import Text
from zoo.data.text.prepare import prepare
from zoo.data.text.vocabularies import tokenizer_file
from zoo.training.settings import settle
from zoo.tuning.choice import Choice
from zoo.tuning.settings import Setting

VERBS = {
    "fit": ["fit", "-c", "tiny.yaml", "--run_dir", "run"],
    "fit last": ["fit", "-c", "tiny.yaml", "--run_dir", "run", "--ckpt_path", "last"],
    "test": ["test", "-c", "tiny.yaml", "--ckpt_path", "run"],
    "test last": ["test", "-c", "tiny.yaml", "--run_dir", "run", "--ckpt_path", "last"],
    "sample": ["sample", "run"],
    "density": ["density", "run"],
    "export": ["export", "run", "out"],
    "report": ["report", "run"],
    "plot": ["plot", "run"],
}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda p: os.symlink("/dev/zero", p)])
@pytest.mark.parametrize(
    "name",
    ["config.yaml", "metrics.csv", "results.json", "report.html", ".lock", "checkpoints/last.ckpt",
     "samples/step-0000001.png", "report/run.json", "config.json", "checkpoints"],
)  # fmt: skip
def test_a_run_folder_that_holds_no_file_where_one_belongs_is_refused(tiny, mistake, name, make):
    path = Path("run", name)
    path.parent.mkdir(parents=True)
    make(path)
    if path.name == "checkpoints" and path.is_dir():
        return
    for command in VERBS.values():
        assert f"{path} is no " in mistake(*command)
    assert {*Path().rglob("*")} == {Path("tiny.yaml"), Path("run"), path, path.parent}


def test_a_script_hears_of_it_too(tiny):
    Path("run").mkdir()
    os.mkfifo("run/metrics.csv")
    trainer = zoo.trainer("run", max_steps=1, accelerator="cpu", enable_progress_bar=False)
    for verb in (trainer.fit, trainer.test):
        with pytest.raises(ValueError, match=r"run/metrics\.csv is no regular file"):
            verb(zoo.DDPM(image_size=8), zoo.data.Digits())


@pytest.mark.parametrize("path", ["/dev/zero", "pipe"])
def test_a_checkpoint_that_would_not_end_is_refused(mistake, path):
    os.mkfifo("pipe")
    assert f"{path} is no regular file" in mistake("sample", path)
    assert f"{path} is no regular file" in mistake("test", "--ckpt_path", path)


@pytest.mark.parametrize("first", [Union[int, float], Union[float, int]])  # noqa: UP007
def test_one_is_a_batch_and_one_point_nought_is_all(tiny, done, monkeypatch, first):
    """Whoever asks first for a union, within the last 128, decides its order for all of them."""
    names = ["limit_val_batches", "limit_train_batches", "overfit_batches"]
    for forget in typing._cleanups:
        forget()
    kinds = [Optional[first], Optional[Union[int, float]], Union[first]]  # noqa: UP007, UP045
    assert get_args(kinds[1])[0] is get_args(first)[0]  # which is why it matters
    for name, kind in zip(names, kinds, strict=True):
        monkeypatch.setitem(Trainer.__init__.__annotations__, name, kind)
    for value in ("1", "1.0", "3", "0.5"):
        flags = [f"--trainer.{name}={value}" for name in names]
        shown = done("fit", "-c", "tiny.yaml", *flags, "--print_config")
        assert re.findall(r" (?:limit_(?:val|train)|overfit)_batches: (.*)", shown) == [value] * 3


def tokenizer(name="t.json", **parts):
    """Writes a tokenizer.json of these parts."""
    none = ["truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"]
    model = {"type": "BPE", "vocab": {c: i for i, c in enumerate("abc \n")}, "merges": []}
    made = dict.fromkeys(none) | {"version": "1.0", "added_tokens": [], "model": model} | parts
    Path(name).write_text(json.dumps(made))
    return name


def replace(content, **pattern):
    return {"type": "Replace", "pattern": pattern or {"Regex": "."}, "content": content}


def many(parts, name="normalizers"):
    return {"type": "Sequence", name: parts}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("normalizer", replace("a" * 100_000), "its normalizer and pre_tokenizer make a text up"),
        ("normalizer", replace("a" * 100_000, String=""), "1e+05 times as long"),
        ("normalizer", many([replace("aa", String="a")] * 60), "1.15e+18 times as long"),
        ("normalizer", many([replace("b", Regex="(?=a)")] * 60), "times as long"),
        ("normalizer", many([many([{"type": "Prepend", "prepend": "a" * 50}])] * 3), "times as"),
        ("pre_tokenizer", many([BYTES] * 20, "pretokenizers"), "1.1e+12 times as long"),
        ("decoder", many([replace("aa", String="a")] * 40, "decoders"), "its decoder makes a text"),
    ],
)
def test_a_tokenizer_that_makes_text_without_end_is_refused(mistake, part, value, said):
    Path("a.txt").write_text("abc cab\n" * 200)
    file = tokenizer(**{part: value})
    line = mistake("prepare", "text", "a.txt", "out", "--processes", "1", "--tokenizer", file)
    assert said in line
    assert file in line


def test_what_a_tokenizer_needs_is_no_growth_without_end():
    """Of LLaMA, and of NFKC with what XLM-R has behind it."""
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    parts = [{"type": "NFKC"}, replace(" ", Regex=" {2,}"), {"type": "Prepend", "prepend": "▁"}]
    words = {c: i for i, c in enumerate("▁abc fi")}
    model = {"type": "BPE", "vocab": words, "merges": []}
    read = tokenizer_file(tokenizer(normalizer=many(parts), pre_tokenizer=metaspace, model=model))
    assert read.encode("ab  \ufb01").tolist() == [words[c] for c in "▁ab▁fi"]


def test_a_text_is_encoded_once_and_always_the_same():
    """A template may repeat it, and BPE drop merges at random."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    pair = [text, {"Sequence": {"id": "B", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": [text] * 4, "pair": pair}
    model = {"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": [["a", "a"]], "dropout": 0.5}
    file = tokenizer(post_processor=template | {"special_tokens": {}}, model=model)
    read = tokenizer_file(file)
    assert read.encode("a" * 100).tolist() == [1] * 50


def bpe(symbols, **options):
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    return {"type": "BPE", "vocab": vocab, "merges": [], **options}


def test_characters_that_a_tokenizer_would_leave_out_are_named(mistake):
    Path("a.txt").write_text("abc cab é 猫\n" * 200)
    said = "it has no symbol for 'é', '猫' (2 of the characters here) and none for the unknown"
    file = tokenizer()
    command = ["prepare", "text", "a.txt", "out", "--processes", "1", "--tokenizer", file]
    assert said in mistake(*command)
    with pytest.raises(ValueError, match="it has no symbol for 'é', '猫'"):
        Text(root="a.txt", tokenizer=file).split("train")
    unknown = tokenizer("u.json", model=bpe("abc \n?", unk_token="?"))
    assert tokenizer_file(unknown).encode("aé猫").tolist() == [0, 5, 5]
    fallback = bpe([*"abc \n", *(f"<0x{b:02X}>" for b in range(256))], byte_fallback=True)
    read = tokenizer_file(tokenizer("f.json", model=fallback))
    assert read.encode("aé").tolist() == [0, 5 + 0xC3, 5 + 0xA9]
    added = {"id": 5, "content": "é", "single_word": False, "lstrip": False, "rstrip": False}
    added |= {"normalized": False, "special": False}
    read = tokenizer_file(tokenizer("n.json", added_tokens=[added]))
    assert read.encode("aé").tolist() == [0, 5]
    removed = {"type": "Split", "pattern": {"String": "é"}, "behavior": "Removed", "invert": False}
    assert tokenizer_file(tokenizer(pre_tokenizer=removed)).encode("aé").tolist() == [0]
    half = tokenizer(model=bpe(["Ã", "a"]), pre_tokenizer=BYTES)
    with pytest.raises(ValueError, match="no symbol for 'é'"):
        tokenizer_file(half).encode("aé")


def test_a_pattern_without_end_is_one_line(mistake):
    Path("a.txt").write_text(("a" * 30 + "b\n") * 20)
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    file = tokenizer(pre_tokenizer=split | {"invert": False})
    line = mistake("prepare", "text", "a.txt", "out", "--processes", "1", "--tokenizer", file)
    assert "cannot encode the text: Onig: Regex search error: retry-limit-in-match over" in line


def test_a_text_that_was_written_anew_is_read_anew():
    for text in ("abc " * 500, "cab\n" * 500):
        Path("a.txt").write_text(text)
        prepare("a.txt", Path(text[:3]), tokenizer="char", processes=1)
        shards = Text(root=text[:3], level="char")
        words = shards.vocabulary
        assert words.decode(shards.split("train").symbols[np.arange(4)]) == text[:4]


@pytest.mark.slow
def test_a_run_leaves_the_environment_as_it_was(tiny, done, mistake, monkeypatch):
    """What it sets for processes of its own, the next command of this process would take."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("cache").resolve()))
    monkeypatch.setattr("zoo.cli.auto.search", lambda *a, **o: Choice(Setting("32-true", 1, False)))
    settle()  # what a process has for good
    before = dict(os.environ)
    small = ["-c", "tiny.yaml", "--data.limit", 32, "--trainer.max_steps", 1]
    done("fit", *small, "--run_dir", "a", "--precision", "auto")
    assert dict(os.environ) == before
    assert "--trainer.max_steps=-2" in mistake("fit", *small, "--trainer.max_steps", -2)
    assert dict(os.environ) == before
    done("test", "--ckpt_path", "a", "--trainer.limit_test_batches", 1)
    done("tune", *small)
    assert dict(os.environ) == before
    monkeypatch.setenv("LOCAL_RANK", "0")  # now the runs before have no say in where this one goes
    done("fit", *small, "--run_dir", "b")
    assert Path("b/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("report --runs a", {"runs": ["a"]}),
        ("report --runs=a b --out c", {"runs": ["a", "b"], "out": "c"}),
        ("plot -o c.png --runs a b", {"runs": ["a", "b"], "out": "c.png"}),
        ("sample a --labels 3", {"labels": [3]}),
        ("sample a --labels=3", {"labels": [3]}),
        ("sample a --labels [3,4] -n 5", {"labels": [3, 4], "n": 5}),
        ("sample a --labels null", {"labels": None}),
        ("study wasserstein --seeds 3", {"seeds": 3}),
        ("similar a --query b", {"query": "b"}),
        ("prepare pictures a b --size 8", {"size": 8}),
    ],
)
def test_a_list_of_one_needs_no_brackets(command, found):
    verb, *arguments = command.split()
    _, values = parse_function(verb, arguments)
    assert values | found == values


@pytest.mark.parametrize(
    ("recipe", "flag", "value"),
    [
        ("ddpm/digits", "--model.multipliers", "2"),
        ("vae/digits", "--model.adam_betas", "0.9"),
        ("flash/shakespeare", "--data.test_lengths", "64"),
        ("simbert/cosent", "--data.columns", "sentence"),
    ],
)
def test_a_list_of_a_class_is_asked_for_in_its_form(mistake, recipe, flag, value):
    said = f"{flag}: needs a list, such as '[{value}]'"
    assert mistake("fit", "-c", recipe, flag, value).endswith(said)


FLASH = ["-c", "flash/shakespeare", "--data.root", "a.txt", "--run_dir", "run"]
FLASH += ["--model.dim", 16, "--model.depth", 1, "--model.head_size", 8, "--trainer.max_steps", 1]


@pytest.mark.slow
def test_symbols_do_not_change_behind_a_model(done, mistake):
    Path("a.txt").write_text("abc cab\n" * 2000)
    tokenizer(), tokenizer("b.json", model=bpe("cab \n"))
    done("fit", *FLASH, "--data.tokenizer", "t.json")
    last = ["--ckpt_path", "last", "--trainer.max_steps", 2]
    for flag, value in (("tokenizer", "b.json"), ("tokenizer", "bpe"), ("vocabulary_size", 300)):
        line = mistake("fit", *FLASH, "--data.tokenizer", "t.json", *last, f"--data.{flag}", value)
        assert f"--data.{flag}={value}: the symbols are the checkpoint's" in line
    line = mistake("test", "--ckpt_path", "run", "--data.tokenizer", "b.json")
    assert "--data.tokenizer=b.json: the symbols are the checkpoint's, made with t.json" in line
    Path("t.json").unlink()  # the model has it
    done("fit", *FLASH, *last)


def test_digits_say_that_a_folder_is_not_read():
    plain, told = zoo.data.Digits(), zoo.data.Digits(root="mine")
    for data in (plain, told):
        data.setup("fit")
    said = "--data.root mine has no effect: own pictures are read by --data ImageFolder"
    assert said in " ".join(told.describe())
    assert "no effect" not in " ".join(plain.describe())


def test_a_part_of_an_option_that_has_none_is_named(mistake):
    line = mistake("density", "vae/digits", "--data.root", "x")
    assert line.endswith("error: there is no option '--data.root': see --help")
