"""Damaged and hostile pictures, archives and IDX files: an image, or an error that is told."""

import gzip
import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.data.images.decoding import decode
from zoo.data.images.files import ImageFiles
from zoo.data.images.formats import read_cifar_batch, read_idx

pytestmark = pytest.mark.slow
quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
KINDS = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "TGA", "PPM", "QOI", "SGI", "PCX", "ICO"]


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    array = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


FILES = {kind: encoded(kind) for kind in KINDS}


def damaged(content: bytes, edits: list[tuple[int, int]], cut: int | None) -> bytes:
    changed = bytearray(content)
    for place, value in edits:
        changed[place % len(changed)] = value
    return bytes(changed[:cut])


def attempt(read: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """What was read, or the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(), None
        except Exception as error:
            return None, error


def open_and_decode(files: ImageFiles, name: str) -> np.ndarray:
    with files.open(name) as opened:
        return decode(opened, 3, (4, 4))


edits = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8)
cuts = st.none() | st.integers(0, 10_000)


@quick
@given(st.sampled_from(KINDS), edits, cuts)
def test_a_damaged_picture_is_decoded_or_refused(
    kind: str, edits: list[tuple[int, int]], cut: int | None
) -> None:
    content = damaged(FILES[kind], edits, cut)
    image, error = attempt(lambda: decode(io.BytesIO(content), 3, (4, 4)))
    assert not isinstance(error, MemoryError | RecursionError)
    assert error or (image.shape == (3, 4, 4) and image.dtype == np.uint8)


@quick
@given(edits, cuts)
def test_a_damaged_archive_is_read_or_refused(
    tmp_path: Path, edits: list[tuple[int, int]], cut: int | None
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for i in range(2):
            file.writestr(f"a/{i}.png", FILES["PNG"])
    path = tmp_path / "a.zip"
    path.write_bytes(damaged(buffer.getvalue(), edits, cut))
    files = ImageFiles(path)
    names, error = attempt(files.names)
    assert error is None or (isinstance(error, ValueError | OSError) and "a.zip" in str(error))
    for name in names or ():
        _, error = attempt(lambda name=name: open_and_decode(files, name))
        assert not isinstance(error, MemoryError | RecursionError)


def test_an_archive_of_another_version_is_refused(tmp_path: Path) -> None:
    """Python's zipfile says so by NotImplementedError."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/0.png", FILES["PNG"])
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 6] = 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.zip is a damaged \.zip \(zip file version 6\.4\)"):
        ImageFiles(path).names()


VALUES = bytes(range(24))
IDX = struct.pack(">HBB3I", 0, 8, 3, 2, 3, 4) + VALUES


@quick
@given(edits, cuts, st.booleans())
def test_a_damaged_idx_file_is_read_or_named(
    tmp_path: Path, edits: list[tuple[int, int]], cut: int | None, packed: bool
) -> None:
    path = tmp_path / ("a.gz" if packed else "a")
    path.write_bytes(damaged(gzip.compress(IDX, mtime=0) if packed else IDX, edits, cut))
    values, error = attempt(lambda: read_idx(path))
    if error:
        assert isinstance(error, ValueError)
        assert str(path) in str(error)
    elif packed:  # gzip has a checksum of its content
        assert values.flatten().tolist() == list(VALUES)


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_no_cifar_batch(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "batch"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="batch is not a CIFAR-10 batch"):
        read_cifar_batch(path)
