"""Runs, configs and exported folders of version 0.1 go on being read (see before/README.md)."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import zoo

BEFORE = Path(__file__).parent / "before"
RUNS = sorted(folder.name for folder in BEFORE.iterdir() if folder.is_dir())
PAIRS = ("flashmlm", "similarity")  # made from pairs.tsv; the others from data in the wheel


@torch.no_grad()
def numbers(model):
    """Some that hang on the weights, as they were computed then."""
    name = type(model).__name__
    if hasattr(model, "encode") and hasattr(model, "similarity"):
        x = torch.as_tensor(model.encode(["广州和深圳哪个好", "这是一个句子"]))
    elif name == "FlashLM":
        x = model(torch.arange(48).remainder(60)[None])[0, -1]
    elif name == "FlashMLM":
        x = model(torch.arange(1, 49)[None])[0, -1]
    elif name == "TextVAE":
        x = next(parameter for parameter in model.parameters() if parameter.ndim == 2)
    elif name == "DDPM":
        x_t = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
        x = model.net(x_t, torch.tensor([7.0]), torch.tensor([3]))
    else:
        x = model.sample(2, seed=1)
    return x.float().flatten()[:8]


@pytest.mark.parametrize("name", RUNS)
def test_checkpoint_and_export_are_the_model_that_they_were(name):
    expected = torch.tensor(json.loads((BEFORE / "expected.json").read_text())[name])
    for file in ("last.ckpt", "exported"):
        model = zoo.load(BEFORE / name / file)
        # Rounded to 1e-6; float32 sums differ by some 1e-6 between instruction sets.
        torch.testing.assert_close(numbers(model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Total length of")  # an empty validation split
@pytest.mark.parametrize("name", RUNS)
def test_a_run_goes_on_by_its_checkpoint_and_its_config(name, zoo_cli, tmp_path):
    if name in PAIRS:
        (tmp_path / "zh").mkdir()
        (tmp_path / "zh/pairs.tsv").write_bytes((BEFORE / "pairs.tsv").read_bytes())
    run = ("--trainer.max_steps", 4, "--run_dir", "run", "--trainer.log_every_n_steps", 1)
    code, _, err = zoo_cli(
        *("fit", "-c", BEFORE / name / "config.yaml"),
        *("--ckpt_path", BEFORE / name / "last.ckpt", *run),
    )
    assert code == 0, err
    now = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    then = torch.load(BEFORE / name / "last.ckpt", weights_only=True)
    assert (then["global_step"], now["global_step"]) == (3, 4)
    assert now["state_dict"].keys() == then["state_dict"].keys()
    assert all(value.isfinite().all() for value in now["state_dict"].values())


@pytest.mark.filterwarnings("ignore:Total length of")  # an empty validation split
@pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning")
def test_what_did_nothing_then_is_left_out(tmp_path, zoo_cli):
    """A head count of a kind without heads, which is refused of who gives it today."""
    file = tmp_path / "runs" / "old" / "checkpoints" / "last.ckpt"
    shutil.copytree(BEFORE / "flashlm" / "exported", tmp_path / "exported")
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    config["hyper_parameters"] |= {"heads": 4, "norm_length": 64}
    (tmp_path / "exported" / "config.json").write_text(json.dumps(config))
    file.parent.mkdir(parents=True)
    checkpoint = torch.load(BEFORE / "flashlm" / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"] |= {"heads": 4}
    if "model" in checkpoint.get("zoo_config", {}):
        checkpoint["zoo_config"]["model"]["init_args"] |= {"heads": 4}
    torch.save(checkpoint, file)
    for path in (tmp_path / "exported", file):
        assert zoo.load(path).hparams["heads"] is None
    steps = checkpoint["global_step"] + 1
    goes_on = [
        "--ckpt_path",
        "runs/old",
        "--trainer.accelerator=cpu",
        f"--trainer.max_steps={steps}",
    ]
    code, _, err = zoo_cli("fit", *goes_on)
    assert code == 0, err
    code, _, err = zoo_cli("fit", *goes_on, "--model.heads=4")
    assert code == 2
    assert "--model.heads=4 means nothing with --model.kind=flash: leave it out" in err
