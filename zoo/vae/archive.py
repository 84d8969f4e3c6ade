"""The file that compressed images are in: what a decoder must know, the message, a checksum."""

import hashlib
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from zoo.files import replacing

_MAGIC = b"ZBB1"
# Little-endian: channels, height, width, levels, images, chains, heads, seed, the codec's check,
# the images' checksum, the weights' hash, the version of PyTorch.
_HEADER = struct.Struct("<4s HHHH I HH I II 32s 12s")


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
    checksum: int
    """CRC-32 of the grey levels as uint16, in order."""
    weights: bytes
    """SHA-256 of the model's weights."""
    torch_version: str
    message: bytes

    def to_bytes(self) -> bytes:
        """The content of the file: the header, the message, and the CRC-32 of both."""
        header = _HEADER.pack(
            _MAGIC, *self.shape, self.levels, self.number, self.chains, self.heads, self.seed,
            self.check, self.checksum, self.weights, self.torch_version.encode()[:12],
        )  # fmt: skip
        body = header + self.message
        return body + struct.pack("<I", zlib.crc32(body))

    def write(self, path: Path) -> int:
        """Writes the file whole or not at all; returns its size in bytes."""
        content = self.to_bytes()
        with replacing(path) as file:
            file.write_bytes(content)
        return len(content)

    @classmethod
    def read(cls, path: Path) -> "Archive":
        """Reads a file.

        Raises:
            ValueError: It is none of these files, or damaged.
        """
        content = path.read_bytes()
        if content[:3] != _MAGIC[:3]:
            raise ValueError(f"{path} was not written by zoo compress")
        if content[:4] != _MAGIC:
            raise ValueError(f"{path} is of another version of zoo compress than this one's")
        size = _HEADER.size
        if len(content) < size + 4 or zlib.crc32(content[:-4]) != int.from_bytes(
            content[-4:], "little"
        ):
            raise ValueError(f"{path} is damaged or cut off: its checksum differs")
        _, c, h, w, *numbers, weights, version = _HEADER.unpack(content[:size])
        levels, number, chains, heads, seed, check, checksum = numbers
        return cls(
            (c, h, w), levels, number, chains, heads, seed, check, checksum, weights,
            version.rstrip(b"\0").decode(), content[size:-4],
        )  # fmt: skip


def weights_hash(model: nn.Module) -> bytes:
    """SHA-256 over names, types, shapes and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()
