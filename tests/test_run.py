"""A run from a script is the command's run, to the bit, and goes on as it does."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, seed_everything

import zoo

LAST = "checkpoints/last.ckpt"
NOTES = {"zoo_config", "hyper_parameters", "datamodule_hyper_parameters"}  # as a parser has them


class StopAt(Callback):
    """Asks for the end of a run, as Ctrl-C does."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def made(recipe: dict[str, Any]) -> tuple[Any, Any]:
    """Model and data of a recipe, as a script makes them."""
    seed_everything(recipe["seed_everything"], workers=True)
    model, data = recipe["model"], recipe["data"]
    return (
        getattr(zoo, model["class_path"].removeprefix("zoo."))(**model["init_args"]),
        getattr(zoo.data, data["class_path"].removeprefix("zoo.data."))(**data["init_args"]),
    )


def around(recipe: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The rest of it, as `zoo.trainer` takes it."""
    sections = {k: recipe[k] for k in ("ema", "samples", "quality", "checkpoint") if k in recipe}
    return {**recipe["trainer"], **sections, **more}


def same(a: Any, b: Any, where: str = "") -> None:
    """Raises unless two checkpoints are equal to the bit, but for how their runs were started."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - NOTES:
            same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{where}/{i}")
    else:
        assert a == b, where


def files(run: str) -> dict[str, Any]:
    return torch.load(f"{run}/{LAST}", weights_only=True)


WGAN = """\
seed_everything: 2
model:
  class_path: zoo.WGAN
  init_args:
    {network: mlp, latent_dim: 2, generator_widths: [8], critic_widths: [8], n_critic: 2,
     critic_batch: 8, generator_batch: 8}
data:
  class_path: zoo.data.Toy2D
  init_args: {name: 8gaussians, batch_size: 16, val_size: 64, epoch_size: 160}
trainer:
  {accelerator: cpu, max_steps: 12, log_every_n_steps: 3, enable_progress_bar: false,
   enable_model_summary: false}
ema: {decay: 0.8}
samples: {n: 4}
"""


@pytest.mark.slow
@pytest.mark.parametrize("family", ["ddpm", "wgan"])
def test_a_scripts_run_is_the_commands(tiny_yaml, zoo_cli, family):
    text = {"ddpm": tiny_yaml.replace("max_steps: 30", "max_steps: 12"), "wgan": WGAN}[family]
    recipe = yaml.safe_load(text)
    Path("recipe.yaml").write_text(text)
    assert zoo_cli("fit", "-c", "recipe.yaml", "--run_dir", "command")[0] == 0

    model, data = made(recipe)
    zoo.trainer("whole", **around(recipe)).fit(model, data)
    same(files("command"), files("whole"))
    table = Path("command/metrics.csv").read_bytes()
    assert Path("whole/metrics.csv").read_bytes() == table
    ours, theirs = (sorted(p.name for p in Path(r).rglob("*.*")) for r in ("whole", "command"))
    assert ours == theirs  # checkpoints, pictures, config.yaml and so on
    averages = files("whole")["state_dict"]
    assert all(torch.equal(value, averages[name]) for name, value in model.state_dict().items())

    # Stopped, and gone on with by another script and by the command.
    for run in ("script", "verb"):
        model, data = made(recipe)
        stopped = zoo.trainer(run, **around(recipe, callbacks=[StopAt(8)]))
        with pytest.raises(KeyboardInterrupt, match=r"saved step 9 in .*last\.ckpt"):
            stopped.fit(model, data)
        assert files(run)["global_step"] in (9, 27)  # of a GAN: of both optimisers
    model, data = made(recipe)
    zoo.trainer("script", **around(recipe)).fit(model, data, ckpt_path="last")
    assert zoo_cli("fit", "--run_dir", "verb", "--ckpt_path", "last")[0] == 0
    for run in ("script", "verb"):
        same(files("whole"), files(run))
        assert Path(run, "metrics.csv").read_bytes() == table


@pytest.mark.slow
def test_its_record_makes_the_run_again_and_is_tested(tiny_yaml, zoo_cli):
    recipe = yaml.safe_load(tiny_yaml)
    model, data = made(recipe)
    quality = {"extractor": "digits-net", "samples": 20}
    trainer = zoo.trainer("first", **around(recipe, quality=quality))
    trainer.fit(model, data)
    table = Path("first/metrics.csv").read_bytes()
    trainer.test(model, data, ckpt_path="last")
    ours = json.loads(Path("first/results.json").read_text())
    assert Path("first/metrics.csv").read_bytes() == table  # a test adds nothing to it

    code, _, err = zoo_cli("test", "--ckpt_path", "first", "--trainer.enable_progress_bar=false")
    assert code == 0, err
    theirs = json.loads(Path("first/results.json").read_text())
    assert ours["metrics"] == theirs["metrics"]
    assert ours["protocol"] == theirs["protocol"]
    assert (ours["step"], ours["checkpoint"]) == (30, f"first/{LAST}")

    assert zoo_cli("fit", "-c", "first/config.yaml", "--run_dir", "again")[0] == 0
    same(files("first"), files("again"))
    assert Path("again/metrics.csv").read_bytes() == table


def small(run_dir: str, **more: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return zoo.trainer(run_dir, **{"max_steps": 2, **quiet, **more})


def parts() -> tuple[Any, Any]:
    seed_everything(0)
    net: dict[str, Any] = {"width": 8, "multipliers": [1], "blocks": 1, "attention_levels": []}
    model = zoo.DDPM(image_size=8, channels=1, levels=17, timesteps=4, groups=4, **net)
    return model, zoo.data.Digits(batch_size=16, limit=32)


def test_a_run_directory_holds_one_run():
    model, data = parts()
    small("run").fit(model, data)
    before = Path("run", LAST).read_bytes()
    with pytest.raises(ValueError, match=r'already holds a run: .*ckpt_path="last"'):
        small("run").fit(model, data)
    assert Path("run", LAST).read_bytes() == before
    small("run", max_steps=3).fit(model, data, ckpt_path="last")
    assert files("run")["global_step"] == 3
    assert not Path("run/.lock").exists()


def test_last_of_an_empty_folder_begins_a_run_and_sigterm_ends_it():
    model, data = parts()
    stop = StopAt(1, signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        small("run", callbacks=stop).fit(model, data, ckpt_path="last")
    assert ended.value.code == 143
    assert files("run")["global_step"] == 2


def test_what_cannot_be_is_told():
    with pytest.raises(ValueError, match="when does it end"):
        zoo.trainer("run")
    with pytest.raises(ValueError, match=r"--ema\.decay"):
        zoo.trainer("run", max_steps=1, ema={"decay": 2.0})
    with pytest.raises(ValueError, match=r"decay='0.5': must be a number"):
        zoo.trainer("run", max_steps=1, ema={"decay": "0.5"})
    for name, value in (("max_steps", 2.5), ("max_epochs", 0), ("limit_val_batches", 1.5)):
        with pytest.raises(ValueError, match=f"^{name}={value}: must be"):
            zoo.trainer("run", **{"max_steps": 1, name: value})
    with pytest.raises(TypeError, match="deacy"):
        zoo.trainer("run", max_steps=1, ema={"deacy": 0.9})
    model, data = parts()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        small("run").fit(model, data, ckpt_path="nowhere")
    zoo.save_pretrained(model, "weights")
    with pytest.raises(ValueError, match=r"weights alone: zoo.load\('weights'\)"):
        small("run").fit(model, data, ckpt_path="weights")
    torch.save({"state_dict": model.state_dict()}, "bare.ckpt")
    with pytest.raises(ValueError, match="no checkpoint of a Trainer"):
        small("run").fit(model, data, ckpt_path="bare.ckpt")
    assert not Path("run").exists()


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_a_loaded_model_is_trained_in_training_mode(tmp_path: Path) -> None:
    """zoo.load gives it in evaluation mode, which Lightning keeps: no dropout, no statistics."""

    class Modes(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append([module.training for module in pl_module.modules()])

    seen: list[list[bool]] = []
    parts = {"accelerator": "cpu", "enable_progress_bar": False, "callbacks": [Modes()]}
    model, data = zoo.load("vae/digits"), zoo.data.Digits()
    zoo.trainer(tmp_path / "whole", max_steps=1, **parts).fit(model, data)
    assert all(seen.pop())
    model.train()
    model.encoder.eval()  # a part that is frozen so stays so
    zoo.trainer(tmp_path / "frozen", max_steps=1, **parts).fit(model, data)
    assert seen.pop().count(False) == len(list(model.encoder.modules()))
