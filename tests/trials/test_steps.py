"""What samplers a run uses, and what its files and its output say of them, as a user meets it."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_ten_steps_by_default_and_the_published_ones_by_flag(tiny, tiny_yaml, zoo_cli):
    """A config that names no sampler, and one that does, as those of version 0.1."""

    def run(*arguments):
        code, out, err = zoo_cli(*arguments)
        assert code == 0, err
        return out + err

    tiny.write_text(tiny_yaml.replace("    sampler: ancestral\n", ""))
    short = ("--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--samples.n", 4)
    run("fit", "-c", tiny, *short, "--run_dir", "new")
    tiny.write_text(tiny_yaml)
    run("fit", "-c", tiny, *short, "--run_dir", "old")
    few = "dpmpp, 10 of 20 steps, logsnr spacing"
    every = "ancestral, 20 of 20 steps, trailing spacing, variance fixed_large"
    assert every in run("sample", "new", "-n", 4, "--sampler", "ancestral")
    assert few in run("sample", "old", "-n", 4, "--sampler", "dpmpp")
    quality = ("--quality.extractor", "digits-net", "--quality.samples", 12)
    for name, flags, told in (
        ("new", (), few),
        ("new", ("--model.sampler", "ancestral"), every),
        ("old", (), every),
        ("old", ("--model.sampler", "dpmpp", "--model.spacing", "logsnr"), few),
    ):
        limit = ("--trainer.limit_test_batches", 1, *quality)
        assert f"sampler: {told}" in run("test", "--ckpt_path", name, *limit, *flags)
        protocol = json.loads(Path(name, "results.json").read_text())["protocol"]
        assert protocol["sampler"].startswith(told)


@pytest.mark.slow
def test_wrong_ones_are_one_line(tiny, zoo_cli, mistake):
    short = ("--trainer.max_steps", 1, "--trainer.limit_val_batches", 0)
    assert zoo_cli("fit", "-c", tiny, *short, "--run_dir", "run")[0] == 0
    assert "sampler='dpm': choose one of ancestral, ddim, dpmpp" in mistake(
        "sample", "run", "--sampler", "dpm"
    )
    assert "spacing='even': choose one of" in mistake("sample", "run", "--spacing", "even")
    assert "steps=21: sample in 1 to 20 steps" in mistake("sample", "run", "--steps", 21)
    line = mistake("sample", "run", "--sampler", "ancestral", "--eta", 0.5)
    assert "--eta=0.5 has no effect on --sampler=ancestral: use --sampler=ddim or dpmpp" in line
