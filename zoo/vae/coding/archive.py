"""The file that compressed images are in: what a decoder must know, the message, a checksum."""

import hashlib
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo.files import replacing

VERSION = 4
_MAGIC = b"ZBB"
# Little-endian: channels, height, width, levels, images, chains, heads, seed, the codec's check,
# then of version 1 the images' CRC-32, of version 2 their digest; the weights' hash, the version of
# PyTorch, from version 2 on the length of the weights' name, which follows, and of version 4 the
# steps of the posteriors' refinement. Files without any are written as version 2. Version 3 was
# that of another refinement, whose posteriors are computed no more.
_HEADERS = {
    1: struct.Struct("<4s HHHH I HH I I I 32s 12s"),
    2: struct.Struct("<4s HHHH I HH I I 32s 32s 12s B"),
    4: struct.Struct("<4s HHHH I HH I I 32s 32s 12s B B"),
}


class Archive(NamedTuple):
    """Compressed images."""

    shape: tuple[int, int, int]
    """(C, H, W) of an image."""
    levels: int
    """Grey levels; 2 for black and white."""
    number: int
    """Images."""
    chains: int
    heads: int
    seed: int
    """Of the random bits that the message began with."""
    check: int
    """What `Codec.check` must come to where it is decoded."""
    digest: bytes
    """`content_digest` of the images; of version 1 the CRC-32 of their grey levels alone."""
    weights: bytes
    """SHA-256 of the model's weights."""
    torch_version: str
    message: bytes
    name: str = ""
    """Where the weights came from, for people."""
    version: int = 2
    refine: int = 0
    """Newton steps of the posteriors."""

    def to_bytes(self) -> bytes:
        """The content of the file: the header, the message, and the CRC-32 of both."""
        name = self.name.encode()[-255:]
        version, more = (VERSION, [self.refine]) if self.refine else (2, [])
        header = _HEADERS[version].pack(
            b"%s%d" % (_MAGIC, version), *self.shape, self.levels, self.number, self.chains,
            self.heads, self.seed, self.check, self.digest, self.weights,
            self.torch_version.encode()[:12], len(name), *more,
        )  # fmt: skip
        body = header + name + self.message
        return body + struct.pack("<I", zlib.crc32(body))

    def write(self, path: Path) -> int:
        """Writes the file whole or not at all; returns its size in bytes."""
        content = self.to_bytes()
        with replacing(path) as file:
            file.write_bytes(content)
        return len(content)

    @classmethod
    def read(cls, path: Path) -> "Archive":
        """Reads a file of any version.

        Raises:
            ValueError: It is none of these files, damaged, or says what cannot be.
        """
        if not path.is_file():
            problem = "is no file" if path.exists() else "is not there"
            raise ValueError(f"{path} {problem}: give a file that zoo compress wrote")
        content = path.read_bytes()
        if content[:3] != _MAGIC:
            raise ValueError(f"{path} was not written by zoo compress")
        version = content[3] - ord("0") if len(content) > 3 else -1
        if version == 3:
            raise ValueError(
                f"{path} was written with --refine by an earlier zoo compress, which refined in "
                "another way: decompress it with that"
            )
        if version not in _HEADERS:
            raise ValueError(f"{path} is of another version of zoo compress than 1 to {VERSION}")
        size = _HEADERS[version].size
        if len(content) < size + 4 or zlib.crc32(content[:-4]) != int.from_bytes(
            content[-4:], "little"
        ):
            raise ValueError(f"{path} is damaged or cut off: its checksum differs")
        _, c, h, w, *fields = _HEADERS[version].unpack(content[:size])
        levels, number, chains, heads, seed, check, digest, weights, torch_version, *more = fields
        if version == 1:
            digest = struct.pack("<I", digest)
        end = size + (more[0] if more else 0)
        archive = cls(
            (c, h, w), levels, number, chains, heads, seed, check, digest, weights,
            torch_version.rstrip(b"\0").decode(errors="replace"), content[end:-4],
            content[size:end].decode(errors="replace"), version, *more[1:],
        )  # fmt: skip
        archive._check(path)
        return archive

    def _check(self, path: Path) -> None:
        """Refuses what no images can be: the rest is for the model to judge."""
        dimensions = self.shape[0] * self.shape[1] * self.shape[2]
        states = 8 * self.chains * self.heads
        if not (dimensions and self.levels > 1 and self.number and states):
            raise ValueError(
                f"{path} is damaged: its header has a size of 0, or fewer than 2 levels"
            )
        if states > len(self.message):
            raise ValueError(
                f"{path} is damaged: a message of {len(self.message):,} bytes for {self.chains} "
                f"chains of {self.heads} heads, which alone take {states:,}"
            )

    def matches(self, grey: NDArray[np.int64]) -> bool:
        """Whether these are the images that were compressed, grey levels (N, C H W)."""
        if self.version == 1:
            crc = zlib.crc32(grey.astype("<u2").tobytes())
            return struct.pack("<I", crc) == self.digest
        return content_digest(grey, self.shape, self.levels, self.weights) == self.digest


def content_digest(
    grey: NDArray[np.int64], shape: tuple[int, int, int], levels: int, weights: bytes
) -> bytes:
    """SHA-256 over the weights' hash, the images' number, shape and levels, and their grey levels.

    It finds mistakes; it is no signature, since who changes a file can change it too.
    """
    digest = hashlib.sha256(weights)
    digest.update(struct.pack("<IHHHH", len(grey), *shape, levels))
    digest.update(grey.astype("<u2").tobytes())
    return digest.digest()


def weights_hash(model: nn.Module) -> bytes:
    """SHA-256 over names, types, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()
