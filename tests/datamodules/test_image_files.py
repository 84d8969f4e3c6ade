"""Which files are found and opened: links, pipes, archives, and what is left out by name."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data import ImageFolder
from zoo.data.described import account
from zoo.data.images.files import ImageFiles


def picture(path: Path, side: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), 7, np.uint8)).save(path)


def counts(data: ImageFolder) -> dict[str, int]:
    data.setup()
    return {split: len(data.split(split)) for split in ("train", "val", "test")}  # type: ignore[arg-type]


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for i in range(20):
        picture(root / "cat" / f"{i}.png")
        picture(elsewhere / "dog" / f"{i}.png")
    picture(elsewhere / "one.png")
    (root / "dog").symlink_to(elsewhere / "dog")
    (root / "cat/linked.png").symlink_to(elsewhere / "one.png")
    (root / "cat/gone.png").symlink_to(elsewhere / "nowhere.png")
    (root / "cat/loop").symlink_to(root)
    data = ImageFolder(root=str(root), size=4)
    assert sum(counts(data).values()) == 41
    assert data.num_classes == 2
    left_out = data._files.left_out
    assert left_out == {"dangling links": 1, "links to a folder that they lie in": 1}


def test_a_pipe_or_an_endless_device_is_no_picture(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    files = ImageFiles(tmp_path)
    assert files.names() == ["0.png", "1.png", "2.png"]
    assert files.left_out == {"pipes, sockets or devices": 2}
    with pytest.raises(ValueError, match="neither a folder nor a"):
        ImageFiles(tmp_path / "pipe.png").names()
    with pytest.raises(ValueError, match="a pipe or a device"), files.open("zero.png"):
        pass


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_without_a_known_suffix_are_known_by_how_they_begin(
    tmp_path: Path, packed: bool
) -> None:
    kinds = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "QOI", "DDS", "JPEG2000", "ICNS"]
    root = tmp_path / "d"
    root.mkdir()
    for kind in kinds:
        side = 16 if kind == "ICNS" else 4
        with (root / f"{kind}{'.img' if kind == 'PNG' else ''}").open("wb") as file:
            Image.new("RGB", (side, side), (7, 7, 7)).save(file, kind)
    Image.new("RGB", (4, 4)).save(root / "z.jpg", "PNG")  # another suffix than its format's
    (root / "README").write_text("BM is an abbreviation, P5 too")
    (root / "notes.txt").write_text("P3 is not a picture")
    if packed:
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
            for file in root.iterdir():
                archive.write(file, file.name)
        root = tmp_path / "d.zip"
    files = ImageFiles(root)
    names = files.names()
    assert {name.split(".")[0] for name in names} == {*kinds, "z"}
    assert files.left_out == {"no suffix (no pictures)": 1, ".txt (no pictures)": 1}
    data = ImageFolder(root=str(root), size=4, broken="refuse")
    assert sum(counts(data).values()) == len(kinds) + 1
    assert any("(no suffix)" in line and "1 .img" in line for line in data.describe())


def test_what_is_left_out_is_said_with_its_reason(tmp_path: Path) -> None:
    for kind in "ab":
        for i in range(20):
            picture(tmp_path / kind / f"{i}.png")
            picture(tmp_path / kind / f"{i}.tga")
    picture(tmp_path / "stray.png")
    picture(tmp_path / ".hidden.png")
    for name in ("a.txt", "b.txt", "c.svg"):
        (tmp_path / name).write_text("x")
    (tmp_path / "c").mkdir()  # of a class whose pictures are gone
    data = ImageFolder(root=str(tmp_path), size=4, channels=1)
    found = counts(data)
    lines = data.describe()
    assert lines[0] == f"pictures in {tmp_path}, 4x4 grey, 256 levels (resized)"
    assert "formats: 40 .png, 40 .tga" in lines
    assert sum(found.values()) == 80
    hashed = "(a tenth of train's, by a hash of their paths)"
    assert f"train: {found['train']} images" in lines
    assert f"val: {found['val']} images {hashed}" in lines
    assert f"test: {found['test']} images {hashed}" in lines
    assert "classes: 2 (a, b)" in lines
    (left,) = (line for line in lines if line.startswith("left out: "))
    for part in (
        "2 .txt (no pictures)",
        "1 .svg (not a format that is read)",
        "1 hidden",
        "1 empty folders",
        "1 outside of the folders (stray.png)",
    ):
        assert part in left
    limited = ImageFolder(root=str(tmp_path), size=4, limit=5)
    limited.setup("fit")
    assert f"train: 5 images (the first of {found['train']} (--data.limit 5))" in limited.describe()


def test_folders_without_images_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "train.zip").write_bytes(b"")
    (tmp_path / "a.eps").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"only 1 .*, 1 \.zip \(an archive: give"):
        ImageFiles(tmp_path).names()
    for name, said in (("train.zip", "a damaged .zip, or cut"), ("a.tar.gz", r"packed \(.gz\)")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=f"{name} is {said}"):
            ImageFiles(tmp_path / name).names()


def test_names_that_no_line_holds_are_shown_with_escapes(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "a" / f"{i}.png")
        picture(tmp_path / "b\udcff\n\x1b[31m" / f"{i}.png")
    (tmp_path / "b\udcff\n\x1b[31m" / "\udcfe.png").write_bytes(b"")
    for limit in (1.0, 0.0):  # in memory, and by way of the cache
        data = ImageFolder(root=str(tmp_path), size=4, memory_limit_gb=limit)
        with pytest.warns(UserWarning, match="1 of"):
            assert sum(counts(data).values()) == 40
        assert r"classes: 2 (a, b\udcff\n\x1b[31m)" in account(data)
        assert "\n".join(account(data)).encode().decode().count("\n") == len(account(data)) - 1


def test_hidden_labels_and_columns_that_are_not_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    picture(tmp_path / "a.png")
    images = [(tmp_path / "a.png").read_bytes()] * 12
    (tmp_path / "a.png").unlink()
    shown = {"image": images, "label": [i % 12 for i in range(12)], "fine_label": [3] * 12}
    hidden = {"image": images, "label": [-1] * 12}
    for name, table in (("train", shown), ("test", hidden)):
        parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet")
    data = ImageFolder(root=str(tmp_path), size=4)
    assert counts(data)["test"] == 12
    assert data.unlabelled == {"test"}
    lines = data.describe()
    assert "classes: 12 (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)" in lines
    assert "left out: 1 shards' columns fine_label (classes: label)" in lines


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_a_member_that_expands_a_hundredfold_is_not_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    path = archive(tmp_path / "a.zip", {"a.png": content, "bomb.png": bytes(70_000_000)})
    files = ImageFiles(path)
    assert files.names() == ["a.png", "bomb.png"]
    with files.open("a.png") as file:
        assert file.read() == content
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was expanded"))
    with (
        pytest.raises(ValueError, match=r"bytes expand to 70,000,000, more than 100-fold"),
        files.open("bomb.png"),
    ):
        pass


def test_archives_of_windows_and_damaged_ones(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    names = [f"train\\{kind}\\{i}.png" for kind in "ab" for i in range(10)]
    path = archive(tmp_path / "windows.zip", {name.replace("\\", "/"): content for name in names})
    path.write_bytes(path.read_bytes().replace(b"train/a/", b"train\\a\\"))
    data = ImageFolder(root=str(path), size=4)
    assert sum(counts(data).values()) == 20
    assert data.num_classes == 2
    whole = path.read_bytes()
    at = whole.rindex(b"PK\x01\x02")
    path.write_bytes(whole[:at] + b"XX" + whole[at + 2 :])
    with pytest.raises(ValueError, match=r"windows.zip is a damaged .zip"):
        ImageFiles(path).names()


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    with (
        pytest.raises(ValueError, match="more than the 2,147,483,648 that are read"),
        ImageFiles(tmp_path).open("sparse.png"),
    ):
        pass


class TestFewImages:
    def test_an_empty_split_says_which_and_why(self, tmp_path: Path) -> None:
        picture(tmp_path / "only/1.png")
        data = ImageFolder(root=str(tmp_path), size=4)
        empty = next(s for s in ("val", "test") if not len(data.split(s)))  # type: ignore[arg-type]
        stage = {"val": "validate", "test": "test"}[empty]
        with pytest.raises(ValueError, match=rf"no {empty} images \(a tenth of train's, by a hash"):
            data.setup(stage)

    def test_a_folder_of_one_split(self, tmp_path: Path) -> None:
        picture(tmp_path / "test/1.png")
        data = ImageFolder(root=str(tmp_path), size=4)
        data.setup("test")
        assert "test: 1 images" in data.describe()
        # Decoded when they are needed, at once, and into a cache, which is then taken.
        for memory, cache in ((0, False), (4, True), (0, True), (4, True)):
            one = ImageFolder(root=str(tmp_path), size=4, memory_limit_gb=memory, cache=cache)
            assert one.reference_images("train").shape == (0, 3, 4, 4)
            assert one.reference_images("test").shape == (1, 3, 4, 4)
        with pytest.raises(ValueError, match=r"no train images \(no folder .* there is test only"):
            data.setup("fit")

    def test_a_split_of_broken_files_is_not_to_be_skipped(self, tmp_path: Path) -> None:
        (tmp_path / "train").mkdir()
        (tmp_path / "train/1.png").write_bytes(b"x")
        (tmp_path / "test").mkdir()
        (tmp_path / "test/1.png").write_bytes(b"x")
        with pytest.raises(ValueError, match=r"none of the 1 test images .* test/1.png") as error:
            ImageFolder(root=str(tmp_path), size=4).split("test")
        assert "--data.broken skip" not in str(error.value)
