"""Trained models by name: those that ship, and the verbs that take a name for a path."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import zoo
import zoo.pretrained
from tests.test_before import BEFORE, RUNS, numbers
from trained.nanogpt import write_split
from zoo.pretrained import names, shipped

SHIPPED = names()
DATA = Path(os.environ.get("ZOO_DATA", "data")).absolute()  # here before the tests move
RECORD = {
    "parameters": 1000,
    "data": "made up",
    "licence": "none",
    "headline": ["test/loss", "loss"],
    "metrics": {"test/loss": 0.125},
    "protocol": {"test/loss": "as it is"},
}


@pytest.fixture
def tiny_names(tmp_path, monkeypatch):
    """A small export of each class, as one that ships."""
    root = tmp_path / "pretrained"
    for name in RUNS:
        shutil.copytree(BEFORE / name / "exported", root / "tiny" / name)
        (root / "tiny" / name / "results.json").write_text(json.dumps(RECORD))
    monkeypatch.setattr(zoo.pretrained, "ROOT", root)
    return [f"tiny/{name}" for name in RUNS]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_loads(name):
    model = zoo.load(name)
    record = next(m for m in shipped() if m.name == name)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == record.parameters
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    for value in vars(record).values():
        assert value not in ("", None)
    folder = zoo.pretrained.ROOT / name
    files = {"README.md", "config.json", "model.safetensors", "results.json"}
    assert {f.name for f in folder.iterdir()} - {"examples.npy"} == files
    for text in folder.glob("*.json"):
        assert '"/' not in text.read_text()  # a path of the machine that trained


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_part_of_the_headline_is_measured_again(name, zoo_cli):
    part = json.loads((zoo.pretrained.ROOT / name / "results.json").read_text())["part"]
    root = part["root"].format(data=DATA, runs=Path.cwd())
    if Path(root).name == "tinyshakespeare":
        write_split(Path(root))
    if root and not Path(root).exists():
        pytest.skip(f"no {root} here")
    flags = [*part["flags"], *([f"--data.root={root}"] if root else [])]
    code, _, err = zoo_cli("test", "--ckpt_path", name, "--run_dir", "run", *flags)
    assert code == 0, err
    value = json.loads(Path("run/results.json").read_text())["metrics"][part["metric"]]
    # Samples and estimates have seeds; between processors sums differ, and few samples show it.
    assert value == pytest.approx(part["value"], rel=0.02)


def test_what_ships_is_small():
    sizes = [m.size for m in shipped()]
    assert max(sizes, default=0) <= 8 * 2**20
    assert sum(sizes) <= 60 * 2**20


def test_every_class_loads_by_its_name(tiny_names):
    expected = json.loads((BEFORE / "expected.json").read_text())
    for name in tiny_names:
        values = torch.tensor(expected[name.removeprefix("tiny/")])
        torch.testing.assert_close(numbers(zoo.load(name)), values, rtol=1e-4, atol=1e-5)
    assert [m.name for m in zoo.list_models(pretrained=True)] == tiny_names
    assert [m.name for m in zoo.list_models("*WGANTOY", pretrained=True)] == ["tiny/wgantoy"]


def test_the_list_says_what_is_known(tiny_names, zoo_cli, mistake):
    code, out, _ = zoo_cli("list", "--weights")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(tiny_names)]] == tiny_names
    for part in ("1,000", "MB", "loss 0.125", "made up", "none"):
        assert part in lines[1]
    assert "  tiny/ddpm: as it is" in lines
    assert "tiny/vmfvae" in zoo_cli("list", "--weights", "vmf")[1]
    assert "nothing" in mistake("list", "nothing", "--weights")


def test_a_path_wins_and_an_unknown_name_suggests(tiny_names, mistake, zoo_cli, tmp_path):
    assert "did you mean tiny/ddpm?" in mistake("sample", "tiny/dpm")
    assert "did you mean tiny/vae?" in mistake("test", "--ckpt_path", "tiny/va")
    assert "no such checkpoint: nowhere" in mistake("sample", "nowhere")
    code, _, err = zoo_cli("export", "tiny/vae", "tiny/ddpm")
    assert code == 0, err
    assert isinstance(zoo.load("tiny/ddpm"), zoo.VAE)
    shutil.rmtree("tiny/ddpm")
    Path("tiny/ddpm").mkdir()
    line = mistake("sample", "tiny/ddpm")
    assert "no checkpoint in tiny/ddpm" in line
    assert "hides the trained model tiny/ddpm" in line


@pytest.mark.slow
def test_every_verb_takes_a_name(tiny_names, zoo_cli):
    np.save("black.npy", np.zeros((2, 8, 8), np.uint8))
    Path("lines.txt").write_text("广州和深圳哪个好\n深圳和广州哪个好\n这是一个句子\n")
    for arguments in (
        ("sample", "tiny/wgan", "-n", 2, "--out", "a.png"),
        ("sample", "tiny/ddpm", "-n", 2, "--out", "a.png"),
        ("sample", "tiny/textvae", "-n", 2),
        ("density", "tiny/vae", "--data", "Digits", "--samples", 2, "--limit", 4),
        ("compress", "tiny/vae", "black.npy"),
        ("decompress", "tiny/vae", "images.zbb", "--out", "back"),
        ("generate", "tiny/flashlm", "-p", "ROMEO:", "-n", 4),
        ("embed", "tiny/similarity", "-i", "lines.txt", "-o", "a.npy"),
        ("similar", "tiny/simbert", "-i", "lines.txt", "--query", "广州"),
        ("paraphrase", "tiny/roformersim", "广州和深圳哪个好", "-n", 2),
        ("export", "tiny/ddpm", "out"),
        ("test", "--ckpt_path", "tiny/vae", "--data", "Digits", "--trainer.limit_test_batches", 1),
    ):
        code, _, err = zoo_cli(*arguments)
        assert code == 0, (arguments, err)
    assert json.loads(Path("runs/of-tiny-vae/results.json").read_text())["checkpoint"] == "tiny/vae"


@pytest.mark.slow
def test_an_export_knows_its_data_and_not_the_machine(zoo_cli, tiny, tmp_path):
    root = tmp_path / "elsewhere" / "data"
    flags = ("--trainer.max_steps", 2, "--trainer.limit_val_batches", 0, "--data.root", root)
    assert zoo_cli("fit", "-c", tiny, "--run_dir", "run", *flags)[0] == 0
    for out, dtype in (("whole", "float32"), ("half", "float16")):
        code, _, err = zoo_cli("export", "run", out, "--dtype", dtype)
        assert code == 0, err
        config = json.loads(Path(out, "config.json").read_text())
        assert config["zoo_config"]["data"]["init_args"]["root"] == "data"
        test = ("test", "--ckpt_path", out, "--run_dir", f"{out}-tested")
        code, _, err = zoo_cli(*test, "--trainer.limit_test_batches", 1)
        assert code == 0, err
    whole, half = load_file("whole/model.safetensors"), load_file("half/model.safetensors")
    for key, value in whole.items():
        assert half[key].dtype == torch.float16
        assert torch.equal(half[key], value.half())
        assert zoo.load("half").state_dict()[key].dtype == torch.float32
    a, b = (json.loads(Path(f"{o}-tested/results.json").read_text()) for o in ("whole", "half"))
    # Half precision has 11 bits: outputs move by some 1e-3 of the weights' size.
    a, b = (r["metrics"]["test/bits_per_dim"] for r in (a, b))
    assert b == pytest.approx(a, rel=2e-3)


def test_a_number_too_large_for_half_is_refused(tmp_path):
    model = zoo.VAE(image_size=8, latent_dim=2, hidden=[8], levels=17)
    next(model.parameters()).data.flatten()[0] = 1e5
    with pytest.raises(ValueError, match=r"holds 100000, too large for float16"):
        zoo.save_pretrained(model, tmp_path / "out", dtype="float16")
    zoo.save_pretrained(model, tmp_path / "out", dtype="bfloat16")


def test_images_come_with_a_model_whose_data_are_elsewhere(tiny_names, zoo_cli, mistake, tmp_path):
    folder = tmp_path / "pretrained/tiny/vae"
    config = json.loads((folder / "config.json").read_text())
    data = {"class_path": "zoo.data.ImageFolder", "init_args": {"root": "gone", "size": 8}}
    data["init_args"]["channels"] = 1
    (folder / "config.json").write_text(json.dumps({**config, "zoo_config": {"data": data}}))
    assert "gone" in mistake("density", "tiny/vae")
    digits = zoo.data.Digits(batch_size=8, flip=False)
    digits.setup()
    images = torch.from_numpy(digits.split("test").images[:3].numpy())
    np.save(folder / "examples.npy", (images.double() * 255 / 16).round().byte().numpy())
    flags = ("--samples", 4, "--out")
    code, out, err = zoo_cli("density", "tiny/vae", *flags, "a.csv")
    assert code == 0, err
    assert "test images of ImageFolder that come with the model" in out
    code, _, err = zoo_cli("density", "tiny/vae", "--data", "Digits", "--limit", 3, *flags, "b.csv")
    assert code == 0, err
    assert Path("a.csv").read_text() == Path("b.csv").read_text()


def test_dtype_is_of_our_own_format(tiny_names, mistake):
    line = mistake("export", "tiny/ddpm", "out", "--format", "diffusers", "--dtype", "float16")
    assert "--dtype float16" in line


@pytest.mark.slow
def test_a_fit_begins_with_the_weights_of_a_name(tiny_names, zoo_cli, mistake):
    fit = ("fit", "-c", BEFORE / "ddpm" / "config.yaml", "--ckpt_path", "tiny/ddpm")
    more = ("--trainer.max_steps", 1, "--model.lr_schedule", "{0: 0.0}", "--run_dir", "run")
    code, _, err = zoo_cli(*fit, *more, "--trainer.limit_val_batches", 0)
    assert code == 0, err
    assert "tiny/ddpm is weights without the optimiser's state: a new run begins" in err
    trained, named = zoo.load("run").state_dict(), zoo.load("tiny/ddpm").state_dict()
    assert all(torch.equal(value, trained[key]) for key, value in named.items())
    assert yaml.safe_load(Path("run/config.yaml").read_text())["ckpt_path"] == "tiny/ddpm"
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 1
    assert "already holds a run" in mistake(*fit, *more)
