"""Commands of users with pictures that were read wrongly, or not at all, without a word."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
Run = Callable[..., str]


def picture(path: str, seed: int = 0, side: int = 8) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)


@pytest.fixture
def fit(tiny: Path, zoo_cli: Callable[..., tuple[int, str, str]]) -> Run:
    """Trains for a step on the folder d and returns what was said."""

    def run(*flags: object) -> str:
        arguments = ["fit", "-c", "own.yaml", "--data.root", "d", "--trainer.max_steps", 1]
        arguments += ["--trainer.log_every_n_steps", 1]
        text = tiny.read_text().split("data:")
        data = "data:\n  class_path: zoo.data.ImageFolder\n  init_args: {size: 8, batch_size: 4}\n"
        Path("own.yaml").write_text(text[0] + data + "trainer:" + text[1].split("trainer:")[1])
        code, _, err = zoo_cli(*arguments, *flags)
        assert code == 0, err
        return err

    return run


def test_a_class_folder_named_train(fit: Run) -> None:
    for name in ("bus", "car", "ship", "train"):
        for i in range(25):
            picture(f"d/{name}/{i}.png", i)
    said = fit()
    assert "formats: 100 .png" in said
    assert "classes: 4 (bus, car, ship, train)" in said


def test_classes_and_a_flat_test_folder(fit: Run, zoo_cli: Callable[..., object]) -> None:
    for i in range(30):
        picture(f"d/train/cat/{i}.png", i)
        picture(f"d/train/dog/{i}.png", i)
    for i in range(10):
        picture(f"d/test/{i}.png", i)
    assert "classes: 2 (cat, dog)" in fit("--run_dir", "run")
    code, _, err = zoo_cli("test", "--ckpt_path", "run")  # type: ignore[misc]
    assert code == 0, err
    assert "test: 10 images (without classes)" in err


def test_a_linked_class_folder(fit: Run) -> None:
    for i in range(30):
        picture(f"d/cat/{i}.png", i)
        picture(f"elsewhere/dog/{i}.png", i)
    os.symlink(os.path.abspath("elsewhere/dog"), "d/dog")
    said = fit()
    assert "formats: 60 .png" in said
    assert "classes: 2 (cat, dog)" in said


def test_jfif_and_tga(fit: Run) -> None:
    for i in range(20):
        picture(f"d/{i}.png", i)
        picture(f"d/{i}.tga", i)
        picture(f"d/j{i}.jpg", i)
        os.rename(f"d/j{i}.jpg", f"d/j{i}.jfif")
    said = fit()
    assert all(f"20 {suffix}" in said for suffix in (".png", ".tga", ".jfif"))


def test_sixteen_bit_pgm(fit: Run) -> None:
    from zoo.data import ImageFolder

    os.mkdir("d")
    content = b"P5\n8 8\n65535\n" + np.full((8, 8), 40000, ">u2").tobytes()
    for i in range(30):
        Path(f"d/{i}.pgm").write_bytes(content)
    assert "formats: 30 .pgm" in fit("--data.channels", 1)
    assert ImageFolder(root="d", size=8, channels=1).reference_images("train").unique() == 156


@pytest.mark.parametrize(
    ("folders", "word"), [(("images", "masks"), "segmentation"), (("train", "extra"), "extra/")]
)
def test_layouts_that_are_refused_by_name(
    folders: tuple[str, str], word: str, mistake: Callable[..., str], tiny: Path
) -> None:
    for folder in folders:
        for i in range(5):
            picture(f"d/{folder}/{i}.png", i)
    flags = ["--data", "ImageFolder", "--data.root", "d"]
    assert word in mistake("fit", "-c", tiny, *flags)


def test_a_lossless_archive_is_not_made_without_a_picture(mistake: Callable[..., str]) -> None:
    import zoo

    model = zoo.VAE(image_size=8, latent_dim=2, hidden=[8], likelihood="bernoulli")
    zoo.save_pretrained(model, "model")
    Path("d").mkdir()
    Image.new("L", (8, 8)).save("d/a.png")
    Path("d/b.eps").write_bytes(b"%!PS")
    line = mistake("compress", "model", "d")
    assert "1 .eps (not a format that is read)" in line
    assert not Path("images.zbb").exists()


def test_names_that_are_no_utf8_are_read_and_shown(fit: Run, mistake: Callable[..., str]) -> None:
    for i in range(30):
        picture(f"d/cat/{i}.png", i)
        picture(f"d/d\udcff\ng/{i}.png", i)
    said = fit("--run_dir", "run")  # which writes names into the run's record, too
    assert r"classes: 2 (cat, d\udcff\ng)" in said
    line = mistake("fit", "-c", "own.yaml", "--data.root", "e\udcff")
    assert r"e\udcff: a name whose bytes are no UTF-8" in line
