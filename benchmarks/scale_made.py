"""What `scale.py` and others measure, made in bulk, a watch of processes, and ratios of turns."""

import os
import random
import re
import subprocess
import time
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from PIL import Image

_BLOCK = 2**18
_LETTERS = np.frombuffer(b"etaoinshrdlucm", np.uint8)


def versus(ours: list[float], peer: list[float]) -> dict[str, float]:
    """Median seconds of both, and the peer's over ours turn by turn."""
    ratios = [a / b for a, b in zip(peer, ours, strict=True)]
    return {
        "ours_s": median(ours),
        "peer_s": median(peer),
        "ratio": median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


class Watched(NamedTuple):
    """What a command took."""

    text: str
    """What it said."""
    most: float
    """MB that no file backs, at their most, of the process."""
    most_of_others: float
    """The same of the largest of those that it started."""
    ran: float
    """Seconds on a processor, of all its threads."""
    ran_by_others: float
    """The same of those that it started, together."""
    clock: float
    """Seconds of the clock without those in which the first thread waited for a processor."""


def watch(command: list[str], folder: Path, environment: dict[str, str]) -> Watched:
    """Runs a command in a folder, and looks at it and what it starts every 20 ms."""
    began, own = time.monotonic(), (0.0, 0.0, 0.0)
    others = dict[int, tuple[float, float, float]]()
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=said, stderr=said)
        while process.poll() is None:
            own = tuple(map(max, own, _look(process.pid)))
            for pid in _started(process.pid):
                others[pid] = tuple(map(max, others.get(pid, (0.0, 0.0, 0.0)), _look(pid)))
            time.sleep(0.02)
        text = Path(said.name).read_text()
    if process.returncode:
        raise SystemExit(text)
    clock = time.monotonic() - began - own[2]
    most = max((memory for memory, _, _ in others.values()), default=0.0)
    return Watched(text, own[0], most, own[1], sum(ran for _, ran, _ in others.values()), clock)


def _look(pid: int) -> tuple[float, float, float]:
    """MB that no file backs, seconds on a processor, and seconds that were waited for one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0, 0.0, 0.0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    ran = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return int(found[1]) * 1024 / 1e6 if found else 0.0, ran, waited


def _started(pid: int) -> list[int]:
    """The processes that one has started, and those have."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [p for child in map(int, children) for p in (child, *_started(child))]


