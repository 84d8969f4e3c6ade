from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import STL10 as Theirs  # noqa: N811
from torchvision.transforms.v2.functional import resize

from zoo.data import STL10


def write(folder: Path) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = {"train_X": 3, "unlabeled_X": 5, "test_X": 2}
    files = {n: rng.integers(0, 256, (k, 3, 96, 96), np.uint8) for n, k in sizes.items()}
    for name, planes in files.items():
        planes.tofile(folder / f"{name}.bin")
    return files


def test_splits_are_labelled_then_unlabelled_images_at_half_size(tmp_path):
    write(tmp_path / "stl10_binary")
    data = STL10(root=str(tmp_path), val_images=2, batch_size=2)
    data.setup()
    assert (data.channels, data.size, data.num_classes, data.levels) == (3, (48, 48), 0, 256)
    assert [len(data.split(s)) for s in ("train", "val", "test")] == [6, 2, 2]
    train = data.reference_images("train")
    theirs = Theirs.__new__(Theirs)
    theirs.root, theirs.base_folder = str(tmp_path), "stl10_binary"
    for part, name in ((train[:3], "train_X"), (train[3:], "unlabeled_X")):
        images, _ = Theirs._STL10__loadfile(theirs, f"{name}.bin")
        for ours, planes in zip(part, images, strict=False):
            picture = Image.fromarray(np.transpose(planes, (1, 2, 0)))  # as torchvision does
            expected = torch.from_numpy(np.array(resize(picture, [48, 48]))).permute(2, 0, 1)
            assert (ours.int() - expected.int()).abs().max() <= 1  # rounding
    batch = next(iter(data.train_dataloader()))
    assert batch.labels.tolist() == [0, 0]


def test_a_missing_or_broken_set_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no STL10 in .*stl10_binary: set --data.root"):
        STL10(root=str(tmp_path)).setup("fit")
    write(tmp_path / "stl10_binary")
    with (tmp_path / "stl10_binary/unlabeled_X.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"unlabeled_X.bin of 138241 bytes does not hold whole"):
        STL10(root=str(tmp_path)).setup("fit")


def test_a_download_without_a_network_is_one_clear_line(tmp_path, monkeypatch):
    import torchvision.datasets.stl10 as module

    def no_network(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(module, "download_and_extract_archive", no_network)
    with pytest.raises(FileNotFoundError, match=r"STL10 could not be downloaded.*stl10_binary by"):
        STL10(root=str(tmp_path), download=True).setup("fit")
