"""Images from folders and archives: pixels, splits, classes, and files that cannot be read."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import ImageFolder
from zoo.data.images.decoding import decode as decode_file
from zoo.data.images.folder import ImageFiles


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    array = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return array[..., 0] if channels == 1 else array


def png(array: np.ndarray, kind: str = "PNG", **kwargs: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **kwargs)  # type: ignore[arg-type]
    return file.getvalue()


def decode(data: bytes, channels: int, size: tuple[int, int]) -> np.ndarray:
    return decode_file(io.BytesIO(data), channels, size)


def write(root: Path, names: list[str]) -> dict[str, np.ndarray]:
    arrays = {}
    for i, name in enumerate(names):
        arrays[name] = noise(6, 6, seed=i)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(arrays[name]))
    return arrays


def chw(array: np.ndarray) -> list[object]:
    return array.transpose(2, 0, 1).tolist()


class TestDecode:
    def test_an_image_of_the_right_size_is_not_resampled(self) -> None:
        array = noise(5, 7)
        assert decode(png(array), 3, (5, 7)).tolist() == chw(array)
        grey = noise(5, 7, 1)
        assert decode(png(grey), 1, (5, 7)).tolist() == [grey.tolist()]

    @pytest.mark.parametrize(("height", "width"), [(40, 20), (20, 40), (24, 24), (10, 5)])
    def test_the_largest_centred_part_of_the_targets_aspect_is_resized(
        self, height: int, width: int
    ) -> None:
        array, size = noise(height, width), (8, 16)
        # shorter side (relative to the target) in full, the other cropped centrally
        scale = min(height / size[0], width / size[1])
        h, w = size[0] * scale, size[1] * scale
        box = ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)
        image = Image.fromarray(array).resize((16, 8), Image.Resampling.LANCZOS, box=box)
        assert decode(png(array), 3, size).tolist() == chw(np.asarray(image))

    def test_exif_orientation_is_applied(self) -> None:
        array = noise(4, 6)
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
        data = png(array, exif=exif)
        assert decode(data, 3, (6, 4)).tolist() == chw(np.rot90(array, -1))

    def test_transparency_is_laid_over_white(self) -> None:
        array = noise(4, 4, 4)
        alpha = array[..., 3:].astype(float) / 255
        expected = array[..., :3] * alpha + 255 * (1 - alpha)
        assert np.abs(decode(png(array), 3, (4, 4)).transpose(1, 2, 0) - expected).max() <= 1

    def test_a_palette_with_a_transparent_entry(self) -> None:
        image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        file = io.BytesIO()
        image.save(file, "PNG", transparency=1)
        white = [255, 255, 255]
        expected = np.array([[[10, 20, 30], white], [[70, 80, 90], white]], np.uint8)
        assert decode(file.getvalue(), 3, (2, 2)).tolist() == chw(expected)

    def test_sixteen_bit_grey_keeps_its_range(self) -> None:
        array = np.array([[0, 256], [32768, 65535]], np.uint16)
        assert decode(png(array), 1, (2, 2)).tolist() == [[[0, 1], [128, 255]]]

    def test_grey_and_colour_convert_into_each_other(self) -> None:
        grey = noise(4, 4, 1)
        assert decode(png(grey), 3, (4, 4)).tolist() == [grey.tolist()] * 3
        array = noise(4, 4)
        luma = array @ np.array([0.299, 0.587, 0.114])  # ITU-R 601-2
        assert np.abs(decode(png(array), 1, (4, 4))[0] - luma).max() <= 1

    def test_a_reduced_jpeg_decode_is_close_to_the_full_one(self) -> None:
        ramp = np.add.outer(np.arange(512), np.arange(512)) // 4
        array = np.stack([ramp, ramp[::-1], ramp.T], -1).astype(np.uint8)
        data = png(array, "JPEG", quality=95)
        full = Image.open(io.BytesIO(data)).convert("RGB").resize((16, 16), Image.Resampling.BOX)
        ours = decode(data, 3, (16, 16)).transpose(1, 2, 0).astype(int)
        assert np.abs(ours - np.asarray(full)).max() <= 4


class TestSplits:
    def test_given_folders_are_the_splits_and_the_next_ones_the_classes(
        self, tmp_path: Path
    ) -> None:
        names = [
            f"{split}/{kind}/{i}.png"
            for split in ("train", "validation", "test")
            for kind in ("dog", "cat")
            for i in range(3)
        ]
        arrays = write(tmp_path, [*names, "train/cat/deep/er/9.png"])
        data = ImageFolder(root=str(tmp_path), size=6)
        data.setup()
        assert data.num_classes == 2
        for split, folder in (("train", "train"), ("val", "validation"), ("test", "test")):
            dataset = data.split(split)  # type: ignore[arg-type]
            batch = dataset.__getitems__(list(range(len(dataset))))
            got = sorted(
                (image.tolist(), label)
                for image, label in zip(batch.images, batch.labels.tolist(), strict=True)
            )
            expected = sorted(
                (chw(a), ["cat", "dog"].index(n.split("/")[1]))
                for n, a in arrays.items()
                if n.startswith(folder)
            )
            assert got == expected

    def test_missing_splits_are_hashed_out_of_train_and_stay_put(self, tmp_path: Path) -> None:
        write(tmp_path, [f"train/{i:03}.png" for i in range(300)])
        data = ImageFolder(root=str(tmp_path), size=6)
        data.setup()
        before = {s: set(data._names[s]) for s in ("train", "val", "test")}  # type: ignore[index]
        assert sorted(n for group in before.values() for n in group) == sorted(
            f"train/{i:03}.png" for i in range(300)
        )
        # a tenth each, within four standard deviations of the binomial distribution
        assert abs(len(before["val"]) - 30) < 4 * 5.2
        assert abs(len(before["test"]) - 30) < 4 * 5.2
        assert data.num_classes == 1

        write(tmp_path, [f"train/new{i}.png" for i in range(50)])
        (tmp_path / "train").rename(tmp_path / "TRAIN")
        more = ImageFolder(root=str(tmp_path), size=6)
        more.list_files()
        for split, names in before.items():
            renamed = {n.replace("train/", "TRAIN/") for n in names}
            assert renamed <= set(more._names[split])  # type: ignore[index]

    def test_no_split_is_sorted_by_class(self, tmp_path: Path) -> None:
        write(tmp_path, [f"train/{kind}/{i}.png" for kind in "ab" for i in range(40)])
        data = ImageFolder(root=str(tmp_path), size=6, limit=20)
        labels = data.split("train").__getitems__(list(range(20))).labels
        assert 4 <= int(labels.sum()) <= 16

    def test_a_zip_gives_what_the_folder_gives(self, tmp_path: Path) -> None:
        names = [f"{s}/{k}/{i}.png" for s in ("train", "test") for k in "ab" for i in range(9)]
        write(tmp_path / "folder", names)
        archive = tmp_path / "images.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for name in names:  # inside one more folder, as archives often are
                file.write(tmp_path / "folder" / name, f"images-1.0/{name}")
            file.writestr("__MACOSX/images-1.0/train/a/._0.png", b"not an image")
        a = ImageFolder(root=str(tmp_path / "folder"), size=6)
        b = ImageFolder(root=str(archive), size=6)
        for split in ("train", "val", "test"):
            assert torch.equal(a.reference_images(split), b.reference_images(split))
        assert a.num_classes == b.num_classes == 2


class TestLimits:
    def test_beyond_the_memory_limit_workers_decode_the_same_batches(self, tmp_path: Path) -> None:
        names = [f"train/{k}/{i}.png" for k in "ab" for i in range(12)]
        write(tmp_path, names)
        archive = tmp_path / "images.zip"
        with zipfile.ZipFile(archive, "w") as file:
            for name in names:
                file.write(tmp_path / name, name)
        limit = 24 * 3 * 36 / 1e9
        resident = ImageFolder(root=str(archive), size=6, batch_size=4, memory_limit_gb=limit)
        lazy = ImageFolder(
            root=str(archive),
            size=6,
            batch_size=4,
            memory_limit_gb=limit - 1e-9,
            cache=False,
            num_workers=2,
        )
        for a, b in zip(resident.train_dataloader(), lazy.train_dataloader(), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert torch.equal(resident.reference_images("train", 3), lazy.reference_images("train", 3))
        unset = ImageFolder(root=str(archive), size=6, memory_limit_gb=limit - 1e-9, cache=False)
        unset.setup()
        assert unset.num_workers >= 1
        assert resident.num_workers == 0

    def test_broken_files_are_named_counted_and_skipped(self, tmp_path: Path) -> None:
        arrays = write(tmp_path, [f"train/{i}.png" for i in range(20)])
        data = ImageFolder(root=str(tmp_path), size=6)
        data.list_files()
        victims = sorted(data._names["train"])[:2]
        (tmp_path / victims[0]).write_bytes((tmp_path / victims[0]).read_bytes()[:60])
        (tmp_path / victims[1]).write_bytes(b"")
        total = len(data._names["train"])
        with pytest.warns(UserWarning, match=f"2 of {total} images .* skipped") as caught:
            train = data.split("train")
        assert len(caught) == 1
        assert all(name in str(caught[0].message) for name in victims)
        good = [chw(arrays[n]) for n in data._names["train"] if n not in victims]
        assert train.first().tolist() == good

        refusing = ImageFolder(root=str(tmp_path), size=6, broken="refuse")
        with pytest.raises(ValueError, match=r"and 1 more cannot be read .*--data.broken skip"):
            refusing.split("train")

    def test_a_broken_file_that_is_found_late_is_replaced_by_the_next(self, tmp_path: Path) -> None:
        arrays = write(tmp_path, [f"train/{i}.png" for i in range(20)])
        data = ImageFolder(root=str(tmp_path), size=6, memory_limit_gb=0, cache=False)
        data.list_files()
        names = data._names["train"]
        (tmp_path / names[3]).write_bytes(b"broken")
        train = data.split("train")
        with pytest.warns(UserWarning, match=f"{names[3]} cannot be read"):
            batch = train.__getitems__([2, 3])
        assert batch.index.tolist() == [2, 4]
        assert batch.images.tolist() == [chw(arrays[names[2]]), chw(arrays[names[4]])]
        assert train.__getitems__([3]).index.tolist() == [4]  # named once only
        refusing = ImageFolder(
            root=str(tmp_path), size=6, memory_limit_gb=0, cache=False, broken="refuse"
        )
        with pytest.raises(ValueError, match=f"{names[3]} cannot be read"):
            refusing.split("train").__getitems__([3])


def test_mistakes_end_in_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere: set --data.root"):
        ImageFolder(root=str(tmp_path / "nowhere")).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"no images in .*must hold files that end in"):
        ImageFolder(root=str(tmp_path)).setup("fit")
    (tmp_path / "a.txt").write_text("no zip")
    with pytest.raises(ValueError, match=r"a.txt is neither a folder nor a .zip"):
        ImageFolder(root=str(tmp_path / "a.txt")).setup("fit")
    with pytest.raises(ValueError, match=r"--data.size .* got \[1, 2, 3\]"):
        ImageFolder(size=[1, 2, 3])
    with pytest.raises(ValueError, match=r"--data\.channels=2: choose one of 1, 3"):
        ImageFolder(channels=2)  # type: ignore[arg-type]


def test_names_do_not_depend_on_the_order_of_the_file_system(tmp_path: Path) -> None:
    write(tmp_path, ["b.png", "a.PNG", "c/d.png", ".hidden.png", "e.txt.png"])
    assert sorted(ImageFiles(tmp_path).names()) == ["a.PNG", "b.png", "c/d.png", "e.txt.png"]


def test_an_empty_split_of_few_images_says_what_to_do(tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{i}.png")
    data = ImageFolder(root=str(tmp_path), size=4)
    with pytest.raises(ValueError, match=r"no test images .* none of so few: give more, or a fol"):
        data.setup("test")
