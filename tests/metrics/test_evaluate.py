"""`zoo evaluate`: two sets of images, however they lie, measured as pytorch-fid measures them."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg
from sklearn.datasets import load_digits

from zoo.metrics.features import ASSETS, load_extractor
from zoo.metrics.kernel import kernel_distance
from zoo.metrics.manifold import manifold_metrics

Features = np.ndarray[Any, np.dtype[np.float64]]


def reference(x: Features, y: Features) -> float:
    """calculate_frechet_distance of pytorch-fid 0.3.0, or its formula where it is not installed."""
    moments = [(z.mean(0), np.cov(z, rowvar=False)) for z in (x, y)]
    try:
        from pytorch_fid.fid_score import calculate_frechet_distance
    except ImportError:
        (m1, s1), (m2, s2) = moments
        root = linalg.sqrtm(s1.dot(s2)).real
        return float((m1 - m2) @ (m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * np.trace(root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it calls scipy
        return float(calculate_frechet_distance(*moments[0], *moments[1]))


@pytest.fixture
def digits() -> np.ndarray:
    """240 real digits, uint8 (N, 8, 8)."""
    return (load_digits().images[:240] * 255 / 16).round().astype(np.uint8)


@pytest.fixture
def measured(zoo_cli: Callable[..., tuple[int, str, str]]) -> Callable[..., dict[str, Any]]:
    """What `zoo evaluate` writes, once it has printed the same."""

    def run(*arguments: object) -> dict[str, Any]:
        code, out, err = zoo_cli("evaluate", *arguments, "--out", "out.json")
        assert code == 0, err
        found = json.loads(Path("out.json").read_text())
        assert all(f"{k}: {v}" in out for k, v in found["protocol"].items())
        shown = dict(line.split() for line in out.split("\n\n")[0].splitlines())
        assert shown == {k: f"{v:.6g}" for k, v in found["metrics"].items()}
        return found

    return run


def folder(path: str, images: np.ndarray, suffix: str = "png") -> str:
    for i, image in enumerate(images):
        file = Path(path, f"{i % 3}", f"{i:04d}.{suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


def test_features_give_the_distance_of_pytorch_fid(measured):
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 24))
    real, fake = rng.normal(size=(300, 24)) @ mix, rng.normal(0.2, 1.3, (260, 24)) @ mix
    np.save("real.npy", real)
    np.save("fake.npy", fake)
    found = measured("real.npy", "fake.npy")
    expected = reference(real, fake)
    assert abs(found["metrics"]["frechet_distance"] - expected) < 1e-6 * max(1, expected)
    x, y = map(torch.from_numpy, (real, fake))
    assert found["metrics"]["kid"] == float(kernel_distance(x, y, subset_size=1000)[0])
    for name, value in manifold_metrics(x, y)._asdict().items():
        assert found["metrics"][name] == float(value)
    assert found["protocol"]["real"] == "300 of real.npy"
    assert found["protocol"]["generated"] == "260 of fake.npy"
    assert measured("real.npy", "real.npy")["metrics"]["frechet_distance"] < 1e-9 * expected


def test_folders_zips_and_arrays_of_images_give_the_same(measured, digits):
    noisy = np.clip(digits[::-1] * 0.8 + 20, 0, 255).astype(np.uint8)
    extractor = load_extractor("digits-net")
    x, y = (extractor(torch.from_numpy(z)[:, None]).double().numpy() for z in (digits, noisy))
    net = ("--extractor", "digits-net")
    np.save("fake.npy", noisy)
    np.save("last.npy", noisy[..., None])
    found = measured(folder("real", digits), "fake.npy", *net)
    expected = reference(x, y)
    assert abs(found["metrics"]["frechet_distance"] - expected) < 1e-6 * max(1, expected)
    assert found["protocol"]["extractor_sha256"] == extractor.sha256
    assert found["protocol"]["images"] == "8x8"

    colour = np.repeat(noisy[..., None], 3, -1)  # grey, saved as RGB
    shutil.make_archive("fake", "zip", folder("fake", colour))
    for fake in ("last.npy", "fake", "fake.zip"):
        other = measured("real", fake, *net, "--batch_size", 50)
        for name, value in found["metrics"].items():
            assert other["metrics"][name] == pytest.approx(value, rel=1e-5), (fake, name)
    path = ASSETS / "digits-net.safetensors"
    assert measured("real", "fake", "--extractor", path)["metrics"] == pytest.approx(
        found["metrics"], rel=1e-5
    )


def test_sizes_are_brought_together_when_asked(measured, mistake, digits):
    large = digits.repeat(2, 1).repeat(2, 2)
    folder("real", digits[:20]), folder("fake", large[:20])
    net = ("--extractor", "digits-net")
    said = mistake("evaluate", "real", "fake", *net)
    assert "fake is of 16x16 and real of 8x8 pixels: --size 8 brings all" in said
    Image.fromarray(large[0]).save("real/2/zzz.png")
    said = mistake("evaluate", "real", "real", *net)
    assert "2/zzz.png is of 16x16 pixels and 0/0000.png of 8x8: --size 8" in said
    found = measured("real", "fake", *net, "--size", 8)
    assert found["protocol"]["images"] == "8x8, cut and resized to 8x8 first"
    assert found["protocol"]["real"] == "21 of real"


def test_few_images_leave_numbers_out(measured, mistake, digits):
    net = ("--extractor", "digits-net")
    found = measured(folder("real", digits[:4]), "real", *net)
    assert set(found["metrics"]) == {"frechet_distance", "kid"}
    assert "precision (needs 6)" in found["protocol"]["left out"]
    said = mistake("evaluate", folder("one", digits[:1]), "real", *net)
    assert "nothing can be measured: frechet_distance (needs 2)" in said


def nan(path: str) -> None:
    x = np.random.default_rng(0).normal(size=(9, 3))
    x[4, 1] = np.nan
    np.save(path, x)


def other_width(path: str) -> None:
    np.save(path, np.zeros((9, 4)))


def empty(path: str) -> None:
    Path(path).mkdir()


def texts(path: str) -> None:
    Path(path).mkdir()
    Path(path, "a.txt").write_text("no picture")


def broken(path: str) -> None:
    Path(path).mkdir()
    Path(path, "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")


def colour(path: str) -> None:
    folder(path, np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("x.npy", nan, "x.npy: features are not finite: 1 of 9 rows"),
        ("x.npy", other_width, "x.npy: features have the shape (9, 4): give a row an image, of 3"),
        ("x.npy", lambda p: np.save(p, np.zeros((9, 8, 8))), "holds float64: give uint8"),
        ("x.npy", lambda p: np.save(p, np.zeros((2, 3, 4, 5, 6), np.uint8)), "(2, 3, 4, 5, 6)"),
        ("x.npy", lambda p: np.save(p, np.array([["a"]])), "features are numbers"),
        ("x.npy", lambda p: Path(p).write_bytes(b"no array"), "x.npy is not an .npy of numbers"),
        ("x.npy", lambda p: None, "x.npy is no file"),
        ("x", empty, "no images in x: it must hold files that end in"),
        ("x", texts, "no images in x, only 1 .txt (no pictures)"),
        ("x", broken, "x: a.png cannot be read"),
        ("x", colour, "x holds images in colour, and digits-net is for grey ones"),
        ("x", lambda p: None, "no folder x"),
        ("x", lambda p: Path(p).write_text("no zip"), "x is neither a folder nor a .zip"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(mistake, digits, name, make, said):
    make(name)
    features = make in (nan, other_width)
    if features:
        np.save("real.npy", np.random.default_rng(1).normal(size=(9, 3)))
    real = "real.npy" if features else folder("real", digits[:4])
    assert said in mistake("evaluate", real, name, "--extractor", "digits-net")


def test_options_that_cannot_be(mistake, digits):
    np.save("features.npy", np.zeros((9, 3)))
    folder("real", digits[:4])
    assert "features.npy holds features and real images" in mistake(
        "evaluate", "real", "features.npy", "--extractor", "digits-net"
    )
    assert "choose one of digits-net" in mistake("evaluate", "real", "real", "--extractor", "fid")
    Path("net.safetensors").write_bytes(b"nothing")
    assert "net.safetensors is no feature net" in mistake(
        "evaluate", "real", "real", "--extractor", "net.safetensors"
    )
    assert "--out real is a folder" in mistake("evaluate", "real", "real", "--out", "real")
    assert "no Inception weights at" in mistake("evaluate", "real", "real", "--weights", "none")
