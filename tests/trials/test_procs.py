"""Verbs over two processes, and after a stop, write what one process writes in one go."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from tests.simbert.models import texts, tiny
from zoo.training import parts

TINY_DDPM = {"image_size": 8, "channels": 1, "levels": 17, "timesteps": 20, "width": 8, "groups": 4}
TINY_DDPM |= {"multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "sampler": "ancestral"}


@pytest.fixture
def models(tmp_path):
    """A model of each verb, by its folder."""
    torch.manual_seed(0)
    ddpm = zoo.DDPM(**TINY_DDPM)
    torch.nn.init.normal_(ddpm.net.conv_out.weight, std=0.1)
    vae = zoo.VAE(image_size=8, levels=17, latent_dim=3, hidden=[16])
    for name, model in {"ddpm": ddpm, "vae": vae, "simbert": tiny()}.items():
        zoo.save_pretrained(model, name)
    Path("lines.txt").write_text("\n".join(texts(100, seed=4)) + "\n", encoding="utf-8")


VERBS = {
    "embed": ["embed", "simbert", "-i", "lines.txt", "--batch_size", "2", "-o", "out.npy"],
    "sample": ["sample", "ddpm", "-n", "10", "--batch_size", "3", "--steps", "4", "-o", "out.png"],
    "density": ["density", "vae", "--data", "Digits", "--limit", "25", "--batch_size", "4",
                "--samples", "5", "-o", "out.csv"],
}  # fmt: skip


def torchrun(processes, *arguments, **environment):
    """Runs torchrun with the zoo."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    keep = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "ZOO_RUN_DIR")}
    return subprocess.run(
        [*command, "--standalone", "-m", "zoo.cli", *map(str, arguments)],
        env={**keep, **environment}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_two_processes_write_what_one_writes(verb, models, zoo_cli):
    code, alone, err = zoo_cli(*VERBS[verb])
    assert code == 0, err
    out = Path(VERBS[verb][-1])
    one = out.read_bytes()
    out.unlink()
    done = torchrun(2, *VERBS[verb])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == alone  # of one of them
    assert out.read_bytes() == one
    assert not list(Path().glob("*.parts"))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_was_stopped_goes_on(verb, models, zoo_cli, monkeypatch):
    code, _, err = zoo_cli(*VERBS[verb])
    assert code == 0, err
    out = Path(VERBS[verb][-1])
    one = out.read_bytes()
    out.unlink()
    written = []

    def replacing(path):
        if len(written) == stop and path.suffix == ".pt":
            raise KeyboardInterrupt
        written.append(path)
        return parts_replacing(path)

    parts_replacing = parts.replacing
    monkeypatch.setattr(parts, "replacing", replacing)
    stop = 2
    assert zoo_cli(*VERBS[verb])[0] == 130
    (folder,) = Path().glob("*.parts")
    made = sorted(path.name for path in folder.iterdir())
    assert len(made) == 2
    with (folder / made[1]).open("r+b") as file:  # cut off, as by a machine that went down
        file.truncate(100)
    # Another call, and one with other weights, take no part of it.
    seed = ["--max_length", "9"] if verb == "embed" else ["--seed", "5"]
    for change in (seed, []):
        if not change:
            weights = Path(VERBS[verb][1], "config.json")
            times = weights.stat()
            weights.write_text(weights.read_text() + "\n")
        stop = len(written)
        assert zoo_cli(*VERBS[verb], *change)[0] == 130
        assert len(list(Path().glob("*.parts"))) == 1
    weights.write_text(weights.read_text()[:-1])
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    stop = -1
    before = len(written)
    code, _, err = zoo_cli(*VERBS[verb])
    assert code == 0, err
    again = [path.name for path in written[before:] if path.suffix == ".pt"]
    assert made[0] not in again
    assert made[1] in again
    assert out.read_bytes() == one
    assert not folder.exists()


def test_several_processes_need_a_file(models, mistake, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "2 processes need a file to write" in mistake(*VERBS["embed"][:-1], "/dev/null")
    assert "cannot share standard input" in mistake("embed", "simbert", "-i", "-")


def test_batches_of_another_size_are_equal_to_rounding(models, zoo_cli):
    """Sums of 16 products of one layer in another order: 16 float32 eps of a unit vector, twice."""
    for size, out in ((2, "a.npy"), (7, "b.npy")):
        flags = ["-i", "lines.txt", "--batch_size", size, "-o", out]
        assert zoo_cli("embed", "simbert", *flags)[0] == 0
    a, b = np.load("a.npy"), np.load("b.npy")
    np.testing.assert_allclose(a, b, atol=1e-5)
