"""Every shipped YAML, over the registry: it parses, builds, and every parameter learns."""

import importlib
from pathlib import Path

import pytest
import torch
import yaml

from zoo.recipes import describe_config, list_configs, resolve_config
from zoo.registry import MODELS
from zoo.training import mix

RECIPES = [name for name in list_configs() if not name.startswith("overlays/")]
OVERLAYS = [name for name in list_configs() if name.startswith("overlays/")]


def lay(under, over):
    """Two configs, the second laid over the first."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return under | {key: lay(under.get(key), value) for key, value in over.items()}


def load(name):
    files, flags = resolve_config(name)
    config = {}
    for file in files:
        config = lay(config, yaml.safe_load(file.read_text()))
    for flag in flags:
        key, _, value = flag.removeprefix("--model.").partition("=")
        config["model"]["init_args"][key] = yaml.safe_load(value)
    return config


def with_text_keys(value):
    """Keys of a dict as they are printed."""
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value


def build(config):
    package, _, name = config["class_path"].rpartition(".")
    return getattr(importlib.import_module(package), name)(**config.get("init_args", {}))


def fit_one_step(model, data):
    from lightning.pytorch import Trainer

    Trainer(
        accelerator="cpu",
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, data)


def test_there_are_configs():
    assert "ddpm/digits" in RECIPES
    assert "overlays/wandb" in OVERLAYS


def test_every_name_that_was_ever_listed_still_works():
    listed = (Path(__file__).parent / "recipe_names.txt").read_text().split()
    assert set(listed) <= set(list_configs())


@pytest.mark.parametrize("name", list_configs())
def test_says_what_it_is(name):
    assert len(describe_config(name)) > 10


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_parses_and_keeps_its_values(name, zoo_cli):
    code, out, err = zoo_cli("fit", "-c", name, "--print_config")
    assert code == 0, err
    parsed, written = yaml.safe_load(out), load(name)
    for group, key in (("model", "init_args"), ("data", "init_args")):
        for option, value in written[group].get(key, {}).items():
            assert with_text_keys(parsed[group][key][option]) == with_text_keys(value), option
    assert parsed["trainer"]["max_steps"] > 0 or parsed["trainer"]["max_epochs"] > 0


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_parses_over_a_recipe(name, zoo_cli):
    code, _, err = zoo_cli("fit", "-c", "ddpm/digits", "-c", name, "--print_config")
    assert code == 0, err


@pytest.mark.parametrize("name", MODELS)
def test_registry_row_is_true(name):
    model = MODELS[name]
    cls = getattr(importlib.import_module(model.module), name)
    assert load(model.config)["model"]["class_path"] == f"zoo.{name}"
    assert model.paper in cls.__doc__
    assert str(model.post) in cls.__doc__


@pytest.mark.parametrize("name", [n for n in RECIPES if "digits" in n])
def test_every_parameter_gets_a_gradient_and_weights_go_round(name):
    """Models that are small enough to run here."""
    config = load(name)
    torch.manual_seed(0)
    model, data = build(config["model"]), build(config["data"])
    data.setup()
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())))
    for parameter in model.parameters():  # zero-initialised outputs would hide what is behind
        torch.nn.init.normal_(parameter, std=0.05)
    if model.automatic_optimization:
        model.training_step(batch, 0).backward()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key
    else:  # a GAN takes its own steps
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        fit_one_step(model, data)
        for key, parameter in model.named_parameters():
            # A difference of means does not depend on the critic's last bias.
            assert key == "critic.head.linear.bias" or not torch.equal(parameter, before[key]), key
    again = build(config["model"])
    assert again.load_state_dict(model.state_dict()).missing_keys == []


def test_mix_separates_neighbours():
    seeds = {mix(a, b) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500
    assert mix(1, 2) != mix(2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)
