"""Pictures beyond memory, from the command line: cached, trained on, resumed, killed, damaged."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.images.files import ImageFiles
from zoo.data.images.store import home_of, made_of

FIT = ["fit", "-c", "own.yaml", "--data.root", "d", "--data.memory_limit_gb", "0"]


def pictures(root="d", count=200):
    draw = np.random.default_rng(0)
    for number in range(count):
        path = Path(root, "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 12, 3), np.uint8)).save(path)


@pytest.fixture
def done(tiny, zoo_cli):
    """Runs a command that must go well; returns all that it says."""
    text = (
        tiny.read_text().replace("channels: 1", "channels: 3").replace("levels: 17", "levels: 256")
    )
    data = "data:\n  class_path: zoo.data.ImageFolder\n"
    data += "  init_args: {size: 8, batch_size: 16, flip: true}\n"
    Path("own.yaml").write_text(
        text.split("data:")[0] + data + "trainer:" + text.split("trainer:")[1]
    )
    pictures()

    def run(*arguments):
        code, out, err = zoo_cli(*arguments)
        assert code == 0, err
        return out + err

    return run


def weights(run):
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_a_run_from_the_cache_is_the_lazy_one_and_resumes_to_the_bit(done, mistake):
    lazy = ["--data.cache", "false", "--data.num_workers", 0]
    done(*FIT, *lazy, "--run_dir", "lazy", "--trainer.max_steps", 17)
    done(*FIT, *lazy, "--run_dir", "parts", "--trainer.max_steps", 7)
    # Within the first epoch, from the cache and with other workers; then from what was prepared.
    said = done(*FIT, "--run_dir", "parts", "--ckpt_path", "last", "--trainer.max_steps", 12,
                "--data.num_workers", 1, "--data.cache", "true")  # fmt: skip
    assert "content of the training data is another" not in said
    cache = re.search(r"cache: (.*/pictures-\w+), 0.0 GB, mapped", said)
    assert cache, said
    said = done("prepare", "pictures", "d", "out", "--size", 8)
    assert "cache: out, 0.0 GB, mapped" in said
    said = done(*FIT, "--run_dir", "parts", "--ckpt_path", "last", "--trainer.max_steps", 17,
                "--data.root", "out")  # fmt: skip
    assert "content of the training data is another" not in said
    one, two = weights("lazy"), weights("parts")
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    images = Path(cache[1], "images.bin")
    images.write_bytes(images.read_bytes()[:-1])
    assert "images.bin is cut off or changed" in mistake(*FIT, "--run_dir", "x")
    line = mistake(*FIT, "--run_dir", "y", "--data.root", "out", "--data.size", 16)
    assert "out holds pictures prepared with --data.size 8 --data.channels 3" in line
    line = mistake("prepare", "pictures", "d", "out", "--size", 16)
    assert "out holds pictures prepared with another size" in line
    line = mistake("prepare", "pictures", "d", "new", "--tokenizer", "bpe")
    assert "--tokenizer means nothing to zoo prepare pictures: leave it out" in line


@pytest.mark.long  # a kill, at a moment that hangs on the machine
def test_what_was_killed_goes_on_and_two_at_once_make_one(done):
    pictures(count=30_000)
    command = [sys.executable, "-m", "zoo.cli", "prepare", "pictures", "d", "parts", "--size", "8"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while not Path("parts/progress.json").exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    done("prepare", "pictures", "d", "whole", "--size", 8, "--processes", 1)
    for name in ("images.bin", "labels.npy", "index.json"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes()


EPOCH = """\
import re, sys
from pathlib import Path
from zoo.data import ImageFolder
data = ImageFolder(root=sys.argv[1], memory_limit_gb=0, batch_size=128)
data.setup("fit")
seen = sum(len(batch.images) for batch in data.train_dataloader())
said = Path("/proc/self/status").read_text()
print("seen", seen, re.search(r"RssAnon:\\s+(\\d+) kB", said)[1], data.describe()[-1])
"""


def store(root, count):
    """A folder of so many files, and the cache of what they would hold."""
    root.mkdir()
    for number in range(count):
        (root / f"{number}.png").touch()
    home = home_of(str(root), (3, 64, 64), "auto")
    home.mkdir(parents=True)
    with (home / "images.bin").open("wb") as file:
        file.truncate(count * 12288)  # read as zeros, of which no memory is kept
    np.save(home / "labels.npy", np.zeros(count, np.int64))
    known = {"counts": {"train": count, "val": 0, "test": 0}, "classes": [], "unlabelled": []}
    known |= {"hashed": [], "formats": [[".png", count]], "notes": [], "left_out": []}
    files = [[name, (home / name).stat().st_size] for name in ("images.bin", "labels.npy")]
    made = made_of(ImageFiles(root), (3, 64, 64), "auto")
    index = {"shape": [3, 64, 64], "known": known, "made": made, "broken": [], "files": files}
    (home / "index.json").write_text(json.dumps(index))


@pytest.mark.slow
def test_anonymous_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    memory = {}
    for count in (1_000, 50_000):
        store(tmp_path / str(count), count)
        command = [sys.executable, "-c", EPOCH, str(tmp_path / str(count))]
        # What is freed goes back at once: else malloc keeps 0 to 14 MB of batches, by chance.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seen, memory[count], last = made.stdout.split("seen ")[1].split(maxsplit=2)
        assert int(seen) == count // 128 * 128
        assert last.startswith("cache: ")
    grown = (int(memory[50_000]) - int(memory[1_000])) * 1024
    # 614 MB of pixels. An image has 4 bytes in the order of an epoch, which is drawn with as many
    # again; blocks below the threshold are kept (0.03 to 0.45 MB in all, in 12 runs).
    assert grown < 50_000 * 8 + 2**20, memory
