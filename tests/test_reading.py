"""Text of strangers: encodings, line ends and what a .gz may unpack to."""

import gzip
import io
import sys

import pytest

import zoo.reading
from zoo.reading import decoded, numbered_lines, parsed, read_bytes

ODD = "one\u2028two\x0b\x0c\x1c\x85end\nthree\r\nfour\rfive\n"
LINES = ["one\u2028two\x0b\x0c\x1c\x85end", "three", "four\rfive"]


def lines(path):
    return [line for _, line in numbered_lines(path)]


def test_only_a_line_feed_ends_a_line_from_everywhere(tmp_path, monkeypatch):
    data = "\ufeff".encode() + ODD.encode()
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="latin-1"))
    assert lines(tmp_path / "a.txt") == lines(tmp_path / "a.txt.gz") == lines("-") == LINES


@pytest.mark.parametrize("end", ["\r", "", "\n", "\r\n"])
def test_lines_of_old_macs_end_with_a_return(tmp_path, monkeypatch, end):
    data = f"one\rtwo\r\rthree{end}".encode()
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="latin-1"))
    mac = ["one", "two", "", "three"]
    assert lines(tmp_path / "a.txt") == lines(tmp_path / "a.txt.gz") == lines("-") == mac


def test_another_encoding_is_named_with_its_place(tmp_path):
    for text, encoding, line in (
        ("\u4eca\u5929\n", "gbk", 3),
        ("caf\xe9\n", "latin-1", 3),
        ("zehn\n", "utf-16", 3),
    ):
        data = b"good\ngood\n" + text.encode(encoding)
        (tmp_path / "a.txt").write_bytes(data)
        with pytest.raises(ValueError, match=rf"a\.txt, line {line}: not UTF-8"):
            lines(tmp_path / "a.txt")
        with pytest.raises(ValueError, match=rf"a\.txt, line {line}: not UTF-8"):
            decoded(data, tmp_path / "a.txt")
    for text, encoding, said in (
        ("\u4eca", "gbk", "GB18030"),
        ("\u4eca", "utf-16", "UTF-16"),  # with its mark
        ("Caf\xe9, H\xe4user, na\xefve", "latin-1", "WINDOWS-1252"),
    ):
        with pytest.raises(ValueError, match=f"x, line 1: not UTF-8 .* iconv -f {said}"):
            decoded(text.encode(encoding), "x")
    with pytest.raises(ValueError, match=r"x, line 9: a NUL"):
        decoded("ok\nzehn".encode("utf-16-le"), "x", before=8)
    assert decoded("\ufeffok".encode(), "x") == "ok"


def test_a_gzip_is_bounded_by_its_length(tmp_path, monkeypatch):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\n" * 100_000))
    assert len(read_bytes(path)) == 100_000  # small ones may
    monkeypatch.setattr(zoo.reading, "_SMALL", 1000)
    for read in (read_bytes, lines):
        with pytest.raises(ValueError, match=r"bomb\.gz unpacks to more than 100 times its size"):
            read(path)
    path.write_bytes(gzip.compress(bytes(range(32, 127)) * 9))
    assert len(read_bytes(path)) == 855


@pytest.mark.parametrize("damage", [lambda d: d[:-9], lambda d: d[:20] + b"\xff" * 9 + d[29:]])
def test_a_damaged_gzip_is_named(tmp_path, damage):
    packed = gzip.compress("".join(f"{i * i}\n" for i in range(500)).encode())
    (tmp_path / "a.gz").write_bytes(damage(packed))
    for read in (read_bytes, lines):
        with pytest.raises(ValueError, match=r"a\.gz is cut off or not gzip"):
            read(tmp_path / "a.gz")


def test_what_is_no_file_is_told():
    with pytest.raises(ValueError, match="/dev/zero is no regular file"):
        read_bytes("/dev/zero")
    with pytest.raises(FileNotFoundError, match="no such file: none"):
        lines("none")


def test_json_of_strangers():
    with pytest.raises(ValueError, match="nested too deeply"):
        parsed("[" * 100_000)
    with pytest.raises(ValueError, match="half a surrogate pair"):
        parsed('["\\ud83d"]')
    assert parsed('["\\ud83d\\ude00"]') == ["\U0001f600"]


def test_a_gz_of_many_short_lines_is_refused_before_any_is_read(tmp_path):
    file = tmp_path / "lines.txt.gz"
    file.write_bytes(gzip.compress(b"a\n" * (40 << 20), 1))
    lines = numbered_lines(file)
    with pytest.raises(ValueError, match=r"lines\.txt\.gz unpacks to more than 100 times"):
        next(lines)
