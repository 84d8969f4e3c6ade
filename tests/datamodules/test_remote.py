"""Data of an address are copied once, whole, and read as if they had always been here."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from PIL import Image

from tests.hub import asked_instead
from tests.hub import running as running_hub
from zoo.data import ImageFolder, SimilarGroups, Text
from zoo.data.described import account
from zoo.data.remote import at_hand, check_copied, home_of, is_copied
from zoo.data.text.prepare import prepare


class Web:
    """Files by their paths on the loopback; cuts one off, refuses ranges, goes down."""

    def __init__(self, files):
        self.files, self.ranges, self.down, self.cut = files, True, False, {}
        self.tags, self.times, self.lost = {}, {}, set()
        self.asked, self.address = [], ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        web, path = self.web, self.path.partition("?")[0]
        if web.down:
            self.send_error(503)
            return
        if path in web.lost:
            self.close_connection = True  # without an answer
            return
        content, kind = web.files.get(path), "application/octet-stream"
        if path.endswith("/"):
            names = {p.removeprefix(path).split("/")[0] + "/" * ("/" in p.removeprefix(path))
                     for p in web.files if p.startswith(path)}  # fmt: skip
            links = "".join(f'<a href="{name}">{name}</a>' for name in sorted(names))
            content, kind = (f"<html>{links}</html>".encode() if names else None), "text/html"
        if content is None:
            folder = any(p.startswith(f"{path}/") for p in web.files)
            self.send_response(301 if folder else 404)
            if folder:
                self.send_header("Location", f"{path}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last, code = 0, len(content) - 1, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and web.ranges:
            first, last, code = int(asked[1]), min(int(asked[2]), last), 206
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes" if web.ranges else "none")
        if code == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        if path in web.times:
            self.send_header("Last-Modified", web.times[path])
        else:
            self.send_header("ETag", web.tags.get(path, "1"))
        self.end_headers()
        if body:
            web.asked.append((path, first))
            part = content[first : last + 1]
            self.wfile.write(part[: web.cut.get(path, len(part))])
            if path in web.cut:
                self.close_connection = True


@contextmanager
def serving(files):
    web = Web(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    web.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def memory():
    MemoryFileSystem.store.clear()
    yield MemoryFileSystem()
    MemoryFileSystem.store.clear()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.data.remote._PAUSE", 0.0)
    at_hand.cache_clear()
    yield tmp_path / "cache"
    at_hand.cache_clear()


def shards(folder, count=3, each=20):
    """WebDataset's shards of pictures of noise with three classes."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        with tarfile.open(folder / f"part-{number:03d}.tar", "w") as tar:
            for item in range(each):
                picture = folder / f"{number}-{item:02d}.png"
                Image.fromarray(random.integers(0, 255, (9, 9, 3), np.uint8)).save(picture)
                label = picture.with_suffix(".cls")
                label.write_text(str(item % 3))
                for file in (picture, label):
                    tar.add(file, file.name)
                    file.unlink()
    return folder


def of_folder(folder, prefix=""):
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return {f"{prefix}/{f.relative_to(folder).as_posix()}": f.read_bytes() for f in files}


def pictures(root):
    data = ImageFolder(root=str(root), size=8, batch_size=7)
    data.setup()
    return data, [(b.images, b.labels) for b in data.train_dataloader()]


def same(batches, expected):
    return all(
        torch.equal(a, b)
        for one, other in zip(batches, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    ("root", "there"),
    [
        ("shards/", ""),
        ("shards/part-{000..002}.tar", ""),
        ("shards/part-001.tar", "part-001.tar"),
        ("shards/part-001.tar?download=1", "part-001.tar"),
    ],
)
def test_shards_of_a_web_server_give_the_batches_of_the_folder(tmp_path, root, there):
    here = shards(tmp_path / "here")
    with serving(of_folder(here, "/shards")) as web:
        data, batches = pictures(f"{web.address}/{root}")
    _, expected = pictures(here / there)
    assert len(batches) > 1
    assert same(batches, expected)
    assert account(data)[1] == f"copied from {web.address}/{root}"


def test_a_bucket_of_pictures_in_folders_is_a_folder(tmp_path, memory):
    here = tmp_path / "here"
    for kind in ("cats", "dogs"):
        (here / kind).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (8, 8), (number, 9, 9)).save(here / kind / f"{number}.png")
    for name, content in of_folder(here, "/bucket/pictures").items():
        memory.pipe(name, content)
    memory.pipe("/bucket/pictures/.hidden/9.png", b"no picture")
    data, batches = pictures("memory://bucket/pictures")
    _, expected = pictures(here)
    assert data.num_classes == 2
    assert same(batches, expected)
    assert data.hparams["root"] == "memory://bucket/pictures"  # what the run's config says
    assert not list(Path(data.root).rglob(".*"))


