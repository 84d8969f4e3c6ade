"""What a newcomer types and finds: empty arguments, wrong names of them, text that is none."""

import json
from pathlib import Path

import pytest
import torch

import zoo


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["export", "ddpm/digits", ""], "FOLDER is empty (a variable of the shell"),
        (["sample", ""], "CKPT is empty"),
        (["sample", "ddpm/digits", "--out", ""], "--out is empty"),
        (["prepare", "text", "", "out"], "ROOT is empty"),
        (["fit", "-c", "ddpm/digits", "--run_dir", ""], "--run_dir is empty"),
        (["fit", "-c", "ddpm/digits", "--run_dir="], "--run_dir is empty"),
        (["fit", "-c", "flash/shakespeare", "--data.root", ""], "--data.root is empty"),
        (["test", "--ckpt_path", ""], "--ckpt_path is empty"),
    ],
)
def test_an_empty_argument_is_not_the_folder_that_one_is_in(mistake, tmp_path, command, said):
    assert said in mistake(*command)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["paraphrase", "x"], "needs TEXT"),
        (["similar", "x"], "needs --query"),
        (["report"], "needs RUNS"),
        (["import", "x", "y"], "needs --format"),
        (["prepare", "image", "x", "y"], "KIND: needs one of text, pictures, got image"),
    ],
)
def test_what_stands_without_an_option_is_not_named_as_one(mistake, command, said):
    assert mistake(*command).strip().endswith(f"error: {said}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min_count", "1000"], "a least count of 1000 and a size of any leave no symbol"),
        (["--vocab_size", "2"], "a least count of 1 and a size of 2 leave no symbol"),
        (["--tokenizer", "bpe", "--vocab_size", "10"], "of 10: bpe needs 300 or more"),
    ],
)
def test_a_vocabulary_of_nothing_is_refused(mistake, tmp_path, options, said):
    Path("a.txt").write_text("the cat runs\n" * 20)
    assert said in mistake("prepare", "text", "a.txt", "out", "--processes", "1", *options)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"type": "WordLevel", "vocab": {"the": 0}, "unk_token": "[UNK]"}, "Missing [UNK] token"),
        ({"type": "BPE", "vocab": {}, "merges": []}, "it has no symbol for "),
        ({"type": "BPE", "vocab": {"t": 10**9}, "merges": []}, "a symbol of number 1000000000"),
    ],
)
def test_a_tokenizer_that_cannot_read_the_text_is_refused(mistake, model, said):
    parts = dict.fromkeys(["truncation", "padding", "normalizer", "post_processor", "decoder"])
    words = {"type": "Whitespace"}
    parts |= {"version": "1.0", "added_tokens": [], "pre_tokenizer": words, "model": model}
    Path("t.json").write_text(json.dumps(parts))
    Path("a.txt").write_text("the cat runs\n" * 20)
    command = ["prepare", "text", "a.txt", "out", "--processes", "1", "--tokenizer", "t.json"]
    assert said in mistake(*command)
    assert not Path("out/index.json").exists()


def test_a_text_that_is_not_there_is_not_set_by_an_option_of_another_verb(mistake):
    assert mistake("prepare", "text", "none", "out").endswith("no such file or folder: none")


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (float("nan"), "m: net.time_embedding.linear_1.weight holds NaN or infinity"),
        (3e38, "the samples hold NaN or infinity"),
    ],
)
def test_samples_that_are_no_numbers_are_no_picture(mistake, tmp_path, weight, said):
    size = {"image_size": 8, "channels": 1, "timesteps": 4, "width": 8, "multipliers": [1]}
    model = zoo.DDPM(**size, blocks=1, attention_levels=[], groups=4)
    with torch.no_grad():
        next(model.parameters()).fill_(weight)
    zoo.save_pretrained(model, "m")
    assert said in mistake("sample", "m", "-n", "2")
    assert not (tmp_path / "samples.png").exists()
