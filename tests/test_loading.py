"""zoo.load and zoo.save_pretrained: what goes out comes back, bit for bit."""

import copy
import json
import pickle
from inspect import signature

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo.loading import current_path, find_checkpoint
from zoo.registry import MODELS

SMALL = {"image_size": 8, "channels": 1, "levels": 17, "timesteps": 20, "width": 8}
SMALL |= {"multipliers": [1, 2], "blocks": 1, "attention_levels": [1], "groups": 4}
SMALL |= {"lr_schedule": {5: 1.0, 40: 0.5}}
SENTENCES = {"vocab_size": 30, "hidden": 16, "layers": 1, "heads": 2}
TINY = {"DDPM": SMALL, **dict.fromkeys(("SimBERT", "RoFormerSim", "SentenceSimilarity"), SENTENCES)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = zoo.DDPM(**SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def test_an_exported_model_is_the_same(model, tmp_path):
    zoo.save_pretrained(model, tmp_path / "out")
    loaded = zoo.load(tmp_path / "out")
    assert not loaded.training
    for (name, a), (other, b) in zip(
        model.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)
    as_json = json.loads(json.dumps(dict(model.hparams)))  # where keys are strings
    assert dict(loaded.hparams) == as_json
    assert loaded.lr_points == model.lr_points
    assert torch.equal(model.sample(2, seed=1), loaded.sample(2, seed=1))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_can_be_pickled_and_copied(name):
    """As multiprocessing, torch.save and a data worker do."""
    made = getattr(zoo, name)
    schedules = [n for n in ("lr_schedule", "lr_stages") if n in signature(made).parameters]
    for schedule in schedules or [None]:
        model = made(**(TINY.get(name, {}) | ({schedule: {5: 1.0, 40: 0.5}} if schedule else {})))
        for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            assert dict(copied.hparams) == dict(model.hparams)
            for a, b in zip(model.state_dict().values(), copied.state_dict().values(), strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize(
    "name", ["vae/digits", "vae/mnist-vmf-d2", "ddpm/digits", "wgan/mnist-gn", "wgan/8gaussians-gn"]
)
def test_a_model_in_float64_gives_the_same_numbers(name):
    """As close as float32 has them; what is given may be of either precision."""
    model, wide = zoo.load(name), zoo.load(name).double()
    steps = {"steps": 3} if name.startswith("ddpm") else {}
    drawn = model.sample(3, seed=1, **steps)
    torch.testing.assert_close(
        wide.sample(3, seed=1, **steps), drawn, rtol=1e-3, atol=1e-3, check_dtype=False
    )
    if not name.startswith("vae"):
        return
    for images in (drawn, drawn.double()):
        found = [m.log_density(images, samples=20).log_density for m in (model, wide)]
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4, check_dtype=False)
    pixels = [m.sample(3, seed=1, pixels="draw") for m in (model, wide)]
    assert float((pixels[0] != pixels[1]).double().mean()) < 0.01  # a coin on the edge may fall


@pytest.mark.parametrize("images", [np.zeros((1, 1, 8, 8)), [[0.0]], "images", None])
def test_images_that_are_no_tensor_are_refused(model, images):
    with pytest.raises(ValueError, match="images are a tensor, not a "):
        model.bits_per_dim(images)


def test_load_gives_the_averaged_weights(tiny, zoo_cli):
    code, _, err = zoo_cli("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 12)
    assert code == 0, err
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    loaded = [zoo.load(path) for path in ("run", "run/checkpoints", "run/checkpoints/last.ckpt")]
    differ = False
    for model in loaded:
        for name, value in model.state_dict().items():
            assert torch.equal(value, checkpoint["state_dict"][name])
            differ |= not torch.equal(value, checkpoint["current_model_state"][name])
    assert differ


def test_lightning_loads_our_checkpoints_too(tiny, zoo_cli):
    from lightning.pytorch import LightningModule

    zoo_cli("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 2)
    path = "run/checkpoints/last.ckpt"
    ours = zoo.load(path)
    for theirs in (
        zoo.DDPM.load_from_checkpoint(path, weights_only=True),
        LightningModule.load_from_checkpoint(path, weights_only=True),
    ):
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, ours.state_dict()[name])


def test_a_checkpoint_holds_the_network_alone(tiny, zoo_cli):
    zoo_cli("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 1)
    checkpoint = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert all(name.startswith("net.") for name in checkpoint["state_dict"])


def test_a_checkpoint_is_found_from_any_of_its_names(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    file = run / "checkpoints" / "last.ckpt"
    file.touch()
    assert find_checkpoint(run) == find_checkpoint(run / "checkpoints") == find_checkpoint(file)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        find_checkpoint(tmp_path)


def test_a_damaged_export_is_refused(model, tmp_path):
    out = tmp_path / "out"
    zoo.save_pretrained(model, out)
    weights = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        zoo.load(out)
    (out / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        zoo.load(out)
    (out / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        zoo.load(out)


@pytest.mark.parametrize("name", ["os.system", "zoo.VAEE", "lightning.pytorch.DDPM"])
def test_only_models_of_the_zoo_are_built(model, tmp_path, name):
    out = zoo.save_pretrained(model, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "zoo_class": name}))
    with pytest.raises(ValueError, match="is not a model of the zoo"):
        zoo.load(out)


def test_weights_that_do_not_fit_are_refused(model, tmp_path):
    out = zoo.save_pretrained(model, tmp_path / "out")
    weights = load_file(out / "model.safetensors")
    config = json.loads((out / "config.json").read_text())
    del config["sha256"]  # as in folders of version 0.1.0
    (out / "config.json").write_text(json.dumps(config))
    first = next(iter(weights))
    save_file({k: v for k, v in weights.items() if k != first}, out / "model.safetensors")
    with pytest.raises(ValueError, match=f"1 missing and 0 unexpected.*{first}"):
        zoo.load(out)
    save_file({**weights, first: weights[first].flatten()[:1]}, out / "model.safetensors")
    with pytest.raises(ValueError, match="size mismatch"):
        zoo.load(out)


def test_only_models_of_the_zoo_are_saved(tmp_path):
    class DDPM(zoo.DDPM):
        pass

    with pytest.raises(ValueError, match="is not a model of the zoo"):
        zoo.save_pretrained(DDPM(**SMALL), tmp_path / "out")


def test_class_paths_of_older_versions(monkeypatch):
    assert current_path("zoo.vae.text.TextVAE") == "zoo.TextVAE"
    assert current_path("zoo.data.MNIST") == "zoo.data.MNIST"
    assert current_path("mine.MNIST") == "mine.MNIST"
    assert current_path("datamodules.images.MNIST") == "zoo.data.MNIST"
    monkeypatch.setenv("ZOO_TRUST", "other,datamodules")
    assert current_path("datamodules.images.MNIST") == "datamodules.images.MNIST"