def test_text_and_sentences_are_read_from_an_address(tmp_path, memory):
    text = "".join(f"line {n} of some words\n" for n in range(3000))
    memory.pipe("/corpus/book.txt", text.encode())
    (tmp_path / "book.txt").write_text(text)
    far, here = (
        Text(root=root, level="char", sequence_length=64, batch_size=4)
        for root in ("memory://corpus/book.txt", str(tmp_path / "book.txt"))
    )
    assert torch.equal(
        next(iter(far.train_dataloader()))[0], next(iter(here.train_dataloader()))[0]
    )

    store = prepare("memory://corpus/book.txt", tmp_path / "out", tokenizer="byte", processes=1)
    assert store.bytes_of("train") == pytest.approx(0.9 * len(text), rel=0.01)

    rows = "sentence1\tsentence2\tlabel\n" + "".join(f"good {n}\tnice {n}\t1\n" for n in range(50))
    memory.pipe("/pairs/pairs.tsv", rows.encode())
    groups = SimilarGroups(root="memory://pairs", batch_size=4)
    groups.setup()
    assert len(next(iter(groups.train_dataloader())).tokens) == 8


def test_shards_of_a_hub_are_a_folder_and_a_new_commit_is_copied(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    here = shards(tmp_path / "here")
    with running_hub() as (hub, address):
        asked_instead(monkeypatch, address)
        files = {name.lstrip("/"): content for name, content in of_folder(here, "/train").items()}
        hub.commit("datasets/someone/shards", {**files, "README.md": b"of no interest"})
        for root, there in {
            "hf://datasets/someone/shards/train": here,
            "hf://datasets/someone/shards@main/train/part-{000..002}.tar": here,
            "hf://datasets/someone/shards/train/part-001.tar": here / "part-001.tar",
        }.items():
            assert same(pictures(root)[1], pictures(there)[1]), root

        hub.commit("datasets/someone/shards", {"train/part-001.tar": files["train/part-000.tar"]})
        hub.requests.clear()
        at_hand.cache_clear()
        root = "hf://datasets/someone/shards/train"
        assert Path(at_hand(root), "part-001.tar").read_bytes() == files["train/part-000.tar"]
        assert {r.rpartition("/")[2] for r in hub.requests if "resolve" in r} == {"part-001.tar"}

        for root in ("hf://datasets/someone/none", "hf://datasets/someone/shards/none"):
            with pytest.raises(FileNotFoundError, match=f"no such file or folder: {root}"):
                at_hand(root)


def test_what_has_come_stays_and_the_rest_is_asked_for(caplog):
    content = {"/a.txt": bytes(range(256)) * 40_000, "/b.txt": b"words " * 1000}
    with serving(content) as web:
        web.cut["/a.txt"] = 7_000_000  # each answer breaks off after so many bytes
        whole = Path(at_hand(f"{web.address}/{{a,b}}.txt"))
        starts = [first for path, first in web.asked if path == "/a.txt"]
    assert (whole / "a.txt").read_bytes() == content["/a.txt"]
    assert starts[0] == 0
    assert starts[1] > 0, "it began anew"
    assert not list(home_of(f"{web.address}/{{a,b}}.txt").glob("*.part"))


def test_a_copy_that_failed_goes_on_with_the_next_command():
    content = {"/a.txt": bytes(range(256)) * 60_000}
    with serving(content) as web:
        root = f"{web.address}/a.txt"
        web.cut["/a.txt"] = 2_000_000
        with pytest.raises(OSError, match=r"a\.txt cannot be read .*the same command goes on"):
            at_hand(root)
        assert not is_copied(root)
        (part,) = home_of(root).glob("*.part")
        come = part.stat().st_size
        web.cut.clear()
        web.asked.clear()
        assert Path(at_hand(root)).read_bytes() == content["/a.txt"]
        assert web.asked[0] == ("/a.txt", come)


def test_a_server_without_ranges_is_read_from_the_beginning():
    content = {"/a.txt": bytes(range(256)) * 40_000}
    with serving(content) as web:
        web.ranges = False
        root = f"{web.address}/a.txt"
        web.cut["/a.txt"] = 2_000_000
        with pytest.raises(OSError, match="cannot be read"):
            at_hand(root)
        web.cut.clear()
        assert Path(at_hand(root)).read_bytes() == content["/a.txt"]


def test_only_what_has_changed_is_copied_again():
    with serving({"/d/a.txt": b"a1", "/d/b.txt": b"b1", "/d/c.txt": b"c1"}) as web:
        root = f"{web.address}/d/"
        folder = Path(at_hand(root))
        web.files |= {"/d/b.txt": b"b2"}
        web.tags["/d/b.txt"] = "2"  # of the same size
        del web.files["/d/c.txt"]
        web.files["/d/sub/e.txt"] = b"e1"
        web.asked.clear()
        at_hand.cache_clear()
        assert Path(at_hand(root)) == folder
        assert {f.name: f.read_bytes() for f in folder.rglob("*.txt")} == {
            "a.txt": b"a1", "b.txt": b"b2", "e.txt": b"e1",
        }  # fmt: skip
        assert {p for p, _ in web.asked if p.endswith(".txt")} == {"/d/b.txt", "/d/sub/e.txt"}
        (folder / "a.txt").unlink()  # by the user
        at_hand.cache_clear()
        at_hand(root)
        assert (folder / "a.txt").read_bytes() == b"a1"


def test_a_time_tells_of_a_change_where_there_is_no_tag():
    with serving({"/a.txt": b"a1"}) as web:
        web.times["/a.txt"] = "Mon, 02 Nov 2026 10:00:00 GMT"
        root = f"{web.address}/a.txt"
        assert Path(at_hand(root)).read_bytes() == b"a1"
        web.files["/a.txt"] = b"a2"
        web.times["/a.txt"] = "Mon, 02 Nov 2026 10:00:01 GMT"
        at_hand.cache_clear()
        assert Path(at_hand(root)).read_bytes() == b"a2"


def test_a_page_that_does_not_come_removes_nothing(monkeypatch):
    said = []
    monkeypatch.setattr("zoo.data.remote.rank_zero_info", said.append)
    with serving({"/d/a.txt": b"a", "/d/sub/b.txt": b"b"}) as web:
        root = f"{web.address}/d/"
        folder = Path(at_hand(root))
        for page in ("/d/sub/", "/d/"):
            web.lost = {page}
            at_hand.cache_clear()
            assert Path(at_hand(root)) == folder
            assert re.search(r"/d/ cannot be read .*the copy in .* is read", said[-1]), page
            assert {f.name for f in folder.rglob("*.txt")} == {"a.txt", "b.txt"}
    at_hand.cache_clear()
    at_hand(root)
    assert re.search(r"/d/ cannot be read .*the copy in .* is read", said[-1])  # nobody answers


def test_a_folder_of_a_web_server_without_its_slash_is_no_file():
    with serving({"/d/a.txt": b"a"}) as web:
        with pytest.raises(ValueError, match=r"/d is a folder of the server: end the"):
            at_hand(f"{web.address}/d")
        with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*/none/"):
            at_hand(f"{web.address}/none/")


def test_without_its_server_a_whole_copy_is_read(monkeypatch):
    said = []
    monkeypatch.setattr("zoo.data.remote.rank_zero_info", said.append)
    with serving({"/a.txt": b"words"}) as web:
        root = f"{web.address}/a.txt"
        first = at_hand(root)
        web.down = True
        at_hand.cache_clear()
        assert at_hand(root) == first
        web.down, web.files = False, {}
        at_hand.cache_clear()
        assert at_hand(root) == first
        assert said[-1].startswith(f"no such file or folder: {root}: the copy in")
        web.down = True
        at_hand.cache_clear()
        at_hand(root)
    assert re.search(r"a\.txt cannot be read .*the copy in .* is read", said[-1])
    at_hand.cache_clear()
    assert at_hand(root) == first  # nobody answers
    Path(first).unlink()
    at_hand.cache_clear()
    with pytest.raises(OSError, match="cannot be read"):
        at_hand(root)


def test_a_folder_that_cannot_be_listed_is_no_empty_one(memory, monkeypatch):
    for name in ("a", "b"):
        memory.pipe(f"/d/{name}/1.txt", b"words")
    there = Path(at_hand("memory://d"))
    monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)  # as hdfs:// has it
    ls = MemoryFileSystem.ls

    def busy(self, path, *args, **kwargs):
        if path.endswith("/b"):
            raise OSError("the server is busy")
        return ls(self, path, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "ls", busy)
    at_hand.cache_clear()
    at_hand("memory://d")  # by the copy, as a server that is down
    assert (there / "b/1.txt").read_bytes() == b"words"


