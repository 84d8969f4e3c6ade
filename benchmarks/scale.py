"""Memory, time to the first step and rates of text against its size, here and at another commit.

    python benchmarks/scale.py --sizes 10,100 --before ../zoo-before

makes texts of so many MB, fits a small FlashLM to each, twice, as a user does, and prints tables.
The time to the first step is from the start of the command; the memory is what no file backs
(RssAnon of /proc/PID/status), at its most, of the process that trains.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
PROBE = """\
import os, time
from lightning.pytorch import Callback
class FirstStep(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 1:
            seconds = time.time() - float(os.environ["SCALE_START"])
            print(f"first step after {seconds:.1f} s, {time.process_time():.1f} s", flush=True)
"""
FIT = """\
-c flash/shakespeare --trainer.accelerator cpu --trainer.max_steps 20
--trainer.limit_val_batches 2 --trainer.val_check_interval 10 --trainer.enable_progress_bar false
--data.batch_size 8 --data.val_batch_size 8 --data.stride 256 --model.dim 32 --model.depth 2
--model.head_size 16 --trainer.callbacks probe.FirstStep --data.level
"""
RATE = """\
import sys, time
from pathlib import Path
from zoo.data.text.prepare import prepare
root, out, tokenizer = sys.argv[1:]
prepare(root, Path(out, "first"), tokenizer=tokenizer, vocabulary_size=16000, processes=1)
vocabulary = Path(out, "first", "vocabulary.json")
from zoo.data.text.vocabulary import Vocabulary
words = Vocabulary.unpack(vocabulary.read_bytes())
began = time.process_time()
prepare(root, Path(out, "again"), tokenizer=tokenizer, processes=1, vocabulary=words)
ours = time.process_time() - began
library = 0.0
if words.level == "token":
    text = Path(root).read_text()
    began = time.process_time()
    for i in range(0, len(text), 2**18):
        words.tokenizer.encode_batch_fast([text[i : i + 2**18]], add_special_tokens=False)
    library = time.process_time() - began
print("rate", Path(root).stat().st_size / 1e6 / ours, library / ours)
"""


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
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            draw.shuffle(lines)
            file.writelines(lines)
        file.truncate(int(megabytes * 1e6))


def anonymous(pid: int) -> int:
    """Bytes of a process that no file backs."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def fit(code: Path, folder: Path, root: Path | None, level: str) -> tuple[float, float, float]:
    """Seconds to the first step, of the clock and of this process, and the most memory in MB."""
    (folder / "probe.py").write_text(PROBE)
    environment = {**os.environ, "ZOO_TRUST": "probe", "ZOO_CACHE": str(folder / "cache")}
    environment |= {"PYTHONPATH": f"{code}:{folder}", "OMP_NUM_THREADS": "1"}
    run = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-m", "zoo.cli", "fit", *FIT.split(), level, "--run_dir", run]
    command += [] if root is None else ["--data.root", str(root)]
    environment["SCALE_START"] = str(time.time())
    with (folder / "said.txt").open("w+") as said:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=said, stderr=said)
        most = 0
        while process.poll() is None:
            most = max(most, anonymous(process.pid))
            time.sleep(0.02)
        text = Path(said.name).read_text()
    found = re.search(r"first step after ([\d.]+) s, ([\d.]+) s", text)
    if process.returncode or not found:
        raise SystemExit(text)
    return float(found[1]), float(found[2]), most / 1e6


def rate(folder: Path, root: Path, tokenizer: str) -> tuple[float, float]:
    """MB a second of one core, and the library's own time as a share of ours."""
    out = tempfile.mkdtemp(dir=folder)
    environment = {**os.environ, "PYTHONPATH": str(HERE), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", RATE, str(root), out, tokenizer]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    megabytes, share = done.stdout.split("rate ")[1].split()
    return float(megabytes), float(share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10,100", help="of the texts, in MB")
    parser.add_argument("--level", default="char", help="what is fitted to them")
    parser.add_argument("--rates", default="byte,char,bpe", help="tokenizers to time")
    parser.add_argument("--rate_size", type=int, default=20, help="of the text for it, in MB")
    parser.add_argument("--before", type=Path, help="a checkout of the code to compare with")
    parser.add_argument("--before_most", type=int, default=100, help="MB that it is given at most")
    parser.add_argument("--folder", type=Path, help="for texts and cache; a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        print("| text | code | fit | first step | of this processor | most memory |")
        print("|---|---|---|---|---|---|")
        codes = {"here": HERE} | ({"before": options.before.resolve()} if options.before else {})
        for size in (0, *map(int, options.sizes.split(","))):
            root = folder / f"{size}.txt" if size else None
            if root is not None:
                make_text(root, size)
            for which, code in codes.items():
                if which == "before" and size > options.before_most:
                    continue
                what = f"{size} MB" if size else "embedded"
                for time_of in ("first", "again"):
                    seconds, own, memory = fit(code, folder, root, options.level)
                    row = f"{seconds:.1f} s | {own:.1f} s | {memory:,.0f} MB"
                    print(f"| {what} | {which} | {time_of} | {row} |", flush=True)
            if root is not None:
                root.unlink()
        make_text(folder / "rate.txt", options.rate_size)
        print("\n| tokenizer | MB a second of a core | the library's share of the time |")
        print("|---|---|---|")
        for tokenizer in filter(None, options.rates.split(",")):
            megabytes, share = rate(folder, folder / "rate.txt", tokenizer)
            print(f"| {tokenizer} | {megabytes:.1f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
