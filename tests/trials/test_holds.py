"""What a hostile or careless surrounding does to a run: it holds, or ends in one line."""

import os
import re
import typing
from pathlib import Path
from typing import Optional, Union, get_args

import pytest
from lightning.pytorch import Trainer

import zoo

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
