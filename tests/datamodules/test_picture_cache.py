"""Decoded pictures of a cache are those that are decoded each time, to the bit, from any source."""

import io
import json
import os
import pickle
import resource
import signal
import tarfile
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import ImageFolder
from zoo.data.images import decoding, store
from zoo.data.images.files import ImageFiles
from zoo.data.images.shards import Place, check_numbers
from zoo.data.images.shards import read as shard_bytes
from zoo.data.images.store import Store

SPLITS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def _pieces(monkeypatch):
    """Pieces of a few pictures, decoded by this process."""
    monkeypatch.setattr(store, "_PIECE", 7)


def content(number, side=8):
    array = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def folder(root, count=60, classes="ab"):
    for number in range(count):
        path = root / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
    return root


def of(root, memory=0.0, **options):
    return ImageFolder(**{"root": str(root), "size": 8, "memory_limit_gb": memory, **options})


def contents(data, split):
    """All images, labels and numbers of a split."""
    items = data.split(split)
    return items.__getitems__(list(range(len(items))))


def same(one, two):
    for split in SPLITS:
        for a, b in zip(contents(one, split), contents(two, split), strict=True):
            assert torch.equal(a, b), split
        assert torch.equal(one.reference_images(split, 3), two.reference_images(split, 3))
        assert torch.equal(one.reference_images(split), two.reference_images(split))
        assert one.reason(split) == two.reason(split)
    assert one.num_classes == two.num_classes


def packed(root, kind):
    """The pictures of a folder in an archive."""
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    target = root.with_suffix(f".{kind}")
    with (zipfile.ZipFile if kind == "zip" else tarfile.TarFile)(target, "w") as archive:
        for name in names:
            (archive.write if kind == "zip" else archive.add)(root / name, name)
    return target


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_a_cache_gives_what_lazy_reading_and_memory_give(tmp_path, kind):
    root = folder(tmp_path / "d")
    root = root if kind == "folder" else packed(root, kind)
    for options in ({}, {"size": [6, 10], "channels": 1}, {"limit": 11}):
        lazy, mapped = of(root, cache=False, **options), of(root, **options)
        same(lazy, mapped)
        same(of(root, 4, cache=False, **options), mapped)
        same(lazy, of(root, **options))  # which opens the cache that is there
    assert mapped.num_workers == 0
    line = next(line for line in mapped.describe() if line.startswith("cache: "))
    assert line.startswith(f"cache: {os.environ['ZOO_CACHE']}/pictures-")


def test_every_batch_of_two_epochs_is_the_same_with_any_number_of_workers(tmp_path):
    root = folder(tmp_path / "d")
    lazy = of(root, cache=False, num_workers=0, batch_size=8)
    for workers in (0, 2):
        mapped = of(root, num_workers=workers, batch_size=8)
        loaders = lazy.train_dataloader(), mapped.train_dataloader()
        for epoch in range(2):
            for loader in loaders:
                loader.sampler.set_epoch(epoch)
            for pair in zip(*loaders, strict=True):
                assert all(torch.equal(*parts) for parts in zip(*pair, strict=True))


def test_another_process_maps_the_cache_and_gets_no_copy(tmp_path):
    data = of(folder(tmp_path / "d"))
    train = data.split("train")
    sent = pickle.dumps(train)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).images, train.images)


def test_broken_files_are_left_out_as_from_memory(tmp_path):
    root = folder(tmp_path / "d")
    data = of(root)
    data.list_files()
    broken = [*data._names["train"][2:4], data._names["train"][-1], data._names["val"][0]]
    for name in broken:
        (root / name).write_bytes(content(1)[:50])
    for limit in (None, 3, 30):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            same(of(root, 4, cache=False, limit=limit), of(root, limit=limit))
        assert sum("of" in str(w.message) and "skipped" in str(w.message) for w in caught) == 4
    with pytest.raises(ValueError, match=r"and 2 more cannot be read .*--data.broken skip"):
        of(root, broken="refuse").split("train")
    with pytest.raises(ValueError, match=r"cannot be read .*--data.broken skip"):
        of(root, broken="refuse", channels=1).split("train")


