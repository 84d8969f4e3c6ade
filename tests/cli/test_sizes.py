"""Sizes that model and data share: said once, by a flag, the checkpoint or the data."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jsonargparse import Namespace
from PIL import Image

from zoo.cli.sizes import settle_sizes

FOLDER = {"root": "pictures", "size": 64, "channels": 3, "batch_size": 64}
MODEL = {"image_size": 32, "channels": 3, "levels": 256, "num_classes": 0}
GAN = {**MODEL, "network": "dcgan", "n_critic": 5, "critic_batch": 64}


def settled(
    data: str, model: dict[str, Any], own: dict[str, Any], *flags: str, held: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of model and data after the flags were typed and the sizes settled."""
    model, own = dict(model), dict(own)
    for flag in flags:
        group, _, rest = flag.removeprefix("--").partition(".")
        name, _, value = rest.partition("=")
        (model if group == "model" else own)[name] = int(value)
    config = SimpleNamespace(
        model=Namespace(class_path="zoo.X", init_args=Namespace(**model)),
        data=Namespace(class_path=f"zoo.data.{data}", init_args=Namespace(**own)),
    )
    settle_sizes(config, list(flags), held or {}, fit=True)
    return vars(config.model.init_args), vars(config.data.init_args)


def test_a_model_takes_the_sizes_of_its_data() -> None:
    model, _ = settled("Digits", {**MODEL, "num_classes": 3}, {"batch_size": 5})
    assert model == {"image_size": 8, "channels": 1, "levels": 17, "num_classes": 10}
    assert settled("MNIST", MODEL, {})[0]["num_classes"] == 0  # asked for no classes
    model, _ = settled("ImageFolder", MODEL, FOLDER, "--data.size=48", "--data.channels=1")
    assert (model["image_size"], model["channels"]) == (48, 1)
    model, _ = settled("ImageFolder", MODEL, {**FOLDER, "size": [16, 24]})
    assert model["image_size"] == [16, 24]


def test_pictures_take_the_size_that_was_typed_for_the_model() -> None:
    model, data = settled("ImageFolder", MODEL, FOLDER, "--model.image_size=16")
    assert (model["image_size"], data["size"]) == (16, 16)
    _, data = settled("ImageFolder", MODEL, FOLDER, held={"image_size": 32, "channels": 3})
    assert data["size"] == 32


def test_classes_are_those_of_the_folders(tmp_path: Path) -> None:
    for kind in "abc":
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / kind / "1.png")
    folder = {**FOLDER, "root": str(tmp_path)}
    assert settled("ImageFolder", {**MODEL, "num_classes": 10}, folder)[0]["num_classes"] == 3
    assert settled("ImageFolder", MODEL, folder)[0]["num_classes"] == 0


@pytest.mark.parametrize(
    ("data", "own", "flags", "held", "match"),
    [
        ("Digits", {}, ["--model.image_size=16"], {}, "leave out --model.image_size"),
        ("Digits", {}, ["--model.levels=16"], {}, "Digits has 17; leave out --model.levels"),
        (
            "ImageFolder",
            FOLDER,
            ["--model.image_size=16", "--data.size=32"],
            {},
            "--model.image_size=16 and --data.size=32 differ: give one",
        ),
        (
            "ImageFolder",
            FOLDER,
            ["--data.size=48"],
            {"image_size": 32},
            "--data.size=48: the checkpoint's .*image_size=32: leave out --data.size",
        ),
        ("MNIST", {}, [], {"image_size": 32}, "has image_size=32, and MNIST 28: choose other data"),
        (
            "ImageFolder",
            FOLDER | {"size": [8, 8, 8]},
            [],
            {},
            r"^--data.size=\[8, 8, 8\]: give a side",
        ),
    ],
)
def test_two_words_about_a_size_are_refused_with_the_flag_to_change(
    data: str, own: dict[str, Any], flags: list[str], held: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        settled(data, MODEL, own, *flags, held=held)


def test_the_batch_of_a_gan() -> None:
    own = {"batch_size": 128}
    assert settled("MNIST", GAN, own)[1]["batch_size"] == 320
    assert settled("MNIST", GAN, own, "--model.critic_batch=10")[1]["batch_size"] == 50
    model, data = settled("MNIST", GAN, own, "--data.batch_size=50")
    assert (model["critic_batch"], data["batch_size"]) == (10, 50)
    for flags in (
        ["--data.batch_size=51"],
        ["--data.batch_size=50", "--model.critic_batch=64"],
    ):
        with pytest.raises(ValueError, match=r"leave it out, and set --model.critic_batch"):
            settled("MNIST", GAN, own, *flags)


def test_advice_about_few_images_is_no_circle(mistake: Any, zoo_cli: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "p/train").mkdir(parents=True)
    (tmp_path / "p/val").mkdir()
    for i in range(12):
        array = rng.integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(array).save(tmp_path / f"p/{'train' if i < 11 else 'val'}/{i}.png")
    flags = ["fit", "-c", "wgan/digits-gp", "--data", "ImageFolder", "--data.root", "p"]
    flags += ["--data.size", 8, "--data.channels", 1, "--model.num_classes", 0]
    flags += ["--trainer.max_steps", 1, "--trainer.accelerator", "cpu", "--samples.n", 0]
    flags += ["--trainer.log_every_n_steps", 1]
    line = mistake(*flags)
    assert "lower --model.critic_batch to 5 or less" in line
    code, _, err = zoo_cli(*flags, "--model.critic_batch", 5)
    assert code == 0, err
    assert "data: pictures in p, 8x8 grey" in err
    assert "train: 10 images" in err


def test_a_recipe_laid_over_a_checkpoint_again_does_not_bring_its_own_sizes_back() -> None:
    held = {"image_size": 48, "critic_batch": 10, "vocab_size": 1796}
    recipe = {**GAN, "vocab_size": 3000}
    again = ("--data.size=48", "--data.batch_size=50")
    model, data = settled("ImageFolder", recipe, FOLDER, *again, held=held)
    assert {name: model[name] for name in held} == held
    assert (data["size"], data["batch_size"]) == (48, 50)
    model, _ = settled("ImageFolder", recipe, FOLDER, "--model.vocab_size=9", held=held)
    assert model["vocab_size"] == 9  # a flag is the user's word, and is refused by its name


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("-c", "simbert/demo", "--model.hidden", 16, "--model.layers", 1, "--model.heads", 2),
        ("-c", "flash/shakespeare", "--data.root", "text", "--model.dim", 16, "--model.depth", 1),
        ("-c", "vae/text-shakespeare", "--data.root", "text", "--model.hidden", 16),
        ("-c", "ddpm/folder", "--data.root", "pictures", "--data.size", 16, "--model.width", 32),
    ],
)
def test_the_same_command_goes_on(flags: Any, zoo_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for name, n in (("train", 900), ("valid", 200), ("test", 200)):
        (tmp_path / "text" / f"{name}.txt").write_text("to be or not to be\n" * n)
    (tmp_path / "pictures").mkdir()
    for i in range(40):
        image = np.full((20, 20, 3), 6 * i, np.uint8)
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i}.png")
    fit = ("fit", *flags, "--run_dir", "run", "--data.batch_size", 8, "--trainer.max_steps")
    for steps in (1, 2):
        code, _, err = zoo_cli(*fit, steps, "--ckpt_path", "last")
        assert code == 0, err
