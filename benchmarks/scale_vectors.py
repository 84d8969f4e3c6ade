"""`zoo similar` over many vectors: memory, time and recall of a query, with each backend.

    python benchmarks/scale_vectors.py --counts 100000,10000000 --width 64

writes a folder as `zoo similar --index` does, of made-up unit vectors (near a subspace of 16
dimensions, as those of sentences are; --noise 1 makes plain random directions), and asks it by the
command, several times: exact, and with lists of codes, which the first query makes. The memory is
what no file backs (RssAnon), at its most; the time is the processor's, of all its threads, and the
clock's without the waits for a processor (/proc/PID/schedstat), beside that of an index of 100.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from zoo import RoFormerSim, save_pretrained
from zoo.data.sentences.tokenizer import SPECIAL, Tokenizer

HERE = Path(__file__).resolve().parents[1]
_BLOCK = 2**18


def make_model(folder: Path, width: int) -> None:
    torch.manual_seed(0)
    tokens = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz0123456789"]
    sizes = {"hidden": width, "layers": 1, "heads": 2, "intermediate": width}
    model = RoFormerSim(vocab_size=len(tokens), **sizes)
    model.tokenizer = Tokenizer(tokens)
    save_pretrained(model.eval(), folder)


def make_index(folder: Path, count: int, width: int, noise: float) -> None:
    """Vectors and texts (sentence 00000007), in bulk."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    axes = draw.standard_normal((16, width), np.float32) / width**0.5
    with (folder / "vectors.npy").open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, count, _BLOCK):
            rows = min(_BLOCK, count - start)
            part = noise * draw.standard_normal((rows, width), np.float32) / width**0.5
            if noise < 1:
                part += draw.standard_normal((rows, 16), np.float32) @ axes / 4
            part /= np.linalg.norm(part, axis=1, keepdims=True)
            file.write(part.astype("<f4").tobytes())
    stem = np.frombuffer(b"sentence 00000000", np.uint8)
    with (folder / "texts.bin").open("wb") as texts, (folder / "texts.ends").open("wb") as ends:
        for start in range(0, count, _BLOCK):
            numbers = np.arange(start, min(start + _BLOCK, count))
            table = np.tile(stem, (len(numbers), 1))
            for digit in range(8):
                table[:, -1 - digit] += (numbers // 10**digit % 10).astype(np.uint8)
            texts.write(table.tobytes())
            ends.write(((numbers + 1) * len(stem)).astype("<i8").tobytes())
    (folder / "model.json").write_text("{}")


def measured(pid: int) -> tuple[int, float, float]:
    """Bytes that no file backs, seconds on a processor, and seconds that were waited for one."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        threads = [Path(task, "schedstat").read_text().split() for task in tasks(pid)]
        first = Path(f"/proc/{pid}/schedstat").read_text().split()
    except OSError:
        return 0, 0.0, 0.0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    ran = sum(int(thread[0]) for thread in threads) / 1e9
    return int(found[1]) * 1024 if found else 0, ran, int(first[1]) / 1e9


def tasks(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def ask(folder: Path, index: Path, backend: str) -> tuple[float, float, float, str]:
    """MB at most, seconds of the processor, seconds of the clock without waits, what was said."""
    command = [sys.executable, "-m", "zoo.cli", "similar", str(folder / "model")]
    command += ["--index", str(index), "--query", "a query", "--backend", backend]
    environment = {**os.environ, "ZOO_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE)}
    began, found = time.monotonic(), (0, 0.0, 0.0)
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        while process.poll() is None:
            found = tuple(map(max, found, measured(process.pid)))
            time.sleep(0.01)
        text = Path(said.name).read_text()
    if process.returncode:
        raise SystemExit(text)
    told = re.search(r"recall.*", text)
    clock = time.monotonic() - began - found[2]
    return found[0] / 1e6, found[1], clock, told[0] if told else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="100000", help="vectors, such as 100000,10000000")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--noise", type=float, default=0.1, help="beside the subspace; 1: no more")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for vectors; a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_model(folder / "model", options.width)
        print("| vectors | backend | query | most memory | of this processor | clock | told |")
        print("|---|---|---|---|---|---|---|")
        for count in (100, *map(int, options.counts.split(","))):
            index = folder / "index"
            make_index(index, count, options.width, options.noise)
            time.sleep(3)  # a file that has just changed is looked at again
            for backend in ("exact", "ivfpq") if count >= 50_000 else ("exact",):
                for turn in range(1 + options.turns):
                    memory, ran, clock, told = ask(folder, index, backend)
                    row = f"{memory:,.0f} MB | {ran:.1f} s | {clock:.1f} s | {told}"
                    print(f"| {count:,} | {backend} | {turn} | {row} |", flush=True)
            size = sum(file.stat().st_size for file in index.glob("faiss-*"))
            print(f"the index has {size / 1e6:,.0f} MB", flush=True)
            shutil.rmtree(index)


if __name__ == "__main__":
    main()
