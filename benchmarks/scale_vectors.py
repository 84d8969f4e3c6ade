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
import sys
import tempfile
import time
from pathlib import Path

import torch
from scale_made import make_index, watch

from zoo import RoFormerSim, save_pretrained
from zoo.data.sentences.tokenizer import SPECIAL, Tokenizer

HERE = Path(__file__).resolve().parents[1]


def make_model(folder: Path, width: int) -> None:
    torch.manual_seed(0)
    tokens = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz0123456789"]
    sizes = {"hidden": width, "layers": 1, "heads": 2, "intermediate": width}
    model = RoFormerSim(vocab_size=len(tokens), **sizes)
    model.tokenizer = Tokenizer(tokens)
    save_pretrained(model.eval(), folder)


def ask(folder: Path, index: Path, backend: str) -> tuple[float, float, float, str]:
    """MB at most, seconds of the processor, seconds of the clock without waits, what was said."""
    command = [sys.executable, "-m", "zoo.cli", "similar", str(folder / "model")]
    command += ["--index", str(index), "--query", "a query", "--backend", backend]
    environment = {**os.environ, "ZOO_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE)}
    found = watch(command, folder, environment)
    told = re.search(r"recall.*", found.text)
    return found.most, found.ran, found.clock, told[0] if told else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="100000", help="vectors, such as 100000,10000000")
    parser.add_argument("--backends", default="exact,ivfpq")
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
            for backend in options.backends.split(",") if count >= 50_000 else ["exact"]:
                for turn in range(1 + options.turns):
                    memory, ran, clock, told = ask(folder, index, backend)
                    row = f"{memory:,.0f} MB | {ran:.1f} s | {clock:.1f} s | {told}"
                    print(f"| {count:,} | {backend} | {turn} | {row} |", flush=True)
            size = sum(file.stat().st_size for file in index.glob("faiss-*"))
            print(f"the index has {size / 1e6:,.0f} MB", flush=True)
            shutil.rmtree(index)


if __name__ == "__main__":
    main()
