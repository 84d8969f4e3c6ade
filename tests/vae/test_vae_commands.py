"""density, compress and decompress, from the command line."""

import csv
import errno
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.data import Digits


def make(folder, **options):
    torch.manual_seed(0)
    model = zoo.VAE(**{"image_size": 8, "levels": 17, "latent_dim": 3, "hidden": [16], **options})
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return zoo.save_pretrained(model, folder)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A VAE of the digits' 17 levels."""
    return make(
        tmp_path_factory.mktemp("grey"), likelihood="discretized_logistic", scale="predicted"
    )


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    """A VAE of digits in black and white, binarised anew every time in training."""
    return make(tmp_path_factory.mktemp("binary"), likelihood="bernoulli", binarization="dynamic")


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def ran(zoo_cli, *arguments):
    code, out, err = zoo_cli(*arguments)
    assert code == 0, err
    return out


def test_density_is_the_models_whatever_the_batch(grey, zoo_cli):
    flags = ["--data", "Digits", "--samples", 30, "--limit", 7, "--seed", 5]
    out = ran(zoo_cli, "density", grey, *flags, "--out", "a.csv", "--batch_size", 7)
    ran(zoo_cli, "density", grey, *flags, "--out", "b.csv", "--batch_size", 3, "--chunk", 4)
    model, data = zoo.load(grey), Digits()
    x = torch.from_numpy(data.split("test").first(7).numpy()).float() / 8 - 1
    expected = model.log_density(x, samples=30, seed=5)
    a, b = rows("a.csv"), rows("b.csv")
    assert [row["index"] for row in a] == [str(i) for i in range(7)]
    for name in expected._fields:
        ours = [float(row[name]) for row in a]
        np.testing.assert_allclose(ours, getattr(expected, name), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(ours, [float(r[name]) for r in b], rtol=1e-3, atol=1e-3)
    bits = -expected.log_density / 64 / math.log(2)
    np.testing.assert_allclose([float(row["bits_per_dim"]) for row in a], bits, rtol=1e-5)
    assert f"log_density   {expected.log_density.mean():.4f} nats" in out
    error = expected.log_density.std() / math.sqrt(7)
    assert f"standard error {error:.4f} over data" in out
    assert f"jackknife     {expected.jackknife.mean():.4f}" in out
    assert f"elbo          {expected.elbo.mean():.4f}" in out
    assert f"bits_per_dim  {bits.mean():.4f}" in out
    alarmed = int((expected.pareto_k > 0.7).sum())
    assert alarmed > 0  # random weights: nothing that samples well
    assert f"warning: {alarmed} of 7 data have Pareto-k above 0.7" in out


def test_repeats_have_seeds_of_their_own(grey, zoo_cli):
    flags = ["--data", "ddpm/digits", "--samples", 20, "--limit", 4, "--seed", 2]
    out = ran(zoo_cli, "density", grey, *flags, "--repeats", 3)
    table = rows("density.csv")
    assert sorted({row["repeat"] for row in table}) == ["0", "1", "2"]
    assert len(table) == 12
    ran(zoo_cli, "density", grey, *flags[:-1], 3, "--out", "other.csv")
    second = [row["log_density"] for row in table if row["repeat"] == "1"]
    assert second == [row["log_density"] for row in rows("other.csv")]
    means = [
        np.mean([float(r["log_density"]) for r in table if r["repeat"] == repeat])
        for repeat in "012"
    ]
    assert f"{np.std(means, ddof=1) / math.sqrt(3):.2g} over 3 repeats" in out


def test_density_of_ones_own_images(grey, zoo_cli, tmp_path):
    levels = np.random.default_rng(0).integers(0, 17, (3, 8, 8))
    array = np.rint(levels * 255 / 16).astype(np.uint8)
    np.save("own.npy", array)
    (tmp_path / "pictures").mkdir()
    for name, image in zip("cab", array, strict=True):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{name}.png")
    ran(zoo_cli, "density", grey, "--data", "own.npy", "--samples", 5, "-o", "a.csv")
    ran(zoo_cli, "density", grey, "--data", "pictures", "--samples", 5, "-o", "b.csv")
    flags = ["--data", "ImageFolder", "--root", "pictures", "--split", "train", "--samples", 5]
    assert "the model of 1x8x8" not in ran(zoo_cli, "density", grey, *flags)
    model = zoo.load(grey)
    x = torch.from_numpy(levels).float()[:, None] / 8 - 1
    expected = model.log_density(x, samples=5, seed=0).log_density
    ours = [float(row["log_density"]) for row in rows("a.csv")]
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    table = rows("b.csv")
    assert [row["file"] for row in table] == ["a.png", "b.png", "c.png"]
    expected = model.log_density(x[[1, 2, 0]], samples=5, seed=0).log_density
    np.testing.assert_allclose([float(r["log_density"]) for r in table], expected, rtol=1e-4)


def test_what_is_done_stays_when_it_is_stopped(grey, zoo_cli, monkeypatch):
    from zoo.vae.density import command as commands

    calls = []

    def interrupted(*args, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(0)
        return estimate(*args, **options)

    estimate = commands.estimate_log_density
    monkeypatch.setattr(commands, "estimate_log_density", interrupted)
    flags = ["--data", "Digits", "--samples", 5, "--batch_size", 10]
    code, out, err = zoo_cli("density", grey, *flags)
    assert code == 130
    assert len(rows("density.csv")) == 20
    assert "20 data of the test split" in out
    assert "Traceback" not in err


@pytest.mark.parametrize("spheres", [None, [3, 4]])
def test_annealing_brackets_the_estimate(zoo_cli, spheres):
    if spheres is None:
        make("model", likelihood="bernoulli", binarization="threshold")
    else:
        torch.manual_seed(0)
        model = zoo.VMFVAE(
            image_size=8, levels=17, hidden=[16], spheres=spheres, binarization="threshold"
        )
        torch.nn.init.normal_(model.decoder.out.weight, std=0.5)
        zoo.save_pretrained(model, "model")
    flags = ["--data", "Digits", "--limit", 2, "--samples", 3000, "--widen", 1.5]
    out = ran(zoo_cli, "density", "model", *flags, "--ais", 6, "--temperatures", 60)
    lines = {line[:21].strip(): line[21:].split() for line in out.splitlines()}
    lower, value, upper = (
        float(lines[name][0]) for name in ("lower bound", "importance sampling", "upper bound")
    )
    assert lower - 0.1 < value < upper + 0.1
    assert upper - lower < 0.5
    assert "6 of 6 estimates are between their bounds" in out


def test_density_mistakes(grey, mistake):
    own = ["density", grey]
    assert "does not say what data it was trained on: give --data" in mistake(*own)
    assert "did you mean Digits?" in mistake(*own, "--data", "Digit")
    assert "not allowed" in mistake(*own, "--data", "os.path")
    assert "--repeats=0: must be 1 or more" in mistake(*own, "--data", "Digits", "--repeats", 0)
    assert "samples=0" in mistake(*own, "--data", "Digits", "--samples", 0)
    assert "widen=-1" in mistake(*own, "--data", "Digits", "--widen", -1)
    gaussian = make("gaussian", likelihood="gaussian")
    assert "--ais simulates" in mistake("density", gaussian, "--data", "Digits", "--ais", 2)
    assert "set --root" in mistake(*own, "--data", "ImageFolder", "--root", "nowhere")
    np.save("small.npy", np.zeros((2, 4, 4), np.uint8))
    assert "N x 1x8x8" in mistake(*own, "--data", "small.npy")
    np.save("float.npy", np.zeros((2, 8, 8)))
    assert "float64: give uint8" in mistake(*own, "--data", "float.npy")


def test_round_trip_of_a_test_set(grey, zoo_cli):
    images = Digits().reference_images("test").numpy()
    np.save("test.npy", images)
    out = ran(zoo_cli, "compress", grey, "test.npy", "-o", "a.zbb", "--check", "true")
    assert "found equal" in out
    assert f"only these very weights decode it: {grey} (SHA-256 " in out
    assert "PNG, a file an image" in out
    ran(zoo_cli, "decompress", grey, "a.zbb", "-o", "b.npy")
    assert np.array_equal(np.load("b.npy"), images)


def test_round_trip_of_files_in_black_and_white(binary, zoo_cli, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (11, 8, 8), np.uint8)
    (tmp_path / "in").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "in" / f"{i:02d}.png")
    out = ran(zoo_cli, "compress", binary, "in", "--chains", 4, "--heads", 5, "--limit", 10)
    assert "10 images in in, binarised at one half, 2 levels" in out
    ran(zoo_cli, "decompress", binary, "images.zbb", "-o", "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [f.name for f in files] == [f"{i}.png" for i in range(10)]
    for file, image in zip(files, images, strict=False):
        assert np.array_equal(np.asarray(Image.open(file)), np.where(image >= 128, 255, 0))


def test_decompress_writes_into_no_folder_with_files(grey, zoo_cli, mistake, tmp_path, monkeypatch):
    np.save("in.npy", np.zeros((2, 8, 8), np.uint8))
    ran(zoo_cli, "compress", grey, "in.npy")
    out = tmp_path / "out"
    out.mkdir()
    (out / "0.png").write_bytes(b"mine")
    assert "--out out is not empty" in mistake("decompress", grey, "images.zbb", "-o", "out")
    assert [f.read_bytes() for f in out.iterdir()] == [b"mine"]
    assert "out/0.png" in mistake("decompress", grey, "images.zbb", "-o", "out/0.png")
    (out / "0.png").rename(tmp_path / "file")
    assert "--out file is a file" in mistake("decompress", grey, "images.zbb", "-o", "file")
    ran(zoo_cli, "decompress", grey, "images.zbb", "-o", "out")  # an empty one is as good as none
    assert sorted(f.name for f in out.iterdir()) == ["0.png", "1.png"]

    saved = []

    def full(self, path, *args, **options):
        if saved:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(path)
        save(self, path, *args, **options)

    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", full)
    code, _, err = zoo_cli("decompress", grey, "images.zbb", "-o", "new")
    assert code != 0
    assert "new" in err
    assert saved
    assert not [f for f in tmp_path.iterdir() if "new" in f.name]


def test_a_density_that_fails_leaves_the_last_table(grey, zoo_cli, monkeypatch, tmp_path):
    from zoo.vae.density import command as commands

    (tmp_path / "density.csv").write_text("the last\n")

    def failing(*args, **options):
        raise ValueError("a mistake")

    monkeypatch.setattr(commands, "estimate_log_density", failing)
    code, _, _ = zoo_cli("density", grey, "--data", "Digits", "--samples", 5)
    assert code != 0
    assert (tmp_path / "density.csv").read_text() == "the last\n"
    assert not [f for f in tmp_path.iterdir() if f.name.endswith(".tmp")]


def test_compression_mistakes(grey, binary, mistake, zoo_cli, tmp_path):
    np.save("odd.npy", np.full((2, 8, 8), 3, np.uint8))
    assert "a pixel is 3, which is none of" in mistake("compress", grey, "odd.npy")
    assert "no folder, .zip or .npy, nor a split" in mistake("compress", grey, "nowhere")
    (tmp_path / "large").mkdir()
    Image.new("L", (9, 8)).save(tmp_path / "large" / "a.png")
    assert "a.png is 8x9 of mode L" in mistake("compress", grey, "large")
    np.save("good.npy", np.zeros((3, 8, 8), np.uint8))
    ran(zoo_cli, "compress", grey, "good.npy")
    assert "with other weights" in mistake("decompress", binary, "images.zbb")
    content = bytearray((tmp_path / "images.zbb").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "damaged.zbb").write_bytes(content)
    assert "damaged or cut off" in mistake("decompress", grey, "damaged.zbb")
    (tmp_path / "short.zbb").write_bytes(content[:40])
    assert "damaged or cut off" in mistake("decompress", grey, "short.zbb")
    assert "was not written by zoo compress" in mistake("decompress", grey, "odd.npy")
    assert "zoo decompress CKPT FILE" in mistake("decompress", "images.zbb", grey)
    assert "--chains=0: must be from 1 to 65535" in mistake(
        "compress", grey, "good.npy", "--chains", 0
    )
    turned = Image.new("L", (8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned").mkdir()
    turned.save(tmp_path / "turned" / "a.png", exif=exif)
    assert "an EXIF orientation, which would be lost" in mistake("compress", grey, "turned")
    (tmp_path / "clear").mkdir()
    turned.save(tmp_path / "clear" / "a.png", transparency=3)
    assert "a transparent colour, which would be lost" in mistake("compress", grey, "clear")
    (tmp_path / "film").mkdir()
    more = [Image.new("L", (8, 8), 9)]
    turned.save(tmp_path / "film" / "a.png", save_all=True, append_images=more)
    assert "2 frames, which would be lost" in mistake("compress", grey, "film")
    for name in ("empty.npy", "text.npy"):
        (tmp_path / name).write_bytes(b"" if name == "empty.npy" else b"no numbers")
        assert f"{name} is not an .npy of numbers" in mistake("compress", grey, name)
    header = (
        np.lib.format.magic(1, 0)
        + b"v\0"
        + (
            b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 8, 8), }".ljust(117)
            + b"\n"
        )
    )
    (tmp_path / "huge.npy").write_bytes(header)
    assert "huge.npy is not an .npy of numbers" in mistake("compress", grey, "huge.npy")
    assert "give an .npy or a folder" in mistake("decompress", grey, "images.zbb", "-o", "a.png")


def test_an_archive_of_a_run_says_which_weights_to_keep(tmp_path, zoo_cli, mistake):
    torch.manual_seed(0)
    model = zoo.VAE(image_size=8, latent_dim=2, hidden=[8], likelihood="bernoulli")
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)

    def save(step):
        content = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
        torch.save({**content, "zoo_class": "zoo.VAE", "global_step": step}, folder / "last.ckpt")

    save(5)
    np.save("good.npy", np.zeros((3, 8, 8), np.uint8))
    out = ran(zoo_cli, "compress", "run", "good.npy")
    last = "run/checkpoints/last.ckpt"
    assert f"only these very weights decode it: {last} at step 5" in out
    assert f"training on overwrites {last}: zoo export run DIR keeps them" in out
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    save(6)
    line = mistake("decompress", "run", "images.zbb")
    assert f"with other weights, those of {last} at step 5 (SHA-256" in line


def test_another_machine_is_noticed(grey, zoo_cli, mistake, monkeypatch):
    from zoo.vae.coding.bits_back import Codec

    np.save("good.npy", np.zeros((3, 8, 8), np.uint8))
    ran(zoo_cli, "compress", grey, "good.npy")
    check = Codec.check
    monkeypatch.setattr(Codec, "check", lambda self: check(self) ^ 1)
    line = mistake("decompress", grey, "images.zbb")
    assert "computes other probabilities" in line
    assert torch.__version__ in line


def test_models_without_bits_back(tmp_path, mistake):
    torch.manual_seed(0)
    np.save("good.npy", np.zeros((3, 8, 8), np.uint8))
    sphere = zoo.VMFVAE(image_size=8, levels=17, hidden=[16], spheres=[4])
    zoo.save_pretrained(sphere, "sphere")
    assert "needs a Gaussian posterior" in mistake("compress", "sphere", "good.npy")
    make("gaussian", likelihood="gaussian")
    assert "likelihood bernoulli or" in mistake("compress", "gaussian", "good.npy")


def test_density_says_which_protocol_it_was(grey, zoo_cli):
    flags = ["--data", "Digits", "--samples", 30, "--limit", 4]
    out = ran(zoo_cli, "density", grey, *flags, "-o", "a.csv")
    assert "30 samples each from a proposal of its own (5 steps), seed 0" in out
    assert "of that proposal" in out
    out = ran(zoo_cli, "density", grey, *flags, "--refine", 0, "-o", "b.csv")
    assert "30 samples each from the encoder's posterior, seed 0" in out
    assert "of that proposal" not in out
    model = zoo.load(grey)
    x = torch.from_numpy(Digits().split("test").first(4).numpy()).float() / 8 - 1
    for name, refine in (("a.csv", 5), ("b.csv", 0)):
        expected = model.log_density(x, samples=30, seed=0, refine=refine).log_density
        ours = [float(row["log_density"]) for row in rows(name)]
        np.testing.assert_allclose(ours, expected, rtol=1e-4)
    code, _, err = zoo_cli("density", grey, *flags, "--refine", -1)
    assert code == 2
    assert "refine=-1" in err.replace("--refine -1", "refine=-1")


def test_refined_posteriors_compress_and_decompress(grey, zoo_cli):
    flags = ["--limit", 6, "--refine", 2, "--check", "true"]
    array = np.rint(np.random.default_rng(0).integers(0, 17, (6, 8, 8)) * 255 / 16)
    np.save("own.npy", array.astype(np.uint8))
    out = ran(zoo_cli, "compress", grey, "own.npy", *flags, "-o", "a.zbb")
    assert "decoded again and found equal" in out
    ran(zoo_cli, "decompress", grey, "a.zbb", "-o", "back.npy")
    assert np.array_equal(np.load("back.npy").squeeze(), array)


def test_options_that_samples_or_pictures_have_not_are_refused(grey, mistake):
    """They were taken and did nothing."""
    for kind in ("reconstructions", "interpolation", "traversals"):
        shown = ("sample", grey, "--kind", kind, "--data", "Digits")
        assert f"--labels means nothing with --kind {kind}" in mistake(*shown, "--labels", 3)
        assert f"--pixels means nothing with --kind {kind}" in mistake(*shown, "--pixels", "draw")
        assert "--precision means nothing" in mistake(*shown, "--precision", "bf16")
    assert "--data Digits: samples start from no images" in mistake(
        "sample", grey, "--data", "Digits"
    )
    assert "--root x: samples start" in mistake("sample", grey, "--kind", "prior", "--root", "x")


def test_a_chunk_beyond_the_memory_is_refused(grey, mistake):
    """The system ended the process, or others."""
    flags = ("--data", "Digits", "--limit", 1, "--samples", 10**9, "--chunk", 10**10)
    assert "--chunk=10000000000, --batch_size=100: needs about 768" in mistake(
        "density", grey, *flags
    )