def test_pictures_that_were_refused_can_be_mended(tmp_path):
    folder(tmp_path / "p")
    (tmp_path / "p/a/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"broken.png cannot be read"):
        of(tmp_path / "p", broken="refuse").prepare(tmp_path / "out", 1)
    (tmp_path / "p/a/broken.png").unlink()
    of(tmp_path / "p", broken="refuse").prepare(tmp_path / "out", 1)
    same(of(tmp_path / "out"), of(tmp_path / "p", memory=1.0))


def test_what_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    root = folder(tmp_path / "d")
    for name in ("a/0.png", "b/9.png"):  # the first to be decoded, and the last
        (root / name).write_bytes(b"broken")
    of(root).prepare(tmp_path / "whole")
    real, seen = decoding.decode, []

    def stopping(file, *how):
        seen.append(file.name)
        if len(seen) in (10, 40):
            raise KeyboardInterrupt
        return real(file, *how)

    monkeypatch.setattr(decoding, "decode", stopping)
    for done in (7, 35):
        with pytest.raises(KeyboardInterrupt):
            of(root).prepare(tmp_path / "parts")
        assert json.loads((tmp_path / "parts/progress.json").read_text())["done"] == done
    of(root).prepare(tmp_path / "parts")
    # Again are those behind the last note alone.
    assert len(seen) == 60 + (10 - 7) + (40 - 3 - 35)
    monkeypatch.setattr(decoding, "decode", real)
    files = {p.name for p in (tmp_path / "parts").iterdir()}
    assert files == {".lock", "images.bin", "labels.npy", "index.json"}
    for name in files:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(ValueError, match="parts holds pictures prepared with another size: choose"):
        of(root, size=9).prepare(tmp_path / "parts")


def test_pixels_that_were_cut_off_meanwhile_are_decoded_again(tmp_path, monkeypatch):
    root = folder(tmp_path / "d")
    of(root).prepare(tmp_path / "whole")
    real, seen = decoding.decode, []

    def stopping(file, *how):
        seen.append(file.name)
        if len(seen) == 40:
            raise KeyboardInterrupt
        return real(file, *how)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", stopping)
        with pytest.raises(KeyboardInterrupt):
            of(root).prepare(tmp_path / "parts")
    images = tmp_path / "parts/images.bin"
    images.write_bytes(images.read_bytes()[:100])
    of(root).prepare(tmp_path / "parts")
    assert images.read_bytes() == (tmp_path / "whole/images.bin").read_bytes()


def test_files_of_others_are_left_alone(tmp_path):
    root = folder(tmp_path / "d")
    (tmp_path / "theirs").mkdir()
    for name, said in (
        ("images.bin", "theirs holds images.bin and no prepared pictures: choose a new folder"),
        ("index.json", "index.json is damaged, or of no prepared pictures: choose another"),
    ):
        file = tmp_path / "theirs" / name
        file.write_text("[]")
        with pytest.raises(ValueError, match=said):
            of(root).prepare(tmp_path / "theirs")
        assert file.read_text() == "[]"
        file.unlink()


def test_what_changes_the_pixels_changes_the_cache(tmp_path, monkeypatch):
    root = folder(tmp_path / "d")
    decoded = []
    real = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *how: decoded.append(1) or real(*how))

    def compare(**options):
        mapped, memory = of(root, **options), of(root, 4, cache=False, **options)
        mapped.setup()
        same(memory, mapped)

    def made(**options):
        decoded.clear()
        of(root, **options).setup()
        return len(decoded)

    assert made() == 60
    assert made() == 0
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(b"x")
    assert made() == 0
    assert made(flip=True, batch_size=3, seed=5, limit=9, broken="refuse") == 0
    for options in ({"size": 9}, {"size": [8, 9]}, {"channels": 1}, {"folders": "classes"}):
        assert (made(**options), made(**options)) == (60, 0), options
    assert made() == 0  # each has a folder of its own
    first = root / "a/0.png"
    os.utime(first, (1, 1))
    assert (made(), made()) == (60, 0)
    first.write_bytes(content(99))  # which may be of the same size
    os.utime(first, (2, 2))
    compare()
    first.rename(first.with_name("other.png"))
    assert (made(), made()) == (60, 0)
    monkeypatch.setattr(store.PIL, "__version__", "0")
    assert (made(), made()) == (60, 0)
    source = tmp_path / "decoding.py"
    source.write_text("another version")
    monkeypatch.setattr(decoding, "__file__", str(source))
    assert (made(), made()) == (60, 0)
    assert len(list(Path(os.environ["ZOO_CACHE"]).glob("pictures-*"))) == 5  # nothing piles up


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    root = folder(tmp_path / "d")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*parts"):
            of(root).prepare(tmp_path / "parts")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "parts/images.bin").stat().st_size == 0
    of(root).prepare(tmp_path / "parts")
    same(of(root, 4, cache=False), of(tmp_path / "parts"))


