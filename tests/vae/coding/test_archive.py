"""Compressed files whose headers are not believed, of both versions."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.vae.coding.test_bits_back import TinyVAE, images
from zoo.vae.coding.ans import Message
from zoo.vae.coding.archive import Archive, content_digest, weights_hash
from zoo.vae.coding.bits_back import Codec
from zoo.vae.coding.command import decode
from zoo.vae.likelihoods import Bernoulli

NUMBER = 7


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, Archive, np.ndarray]:
    """A model, an archive of seven images, and their grey levels."""
    model = TinyVAE(Bernoulli(1))
    codec = Codec(model, chains=3, heads=4)
    grey, message = images(NUMBER, 2), codec.message()
    for start in range(0, NUMBER, 3):
        codec.encode(message, grey[start : start + 3])
    weights = weights_hash(model)
    archive = Archive(
        codec.shape, 2, NUMBER, 3, 4, 0, codec.check(),
        content_digest(grey, codec.shape, 2, weights), weights, torch.__version__,
        message.to_bytes(), "runs/a/checkpoints/last.ckpt at step 5",
    )  # fmt: skip
    return model, archive, grey


def version_1(archive: Archive, grey: np.ndarray) -> bytes:
    """The file as it was written before there were versions."""
    body = struct.pack(
        "<4s HHHH I HH I II 32s 12s", b"ZBB1", *archive.shape, archive.levels, archive.number,
        archive.chains, archive.heads, archive.seed, archive.check,
        zlib.crc32(grey.astype("<u2").tobytes()), archive.weights,
        archive.torch_version.encode()[:12],
    ) + archive.message  # fmt: skip
    return body + struct.pack("<I", zlib.crc32(body))


def test_both_versions_decode_to_the_images(made, tmp_path: Path) -> None:
    model, archive, grey = made
    archive.write(tmp_path / "2.zbb")
    (tmp_path / "1.zbb").write_bytes(version_1(archive, grey))
    for name in ("1.zbb", "2.zbb"):
        again = Archive.read(tmp_path / name)
        assert again.version == int(name[0])
        assert np.array_equal(decode(again, model, name), grey)
    assert Archive.read(tmp_path / "2.zbb") == archive
    content = (tmp_path / "2.zbb").read_bytes()
    (tmp_path / "5.zbb").write_bytes(b"ZBB5" + content[4:])
    with pytest.raises(ValueError, match=r"5\.zbb is of another version .* than 1 to 4"):
        Archive.read(tmp_path / "5.zbb")
    (tmp_path / "3.zbb").write_bytes(b"ZBB3" + content[4:])  # of another refinement
    with pytest.raises(ValueError, match=r"3\.zbb was written with --refine by an earlier"):
        Archive.read(tmp_path / "3.zbb")


def test_refined_posteriors_are_a_version_of_their_own(made, tmp_path: Path) -> None:
    model, archive, grey = made
    codec = Codec(model, chains=3, heads=4, refine=2)
    message = codec.message()
    for start in range(0, NUMBER, 3):
        codec.encode(message, grey[start : start + 3])
    fine = archive._replace(message=message.to_bytes(), check=codec.check(), refine=2, version=4)
    fine.write(tmp_path / "a.zbb")
    again = Archive.read(tmp_path / "a.zbb")
    assert again == fine
    assert np.array_equal(decode(again, model, "a.zbb"), grey)
    fine._replace(refine=3).write(tmp_path / "b.zbb")
    with pytest.raises(ValueError, match="computes other probabilities"):
        decode(Archive.read(tmp_path / "b.zbb"), model, "b.zbb")


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("levels", 3, "grey levels 3, and its model has 2"),
        ("levels", 1, "fewer than 2 levels"),
        ("levels", 0, "fewer than 2 levels"),
        ("shape", (1, 5, 4), r"shape \(1, 5, 4\), and its model has \(1, 4, 5\)"),
        ("shape", (65535, 65535, 65535), "shape"),
        ("shape", (0, 4, 5), "a size of 0"),
        ("number", 0, "a size of 0"),
        ("number", NUMBER - 1, "does not decode"),
        ("number", NUMBER + 1, "message ends after|does not decode"),
        ("number", 2**32 - 1, "message ends after|does not decode"),
        ("chains", 65535, "heads, which alone take"),
        ("chains", 0, "a size of 0"),
        ("heads", 65535, "heads, which alone take"),
        ("heads", 3, "does not decode"),
        ("heads", 21, "heads 21, and its model has 20|heads, which alone take"),
        ("seed", 1, "does not decode"),
        ("message", b"", "heads, which alone take"),
        ("message", bytes(4000), "a head is out of its range"),
        ("digest", bytes(32), "does not decode"),
        ("weights", bytes(32), r"with other weights, those of runs/a/checkpoints/last.ckpt"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_header_is_compared_with_the_model_and_the_message(
    made, tmp_path: Path, field: str, value: object, match: str, version: int
) -> None:
    model, archive, grey = made
    changed = archive._replace(**{field: value})
    path = tmp_path / "a.zbb"
    if version == 1:
        if field == "digest":
            grey = grey ^ 1
        match = match.replace(", those of runs/a/checkpoints/last.ckpt", "")
        path.write_bytes(version_1(changed, grey))
    else:
        changed.write(path)
    with pytest.raises(ValueError, match=match) as error:
        decode(Archive.read(path), model, str(path))
    assert "a.zbb" in str(error.value)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.zbb")
    with pytest.raises(ValueError, match=r"pipe\.zbb is no file"):
        Archive.read(tmp_path / "pipe.zbb")
    with pytest.raises(ValueError, match=r"none\.zbb is not there"):
        Archive.read(tmp_path / "none.zbb")


def test_a_message_of_many_heads_is_refused_before_they_have_room() -> None:
    with pytest.raises(ValueError, match="are no message of 4294836225 heads"):
        Message.from_bytes(bytes(80), (65535, 65535))
