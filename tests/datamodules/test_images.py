"""The published sets: values, splits, and what is said when files are missing or broken."""

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from zoo.data import CIFAR10, MNIST, Digits, FashionMNIST
from zoo.data.images.base import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def write_idx(path: Path, array: np.ndarray, compress: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def write_mnist(folder: Path, compress: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (30, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, 30).astype(np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (8, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 8).astype(np.uint8),
    }
    for name, array in arrays.items():
        write_idx(folder / name, array, compress)
    return arrays


def write_cifar(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    batches = {}
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        batches[name] = {
            "data": rng.integers(0, 256, (4, 3072), np.uint8),
            "labels": rng.integers(0, 10, 4).tolist(),
            "batch_label": name,
            "filenames": ["x.png"] * 4,
        }
        (folder / name).write_bytes(pickle.dumps(batches[name], protocol=2))
    return batches


def test_digits_are_scikit_learns_with_every_image_in_one_split() -> None:
    data = Digits()
    data.setup()
    assert (data.channels, data.size, data.num_classes, data.levels) == (1, (8, 8), 10, 17)
    sets = {s: data.split(s) for s in SPLITS}
    assert [len(sets[s]) for s in SPLITS] == [1257, 180, 360]
    batches = [s.__getitems__(list(range(len(s)))) for s in sets.values()]
    ours = [
        (*image.flatten().tolist(), label)
        for batch in batches
        for image, label in zip(batch.images, batch.labels.tolist(), strict=True)
    ]
    digits = load_digits()
    theirs = [
        (*map(int, image.flatten()), int(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    ]
    assert sorted(ours) == sorted(theirs)
    # every class is in every split about as often as in the whole
    for batch in batches:
        counts = torch.bincount(batch.labels, minlength=10) / len(batch.labels)
        assert (counts - 0.1).abs().max() < 0.05


def test_digits_references_are_rescaled_and_the_splits_never_move() -> None:
    data = Digits(seed=5, limit=3)
    reference = data.reference_images("train")
    assert reference.shape == (3, 1, 8, 8)
    raw = data.split("train").first().double()
    torch.testing.assert_close(reference.double(), raw * 255 / 16, rtol=0, atol=0.5)
    assert torch.equal(Digits(seed=6).reference_images("train", 3), reference)
    # the documented order, written down: a change here would leak test images into training
    assert data.split("train").__getitems__([0, 1, 2]).labels.tolist() == [6, 2, 0]
    test = Digits().split("test").__getitems__(list(range(8)))
    assert test.labels.tolist() == [8, 1, 3, 1, 6, 5, 6, 4]


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_reads_idx_files(tmp_path: Path, compress: bool) -> None:
    arrays = write_mnist(tmp_path / "MNIST/raw", compress)
    data = MNIST(root=str(tmp_path), val_images=10, limit=15)
    data.setup()
    assert [len(data.split(s)) for s in SPLITS] == [15, 10, 8]
    for split, stem, part in (
        ("train", "train", slice(0, 15)),
        ("val", "train", slice(20, 30)),
        ("test", "t10k", slice(0, 8)),
    ):
        images = torch.from_numpy(arrays[f"{stem}-images-idx3-ubyte"][part])[:, None]
        labels = torch.from_numpy(arrays[f"{stem}-labels-idx1-ubyte"][part]).long()
        batch = data.split(split).__getitems__(list(range(len(images))))  # type: ignore[arg-type]
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.labels, labels)
        assert torch.equal(data.reference_images(split), images)  # type: ignore[arg-type]


def test_mnist_agrees_with_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import MNIST as Theirs  # noqa: N811

    write_mnist(tmp_path / "MNIST/raw")
    theirs = Theirs(str(tmp_path), train=True, download=False)
    ours = MNIST(root=str(tmp_path), val_images=0).split("train")
    assert torch.equal(ours.first()[:, 0], theirs.data)
    assert torch.equal(ours.__getitems__(list(range(30))).labels, theirs.targets)


def test_fashion_mnist_falls_back_on_debians_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    debian = tmp_path / "usr/share/datasets/fashion-mnist"
    write_mnist(debian, compress=True)
    assert FashionMNIST._other_folders == ("/usr/share/datasets/fashion-mnist",)
    monkeypatch.setattr(FashionMNIST, "_other_folders", (str(debian),))
    data = FashionMNIST(root=str(tmp_path), val_images=5)
    assert data.folder() == debian
    assert len(data.split("train")) == 25
    own = tmp_path / "FashionMNIST/raw"
    write_mnist(own)
    assert FashionMNIST(root=str(tmp_path)).folder() == own


def test_cifar_reads_the_pickled_batches(tmp_path: Path) -> None:
    batches = write_cifar(tmp_path / "cifar-10-batches-py")
    data = CIFAR10(root=str(tmp_path), val_images=0)
    data.setup()
    assert [len(data.split(s)) for s in SPLITS] == [20, 0, 4]
    assert data.val_dataloader() == []
    expected = np.concatenate([batches[f"data_batch_{i}"]["data"] for i in range(1, 6)])
    # the first 1,024 bytes of a row are red, each plane is row by row
    assert data.reference_images("train").flatten(1).tolist() == expected.tolist()
    test = data.split("test").__getitems__([2, 0])
    assert test.labels.tolist() == [batches["test_batch"]["labels"][i] for i in (2, 0)]


def test_a_cifar_file_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "owned").touch, ())

    write_cifar(tmp_path / "cifar-10-batches-py")
    bad = tmp_path / "cifar-10-batches-py/data_batch_3"
    bad.write_bytes(pickle.dumps({"data": Evil(), "labels": []}, protocol=2))
    with pytest.raises(ValueError, match=r"data_batch_3 is not a CIFAR-10 batch \(it refers to"):
        CIFAR10(root=str(tmp_path)).setup("fit")
    assert not (tmp_path / "owned").exists()


def test_a_missing_set_says_where_it_looked_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FashionMNIST, "_other_folders", (str(tmp_path / "deb"),))
    for cls, folder in ((MNIST, "MNIST/raw"), (CIFAR10, "cifar-10-batches-py")):
        with pytest.raises(FileNotFoundError) as error:
            cls(root=str(tmp_path)).setup("fit")
        message = str(error.value)
        assert f"no {cls.__name__} in {tmp_path}/{folder}" in message
        assert "fetch it with zoo fit's --data.download true" in message
        assert "\n" not in message
    with pytest.raises(FileNotFoundError, match=rf"FashionMNIST/raw or {tmp_path}/deb: set"):
        FashionMNIST(root=str(tmp_path)).setup("test")


def test_a_download_without_a_network_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets.mnist as module

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise URLError("no route")

    monkeypatch.setattr(module, "download_and_extract_archive", no_network)
    with pytest.raises(FileNotFoundError) as error:
        MNIST(root=str(tmp_path), download=True).setup("fit")
    message = str(error.value)
    assert message.startswith("MNIST could not be downloaded (is there a network?)")
    assert f"{tmp_path}/MNIST/raw by hand" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "cannot be read as an IDX file"),
        (b"<html>not found</html>", "is not an IDX file"),
        (struct.pack(">HBB3I", 0, 8, 3, 30, 28, 28) + b"\0" * 100, r"holds 100 of \(30, 28, 28\)"),
        (struct.pack(">HBB3I", 0, 8, 3, 30, 8, 8) + b"\0" * 1920, r"shape \(30, 8, 8\)"),
    ],
)
def test_a_broken_idx_file_is_named(tmp_path: Path, content: bytes, match: str) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError, match=match) as error:
        MNIST(root=str(tmp_path)).setup("fit")
    assert str(tmp_path) in str(error.value)


def test_val_images_must_leave_training_images(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST/raw")
    with pytest.raises(ValueError, match=r"val_images must be in 0..29, got 30"):
        MNIST(root=str(tmp_path), val_images=30).setup("fit")