def test_damage_is_one_line(tmp_path):
    root = folder(tmp_path / "d")
    of(root).prepare(tmp_path / "out")
    with pytest.raises(ValueError, match=r"out holds pictures prepared with --data.size 8 --data"):
        of(tmp_path / "out", size=9).setup("fit")
    for name in ("images.bin", "labels.npy"):
        file = tmp_path / "out" / name
        whole = file.read_bytes()
        file.write_bytes(whole[:-5])
        with pytest.raises(ValueError, match=rf"{name} is cut off or changed: .* prepare the pict"):
            of(tmp_path / "out").setup("fit")
        file.unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name} is missing: remove the folder"):
            of(tmp_path / "out").setup("fit")
        file.write_bytes(whole)
    index = json.loads((tmp_path / "out/index.json").read_text())
    for key, value in (
        ("made", None),
        ("files", []),
        ("files", [["images.bin", 1], ["../labels.npy", 1]]),
        ("shape", [-3, 8, -8]),
        ("broken", [[10**9, "a", "b"]]),
        ("broken", [[1, "a", None]]),
        ("known", index["known"] | {"classes": [1, None]}),
        ("known", index["known"] | {"counts": {"train": 10**9, "val": 1, "test": 1}}),
        ("known", index["known"] | {"hashed": ["other"]}),
    ):
        damaged = {"known": {}} if key == "made" else index | {key: value}
        (tmp_path / "out/index.json").write_text(json.dumps(damaged))
        with pytest.raises(ValueError, match=r"index\.json is damaged: remove the folder"):
            of(tmp_path / "out").setup("fit")
    (tmp_path / "out/index.json").write_text(json.dumps(index))
    labels = np.load(tmp_path / "out/labels.npy")
    for wrong in (labels - 1, labels + 1000, labels.astype(float)):
        np.save(tmp_path / "out/labels.npy", wrong)
        with pytest.raises(ValueError, match=r"labels\.npy is damaged: remove the folder"):
            of(tmp_path / "out").setup("fit")
    (tmp_path / "out/index.json").write_text('{"made": 3}')
    with pytest.raises(ValueError, match=r"index\.json is damaged: remove the folder"):
        of(tmp_path / "out").setup("fit")
    with pytest.raises(ValueError, match="and no prepared pictures: choose a new folder"):
        of(root).prepare(tmp_path)
    with pytest.raises(ValueError, match="is a file: name a folder to write"):
        of(root).prepare(root / "a/0.png")


