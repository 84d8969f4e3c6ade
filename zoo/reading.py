"""Text from files of anybody: UTF-8, plain, gzip or zstandard, never more than their length allows.

Whatever such a file holds, a mistake ends in one ValueError that names the file and the place.
"""

import gzip
import importlib
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

# What a .gz may unpack to: text shrinks 3 to 20 times, so that 100 times as much is no text.
_RATIO, _SMALL, _PART = 100, 64 * 2**20, 2**20


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[IO[bytes], int]]:
    """A file to read, unpacked if its name ends in .gz or .zst, and the most that it may hold.

    Args:
        path: The file; - for standard input.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no regular file, which might never end, or no whole .gz or .zst.
    """
    if str(path) == "-":
        yield sys.stdin.buffer, sys.maxsize
        return
    path = Path(path)
    if not path.is_file():
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is no regular file: copy it to one, or pipe it in")
        raise FileNotFoundError(f"no such file: {path}")
    most = max(_RATIO * path.stat().st_size, _SMALL)
    if path.suffix.lower() == ".zst":
        yield cast(IO[bytes], io.BufferedReader(_Zstandard(path))), most
        return
    if path.suffix.lower() != ".gz":
        with path.open("rb") as plain:
            yield plain, sys.maxsize
        return
    try:
        with gzip.open(path) as unpacked:
            yield cast(IO[bytes], unpacked), most
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is cut off or not gzip") from error


class _Zstandard(io.RawIOBase):
    """The content of a .zst, whose own reader takes a file that is cut off for one that ends.

    Raises:
        ModuleNotFoundError: The package zstandard is not here.
    """

    def __init__(self, path: Path) -> None:
        zstandard = needed("zstandard", f"{path} is read")
        self._path, self._error, self._packed = path, zstandard.ZstdError, path.open("rb")
        self._new = zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to the beginning, and nowhere else."""
        if offset or whence:
            raise io.UnsupportedOperation("only to the beginning")
        self._part, self._ready = self._new(), memoryview(b"")
        self._begun = bool(self._packed.seek(0))
        return 0

    def readinto(self, buffer: Any) -> int:
        while not len(self._ready):
            unused = self._part.unused_data if self._part.eof else b""
            packed = unused or self._packed.read(2**17)
            if not packed:
                if self._part.eof or not self._begun:
                    return 0
                raise ValueError(f"{self._path} is cut off or not zstandard")
            if self._part.eof:
                self._part = self._new()
            self._begun = True
            try:
                self._ready = memoryview(self._part.decompress(packed))
            except self._error as error:
                raise ValueError(f"{self._path} is cut off or not zstandard") from error
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._packed.close()
        super().close()


def needed(package: str, what: str) -> Any:
    """A package of the extra `text`.

    Raises:
        ModuleNotFoundError: It is not here; the message says what to install.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{what} by {package}: pip install {package}") from error


def _too_large(path: str | Path) -> ValueError:
    return ValueError(
        f"{path} unpacks to more than {_RATIO} times its size, as no text does: unpack it "
        "yourself if you trust it"
    )


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a file."""
    with opened(path) as (file, most):
        data = file.read(min(most + 1, sys.maxsize)) if most < sys.maxsize else file.read()
    if len(data) > most:
        raise _too_large(path)
    return data


def _undecodable(path: str | Path, line: int, error: UnicodeDecodeError) -> ValueError:
    where = "standard input" if str(path) == "-" else str(path)
    # The byte of no other coding begins a file so.
    wide = line == 1 and error.object[:2] in (b"\xff\xfe", b"\xfe\xff")
    coding = "UTF-16" if wide else _coding(error.object)
    return ValueError(
        f"{where}, line {line}: not UTF-8 (byte {error.object[error.start]:#04x}): convert it, as "
        f"by iconv -f {coding} -t UTF-8"
    )


def _coding(data: bytes) -> str:
    """What text may be in that is not UTF-8: Chinese has its high bytes in pairs, Latin alone."""
    runs = re.findall(rb"[\x80-\xff]+", data)
    return "WINDOWS-1252" if 2 * sum(len(run) == 1 for run in runs) > len(runs) else "GB18030"


def decoded(data: bytes, path: str | Path, before: int = 0) -> str:
    """The text of a file's bytes behind `before` lines, without a byte order mark.

    ValueError says that it is not UTF-8, or holds a NUL, as UTF-16 does.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec of the mark counts from behind it, or from before it: find the place anew.
        place = _first_bad(data)
        raise _undecodable(path, before + data.count(b"\n", 0, place.start) + 1, place) from error
    if "\0" in text:
        line = before + text.count("\n", 0, text.index("\0")) + 1
        raise ValueError(f"{path}, line {line}: a NUL: not UTF-8 (UTF-16?), or no text at all")
    return text


def _first_bad(data: bytes) -> UnicodeDecodeError:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error
    raise AssertionError("the data are UTF-8")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    r"""Lines of a UTF-8 text with their numbers from 1, without their ends (\n or \r\n).

    Only \n ends a line: U+2028, U+0085, form feeds and their like are characters of a sentence,
    from a file as from standard input. Where one line is all there is, \r does, as old Macs wrote.

    Args:
        path: The file, plain or .gz; - for standard input.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line is not UTF-8 or holds a NUL, or a .gz is damaged or unpacks to too much.
    """
    with opened(path) as (file, most):
        if most < sys.maxsize:
            # Known before a line is kept: many short ones take a hundred times their bytes.
            left = most
            while left >= 0 and (part := file.read(_PART)):
                left -= len(part)
            if left < 0:
                raise _too_large(path)
            file.seek(0)
        for number, raw in enumerate(_raw_lines(file), 1):
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                raise _undecodable(path, number, error) from error
            if "\0" in line:
                raise ValueError(
                    f"{path}, line {number}: a NUL: not UTF-8 (UTF-16?), or no text at all"
                )
            if number == 1:
                line = line.removeprefix("\ufeff")
            yield number, line.rstrip("\r\n")


def _raw_lines(file: IO[bytes]) -> Iterator[bytes]:
    first, second = file.readline(), file.readline()
    if not second and b"\r" in first.rstrip(b"\r\n"):
        yield from first.splitlines()
    else:
        yield from filter(None, (first, second))
        yield from file


def parsed(text: str) -> Any:
    """The content of JSON.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or holds half a surrogate pair.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if "\\u" in text:  # the one way into a text that has no UTF-8
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise ValueError("half a surrogate pair") from error
    return content
