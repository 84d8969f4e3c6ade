"""Files and folders that are written whole or not at all."""

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from zoo.files import keep_read, replacing, replacing_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_with_its_folders(tmp_path):
    path = tmp_path / "a/b/file.txt"
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename does not leave the file system
        assert temporary.name == f".file.txt.{os.getpid()}.tmp"  # as others look for it
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_what_stops_half_way_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_block_that_writes_nothing_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"file\.txt"), replacing(tmp_path / "file.txt"):
        pass


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path, there):
    target = tmp_path / "elsewhere/x.txt"
    target.parent.mkdir()
    if there:
        target.write_text("old")
    (tmp_path / "one").symlink_to("elsewhere/x.txt")
    (tmp_path / "two").symlink_to("one")
    with replacing(tmp_path / "two") as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert (tmp_path / "one").is_symlink()
    assert (tmp_path / "two").is_symlink()
    assert names(tmp_path) == ["elsewhere", "one", "two"]
    assert names(target.parent) == ["x.txt"]


def test_links_in_a_circle_are_an_error_that_names_them(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="a'") as caught, replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_permissions_are_kept(tmp_path, mode):
    path = tmp_path / "file.txt"
    path.write_text("old")
    path.chmod(mode)
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_is_read_is_not_written_over(tmp_path):
    file, link = tmp_path / "a", tmp_path / "b"
    file.write_text("text")
    link.symlink_to(file)
    for out in (file, link, tmp_path / "x" / ".." / "a"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"--out .* is what is read: it would be lost"):
            keep_read("--out", out, "-", None, file)
    keep_read("--out", tmp_path / "c", file, tmp_path)
    keep_read("--out", None, file)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pytest.fail("the work would be lost")


def test_devices_are_written_through(tmp_path):
    before = os.stat("/dev/null")
    with replacing("/dev/null") as temporary:
        temporary.write_text("new")
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    (tmp_path / "null").symlink_to("/dev/null")
    with replacing(tmp_path / "null") as temporary:
        _numpy(temporary)
    assert os.stat("/dev/null").st_rdev == before.st_rdev
    with pytest.raises(OSError, match="/dev/full") as caught, replacing("/dev/full") as temporary:
        temporary.write_text("new")
    assert caught.value.errno == errno.ENOSPC


def test_a_fifo_is_written_through(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    with replacing(fifo) as temporary:
        temporary.write_text("through")
    reader.join(timeout=10)
    assert read == ["through"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize("where", ["pipe", "file"])
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_written_where_it_is(tmp_path, where, name):
    script = (
        "from zoo.files import replacing\nprint('before')\n"
        f"with replacing({name!r}) as file: file.write_text('through\\n')\nprint('after')"
    )
    with (tmp_path / "out").open("w") as out:
        to = out if where == "file" else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", script], stdout=to, text=True, check=True)
    said = (tmp_path / "out").read_text() if where == "file" else done.stdout
    assert said == "before\nthrough\nafter\n"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow beyond 5,000 bytes; writers see what they see on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _torch_open(path: Path) -> None:
    with path.open("wb") as file:
        torch.save(torch.zeros(10_000), file)


def _numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(10_000))


def _picture(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 100), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("a" * 10_000),
    "torch": lambda path: torch.save(torch.zeros(10_000), path),
    "torch-open": _torch_open,
    "safetensors": lambda path: save_file({"a": torch.zeros(10_000)}, path),
    "numpy": _numpy,
    "picture": _picture,
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, writer):
    path = tmp_path / "file.bin"
    path.write_text("old")
    with pytest.raises(OSError, match=r"file\.bin") as caught, replacing(path) as temporary:
        WRITERS[writer](temporary)
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.bin"]


def test_a_folder_appears_whole(tmp_path):
    with replacing_folder(tmp_path / "a/out") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub/x").write_text("new")
        assert not (tmp_path / "a/out").exists()
    assert (tmp_path / "a/out/sub/x").read_text() == "new"
    assert names(tmp_path / "a") == ["out"]


@pytest.mark.usefixtures("full_disk")
def test_a_folder_on_a_full_disk_is_not_begun(tmp_path):
    with (  # noqa: PT012
        pytest.raises(OSError, match="out") as caught,
        replacing_folder(tmp_path / "out") as temporary,
    ):
        (temporary / "config.json").write_text("{}")
        save_file({"a": torch.zeros(10_000)}, temporary / "model.safetensors")
    assert caught.value.filename == str(tmp_path / "out")
    assert names(tmp_path) == []


def test_a_folder_that_was_there_keeps_its_other_files(tmp_path):
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    for name in ("mine", "sub/old"):
        (out / name).write_text("old")
    (tmp_path / "link").symlink_to("out")
    with replacing_folder(tmp_path / "link") as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub/old").write_text("new")
        assert (out / "sub/old").read_text() == "old"
    assert (out / "sub/old").read_text() == "new"
    assert (out / "mine").read_text() == "old"
    assert names(out) == ["mine", "sub"]
    with pytest.raises(KeyboardInterrupt), replacing_folder(out) as temporary:  # noqa: PT012
        (temporary / "mine").write_text("new")
        raise KeyboardInterrupt
    assert (out / "mine").read_text() == "old"
    assert names(out) == ["mine", "sub"]


def test_a_note_is_gone_while_files_of_two_are_mixed(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a", "note", "z"):
        (out / name).write_text("old")
    moves, move = [], os.replace

    def watched(source, target):
        moves.append((Path(target).name, (out / "note").exists()))
        move(source, target)

    monkeypatch.setattr("zoo.files.os.replace", watched)
    with replacing_folder(out, "note") as temporary:
        for name in ("a", "note", "z"):
            (temporary / name).write_text("new")
    assert moves == [("a", False), ("z", False), ("note", False)]
    assert [(out / name).read_text() for name in names(out)] == ["new"] * 3


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError, match="out"), replacing_folder(tmp_path / "out"):
        pytest.fail("the work would be lost")
    assert (tmp_path / "out").read_text() == "mine"
