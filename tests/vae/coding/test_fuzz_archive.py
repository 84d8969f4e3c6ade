"""Any change of a compressed file, its CRC made right again: the images, or a told error."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vae.coding.test_archive import made  # noqa: F401
from zoo.vae.coding.archive import Archive
from zoo.vae.coding.command import decode

pytestmark = pytest.mark.slow


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, 400),
)
def test_a_changed_file_decodes_to_the_images_or_is_refused(
    made,  # noqa: F811
    tmp_path: Path,
    edits: list[tuple[int, int]],
    cut: int | None,
) -> None:
    model, archive, grey = made
    body = bytearray(archive.to_bytes()[:-4])
    for place, value in edits:
        body[place % len(body)] = value
    body = body[:cut]
    path = tmp_path / "a.zbb"
    path.write_bytes(body + zlib.crc32(body).to_bytes(4, "little"))
    problem = ""
    try:
        images = decode(Archive.read(path), model, str(path))
    except ValueError as error:
        problem = str(error)
    assert "a.zbb" in problem or np.array_equal(images, grey)