def make_text(path: Path, megabytes: int, seed: int = 0) -> None:
    """A text of words as frequent as Zipf has it, which are of the length of English ones."""
    draw = random.Random(seed)
    letters, often = (
        "etaoinshrdlucmfwypvbgkjqxz",
        [12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, *[2] * 13],
    )
    words = ["".join(draw.choices(letters, often, k=draw.randint(1, 9))) for _ in range(200_000)]
    bounds = list(accumulate(1 / (rank + 2.7) for rank in range(len(words))))
    many = draw.choices(words, cum_weights=bounds, k=min(megabytes, 20) * 200_000)
    lines = [f"{' '.join(many[i : i + 12])}.\n" for i in range(0, len(many), 12)]
    blocks = []
    for _ in range(min(-(-megabytes // 20), 8)):
        draw.shuffle(lines)
        blocks.append("".join(lines).encode())
    with path.open("wb") as file:
        while file.tell() < megabytes * 1e6:
            file.write(blocks[draw.randrange(len(blocks))])
        file.truncate(int(megabytes * 1e6))


def make_pictures(root: Path, count: int) -> None:
    """PNG files of noise on a gradient, of which a thousand are different."""
    ramp = np.add.outer(np.arange(64), np.arange(64))[..., None] * 2
    for number in range(count):
        file = root / f"{number // 1000:04}" / f"{number % 1000:03}.png"
        if number % 1000 == 0:
            file.parent.mkdir(parents=True)
        if number < 1000:
            noise = np.random.default_rng(number).integers(0, 64, (64, 64, 3))
            Image.fromarray(((ramp + noise) % 256).astype(np.uint8)).save(file)
        else:
            os.link(root / "0000" / file.name, file)


def _numbered(stem: bytes, numbers: np.ndarray) -> np.ndarray:
    """The stem with each number in its last eight places, which are zeros, uint8 (N, length)."""
    table = np.tile(np.frombuffer(stem, np.uint8), (len(numbers), 1))
    for digit in range(8):
        table[:, -1 - digit] += (numbers // 10**digit % 10).astype(np.uint8)
    return table


def make_sentences(path: Path, count: int, *, pairs: bool) -> None:
    """Lines of some 20 characters, or a table of pairs of them.

    A tenth of the lines stand there twice, and of the pairs share a sentence with another.
    """
    draw = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(b"anchor\tpositive\n" if pairs else b"")
        for start in range(0, count, _BLOCK):
            numbers = np.arange(start, min(start + _BLOCK, count))
            sides = []
            for side in range(1 + pairs):
                table = _numbered(b"..... ....." + b"ab"[side : side + 1] + b" 00000000", numbers)
                letters = _LETTERS[draw.integers(0, len(_LETTERS), (len(table), 10))]
                table[:, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]] = letters
                sides.append(table)
            some = len(numbers) // 10
            sides[0][9::10][:some] = sides[-1][8::10][:some]
            ends = [np.full((len(numbers), 1), ord(end), np.uint8) for end in "\t\n"]
            parts = [sides[0], ends[0], sides[1], ends[1]] if pairs else [sides[0], ends[1]]
            file.write(np.concatenate(parts, 1).tobytes())


def make_index(folder: Path, count: int, width: int, noise: float) -> None:
    """Vectors and texts (sentence 00000007) as `zoo similar --index` writes them."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    axes = draw.standard_normal((16, width), np.float32) / width**0.5
    stem = b"sentence 00000000"
    with (
        (folder / "vectors.npy").open("wb") as file,
        (folder / "texts.bin").open("wb") as texts,
        (folder / "texts.ends").open("wb") as ends,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, _BLOCK):
            numbers = np.arange(start, min(start + _BLOCK, count))
            rows = len(numbers)
            part = noise * draw.standard_normal((rows, width), np.float32) / width**0.5
            if noise < 1:
                part += draw.standard_normal((rows, 16), np.float32) @ axes / 4
            part /= np.linalg.norm(part, axis=1, keepdims=True)
            file.write(part.astype("<f4").tobytes())
            texts.write(_numbered(stem, numbers).tobytes())
            ends.write(((numbers + 1) * len(stem)).astype("<i8").tobytes())
    (folder / "model.json").write_text("{}")


def make_corpus(path: Path, count: int) -> None:
    """Lines of 8 to 32 characters, of words of two that are as frequent as Zipf has it.

    A tenth of them are the line before with one or two of its words replaced.
    """
    draw = np.random.default_rng(0)
    often = 1 / (np.arange(3000) + 6) ** 1.1
    characters = 0x4E00 + draw.permutation(20_000)[:3000].astype(np.uint32)
    words = characters[draw.choice(3000, (30_000, 2), p=often / often.sum())]
    bounds = np.cumsum(1 / (np.arange(len(words)) + 1.0) ** 1.1)
    with path.open("wb") as file:
        for start in range(0, count, _BLOCK):
            rows = min(_BLOCK, count - start)
            drawn = np.searchsorted(bounds, draw.random((rows, 16)) * bounds[-1])
            lengths = draw.integers(4, 17, rows)
            again = np.arange(1, rows)[draw.random(rows - 1) < 0.1]
            drawn[again], lengths[again] = drawn[again - 1], lengths[again - 1]
            for _ in range(2):
                place = draw.integers(0, lengths[again])
                drawn[again, place] = draw.integers(0, len(words), len(again))
            texts = words[np.minimum(drawn, len(words) - 1)].reshape(rows, 32)
            lines = np.concatenate([texts, np.full((rows, 1), 10, np.uint32)], 1)
            kept = np.arange(33) < 2 * lengths[:, None]
            kept[:, 32] = True
            file.write(lines[kept].astype("<u4").tobytes().decode("utf-32-le").encode())