@pytest.mark.parametrize(
    ("root", "error", "message"),
    [
        ("ftp://host/a", ValueError, "ftp:// is not read, only .*s3://"),
        ("reference://x", ValueError, "is not read"),
        ("s3://b::zip://a", ValueError, "not chained"),
        ("https://me:secret@host/a.txt", ValueError, r"me:\.\.\.@host/a.txt holds a password"),
        ("memory://none/a.txt", FileNotFoundError, "no such file or folder: memory://none/a.txt"),
        ("memory://n/{a,b}.tar", FileNotFoundError, "no such file or folder: memory://n/a.tar"),
        ("hdfs://none/a", OSError, "hdfs://none/a"),
    ],
)
def test_what_is_no_address_is_one_line(root, error, message, memory):
    with pytest.raises(error, match=message) as caught:
        at_hand(root)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_library_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ModuleNotFoundError, match=r"s3://bucket/a needs a library: .*s3fs"):
        at_hand("s3://bucket/a")


def test_a_name_that_leads_out_of_the_folder_is_refused(memory, tmp_path):
    memory.pipe("/d/a.txt", b"good")
    memory.store["/d/../../../evil.txt"] = memory.store["/d/a.txt"]
    with pytest.raises(ValueError, match="which lies outside"):
        at_hand("memory://d")
    assert not list(tmp_path.rglob("evil*"))