def web_dataset(root, count=60, classes=12, shard=20, prefix="", name="{:04}", kind="png"):
    """Shards as WebDataset writes them."""
    root.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, shard):
        with tarfile.open(root / f"{prefix}{first // shard:06}.tar", "w") as tar:
            for number in range(first, min(first + shard, count)):
                label = str(number % classes).encode()
                parts = {kind: content(number), "cls": label, "json": b"{}"}
                for suffix, data in parts.items():
                    info = tarfile.TarInfo(f"{name.format(number % shard)}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return root


def pixels_and_labels(data):
    """All images, and the label of each."""
    return {
        image.numpy().tobytes(): int(label)
        for split in SPLITS
        for image, label in zip(*contents(data, split)[:2], strict=True)
    }


def expected(count=60, classes=12):
    arrays = (np.asarray(Image.open(io.BytesIO(content(n)))) for n in range(count))
    return {a.transpose(2, 0, 1).tobytes(): n % classes for n, a in enumerate(arrays)}


@pytest.mark.parametrize(("name", "kind"), [("scale_0.{:02}", "png"), ("{:04}", "seg.png")])
def test_points_in_the_names_of_a_shard_leave_each_picture_its_own_label(tmp_path, name, kind):
    # The key of WebDataset 1.0.2 ends at the first point: scale_0.25 and scale_0.50 have one.
    root = web_dataset(tmp_path / "w", name=name, kind=kind)
    assert pixels_and_labels(of(root)) == expected()


def test_shards_of_web_dataset_with_the_labels_of_their_samples(tmp_path):
    root = web_dataset(tmp_path / "w")
    data = of(root)
    data.setup()
    assert pixels_and_labels(data) == expected()
    same(of(root, cache=False), data)
    assert "left out: 60 .json (no pictures)" in data.describe()
    assert any(line.startswith("classes: 12 (0, 1, 2, 3") for line in data.describe())
    folder(tmp_path / "p", 3)
    (tmp_path / "p/x.tar").write_bytes((root / "000000.tar").read_bytes())
    beside = of(tmp_path / "p", 4)
    beside.setup()
    assert "left out: 1 shards beside pictures" in beside.describe()
    braces = of(f"{root}/{{000000..000001}}.tar")
    assert pixels_and_labels(braces) == expected(40)
    web_dataset(tmp_path / "v", prefix="own-train-")
    web_dataset(tmp_path / "v", count=20, prefix="own-val-")
    named = of(tmp_path / "v")
    train, val, test = (len(named.split(split)) for split in SPLITS)
    assert (train + test, val) == (60, 20)  # a tenth of train's by a hash
    from_one = [Path(f"x-{number:02}-of-03.tar") for number in (1, 2, 3)]
    check_numbers(from_one)
    with pytest.raises(FileNotFoundError, match=r"x-01-of-03\.tar is missing"):
        check_numbers(from_one[1:])
    check_numbers([Path("20240101.tar"), Path("20240301.tar")])  # days
    root.rename(tmp_path / "{a,b}")  # a name that is there is no pattern
    assert pixels_and_labels(of(tmp_path / "{a,b}")) == expected()
    (tmp_path / "{a,b}").rename(root)
    with pytest.raises(FileNotFoundError, match=r"no folder .*w/000003.tar: set --data.root"):
        of(f"{root}/{{000000..000003}}.tar").setup()
    for braces in ("{5..1}", "{0..99999999999}", "{0..9999}{0..9999}"):
        with pytest.raises(ValueError, match=r"must count upwards|stands for more than 1,000,000"):
            of(f"{root}/{braces}.tar").setup()
    (root / "000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"w/000001.tar is missing: fetch it, or name"):
        of(root).setup()


def test_a_tar_that_is_cut_off_anywhere_is_refused(tmp_path):
    root = web_dataset(tmp_path / "w", count=3)
    shard = root / "000000.tar"
    whole = shard.read_bytes()
    with tarfile.open(shard) as tar:
        end = tar.getmembers()[-1].offset_data + 512
    for size in [*range(1, end, 256), end - 512, end]:
        shard.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"000000\.tar is cut off, damaged or no plain .tar"):
            ImageFiles(shard).names()
    shard.write_bytes(whole[:512] + b"?" * 512 + whole[1024:])  # in a picture's bytes
    with pytest.warns(UserWarning, match="cannot be read and are skipped"):
        assert len(pixels_and_labels(of(root))) == 2
    header = whole.index(b"0001.png")
    shard.write_bytes(whole[:header] + b"????" + whole[header + 4 :])
    with pytest.raises(ValueError, match=r"000000\.tar is cut off, damaged or no plain .tar"):
        ImageFiles(shard).names()
    shard.write_bytes(whole.replace(b"\x30" + bytes(511), b"a" + bytes(511)))
    with pytest.raises(ValueError, match=r"0000.cls holds b'a', not the number of a class"):
        ImageFiles(shard).names()


def tables(root, kind, count=60, classes=12, of_shards=3):
    """Shards as the library datasets writes them."""
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    root.mkdir(parents=True, exist_ok=True)
    step = count // of_shards
    for shard in range(of_shards):
        numbers = range(shard * step, (shard + 1) * step)
        rows = [{"bytes": content(n), "path": None} for n in numbers]
        table = pyarrow.table({"label": [n % classes for n in numbers], "image": rows})
        file = root / f"all-{shard:05}-of-{of_shards:05}.{kind}"
        if kind == "parquet":
            pyarrow.parquet.write_table(table, file, row_group_size=7)
        else:
            with pyarrow.ipc.new_stream(file, table.schema) as sink:
                sink.write_table(table, max_chunksize=7)
    return root


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_of_pictures_with_their_labels(tmp_path, kind):
    root = tables(tmp_path / "t", kind)
    data = of(root)
    data.setup()
    assert pixels_and_labels(data) == expected()
    same(of(root, cache=False), data)
    assert f"formats: 60 .{kind}" in data.describe()
    one = root / f"all-00001-of-00003.{kind}"
    assert len(pixels_and_labels(of(one))) == 20
    whole = one.read_bytes()
    for size in (len(whole) // 2, len(whole) - 8, 20):
        one.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"of-00003.{kind} is cut off or damaged: fetch it"):
            of(root).setup()
    one.unlink()
    with pytest.raises(FileNotFoundError, match=rf"t/all-00001-of-00003.{kind} is missing"):
        of(root).setup()


def test_threads_take_turns_with_a_parquet_file(tmp_path, monkeypatch):
    # Two in one reader at a time end the process, now and then.
    root = tables(tmp_path / "t", "parquet")
    reader = pytest.importorskip("pyarrow.parquet").ParquetFile
    read, inside, most = reader.read_row_group, [], []

    def slowly(*args, **options):
        inside.append(0)
        time.sleep(0.002)
        most.append(len(inside))
        inside.pop()
        return read(*args, **options)

    monkeypatch.setattr(reader, "read_row_group", slowly)
    places = [Place(str(file), group, 0) for file in sorted(root.iterdir()) for group in (0, 1, 2)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shard_bytes, 5 * places))
    assert (
        found == [content(20 * shard + 7 * group) for shard in (0, 1, 2) for group in (0, 1, 2)] * 5
    )
    assert set(most) == {1}


