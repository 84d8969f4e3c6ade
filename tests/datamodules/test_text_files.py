"""Which bytes of which files a split is."""

import gzip

import pytest

from zoo.data.text.files import documents_of

SPLITS = ("train", "val", "test")


def read_documents(root, split, *, lines):
    return [document.data for document in documents_of(root, split, lines=lines)]


def every(root, lines=True):
    return [read_documents(root, split, lines=lines) for split in SPLITS]


def test_files_of_the_splits_are_taken_as_they_are(tmp_path):
    for names in (
        ("train.txt", "valid.txt", "test.txt"),
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        ("wiki.train.tokens", "wiki.dev.tokens", "wiki.test.tokens"),
        ("a.train", "a.val", "a.test"),
    ):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name, split in zip(names, SPLITS, strict=True):
            (folder / name).write_text(split)
        (folder / "README.txt").write_text("no text of the set")
        (folder / "train.py").write_text("no text at all")
        assert every(str(folder)) == [[s.encode()] for s in SPLITS]


def test_bytes_are_cut_exactly_as_enwik8_is(tmp_path):
    data = bytes(i % 251 for i in range(1000))
    (tmp_path / "enwik8").write_bytes(data)
    parts = every(str(tmp_path / "enwik8"), lines=False)
    assert parts == [[data[:900]], [data[900:950]], [data[950:]]]


def test_lines_stay_whole_and_nothing_is_lost(tmp_path):
    for width in (1, 3, 7, 40):
        text = "".join(f"{i:0{width}d}\n" for i in range(100)).encode()
        (tmp_path / "a.txt").write_bytes(text)
        parts = every(str(tmp_path / "a.txt"))
        assert b"".join(part for (part,) in parts) == text
        assert all(part.endswith(b"\n") for (part,) in parts)
        assert len(parts[0][0]) >= 0.9 * len(text) > len(parts[0][0]) - width - 2


def test_a_cut_at_the_end_of_a_line_is_left_there(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"123456789\n" * 100)
    assert [len(part) for (part,) in every(str(tmp_path / "a.txt"))] == [900, 50, 50]


def test_a_folder_is_its_documents_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    documents = {"b.txt": b"x" * 9 + b"\n", "a.txt": b"y" * 79 + b"\n", "sub/c.txt": b"z\n" * 5}
    for name, text in documents.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(b"w\n"))
    whole = every(str(tmp_path))
    assert whole[0] == [documents["a.txt"], documents["b.txt"], b"z\n"]
    assert [d for split in whole for d in split][2:] == [b"z\n", b"z\n" * 2, b"z\n" * 2, b"w\n"]


def test_shakespeare_is_embedded():
    parts = [part for (part,) in every(None)]
    assert sum(map(len, parts)) == 1_115_394
    assert parts[0].startswith(b"First Citizen:\nBefore we proceed any further, hear me speak.\n")


def test_mistakes_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_documents("nowhere", "train", lines=True)
    with pytest.raises(FileNotFoundError, match=r"needs train\.txt"):
        read_documents(str(tmp_path), "train", lines=True)
    for name in ("train", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
        with pytest.raises(FileNotFoundError, match=r"named dev/eval/val/valid/validate/"):
            read_documents(str(tmp_path), "train", lines=True)
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"text" * 100)[:-20])
    with pytest.raises(ValueError, match=r"a\.gz is cut off"):
        read_documents(str(tmp_path / "a.gz"), "train", lines=True)


@pytest.mark.parametrize("unit", ["word ", "字", "é"])
def test_a_text_of_one_line_is_cut_at_a_space_or_a_character(tmp_path, unit):
    text = unit * 997
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    parts = [part.decode() for (part,) in every(str(tmp_path / "a.txt"))]  # no character is cut
    assert "".join(parts) == text
    assert all(len(part) % len(unit) == 0 for part in parts)
    assert [round(100 * len(part) / len(text)) for part in parts] == [90, 5, 5]


def test_a_few_long_lines_leave_no_split_empty(tmp_path):
    text = "\n".join("a b c d e f g " * 40 for _ in range(3))
    (tmp_path / "a.txt").write_text(text)
    parts = every(str(tmp_path / "a.txt"))
    assert all(parts)
    assert b"".join(part for (part,) in parts) == text.encode()