def test_a_disk_without_room_is_told_before_anything_is_copied(memory, monkeypatch):
    memory.pipe("/d/a.txt", b"0123456789")
    usage = shutil.disk_usage("/")._replace(free=5)
    monkeypatch.setattr("zoo.data.remote.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"has room for .*set ZOO_CACHE"):
        at_hand("memory://d/a.txt")


def test_an_address_that_a_checkpoint_names_is_not_asked(memory):
    memory.pipe("/d/a.txt", b"words")
    with pytest.raises(ValueError, match=r"x\.ckpt was trained on memory://d.*--data\.root memory"):
        check_copied("memory://d", "x.ckpt")
    at_hand("memory://d")
    check_copied("memory://d", "x.ckpt")  # from here on it is this machine's
    check_copied("data", "x.ckpt")
    check_copied(None, "x.ckpt")


def test_a_file_address_is_a_path(tmp_path):
    assert at_hand(f"file://{tmp_path}/a%20b.txt") == f"{tmp_path}/a b.txt"


@pytest.mark.slow
def test_two_processes_copy_once(tmp_path):
    with serving(of_folder(shards(tmp_path / "here"), "/s")) as web:
        code = f"from zoo.data.remote import at_hand; print(at_hand('{web.address}/s/'))"
        both = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=os.environ)
            for _ in range(2)
        ]
        out = {process.communicate(timeout=120)[0] for process in both}
        gets = [path for path, _ in web.asked if path.endswith(".tar")]
    assert len(out) == 1
    assert len(gets) == 3