def test_columns_that_are_not_clear(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    rows = [content(n) for n in range(20)]

    def written(**columns):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
        return of(tmp_path / "a.parquet")

    assert pixels_and_labels(written(any=rows)) == expected(20, 1)
    assert pixels_and_labels(written(img=rows, mask=rows)) == expected(20, 1)
    words = ["dog", "cat"] * 10
    assert list(pixels_and_labels(written(img=rows, label=words)).values()).count(1) == 10
    with pytest.raises(ValueError, match=r"a.parquet has 2 columns of pictures' bytes \(x, y\)"):
        written(x=rows, y=rows).setup()
    with pytest.raises(ValueError, match=r"a.parquet has 0 columns of pictures' bytes \(x\)"):
        written(x=["text"]).setup()
    data = written(image=[*rows, None])
    with pytest.warns(UserWarning, match=r"a.parquet.*\(its row holds no bytes\)"):
        assert pixels_and_labels(data) == expected(20, 1)


def test_a_store_is_found_without_looking_at_the_pictures(tmp_path):
    root = folder(tmp_path / "d")
    of(root).prepare(tmp_path / "out")
    before = of(root, 4)
    before.setup()
    before = [contents(before, split) for split in SPLITS]
    for file in root.rglob("*.png"):
        file.unlink()
    data = of(tmp_path / "out")
    data.setup()
    for split, old in zip(SPLITS, before, strict=True):
        assert all(torch.equal(*pair) for pair in zip(contents(data, split), old, strict=True))
    assert Store(tmp_path / "out").bytes == 60 * 192 + (tmp_path / "out/labels.npy").stat().st_size
