"""Memory, time to the first step and rates of text and pictures against their size.

    python benchmarks/scale.py --sizes 10,100 --before ../zoo-before
    python benchmarks/scale.py --sizes "" --rates "" --pictures 2000,200000
    python benchmarks/scale.py --sizes "" --rates "" --sentences 20000,2000000
    python benchmarks/scale.py --sizes "" --rates "" --mined 20000,5000000

makes texts of so many MB, fits a small FlashLM to each, twice, as a user does, and prints tables.
The time to the first step is from the start of the command, without the waits for a processor that
others have (/proc/PID/schedstat); the memory is what no file backs (RssAnon of /proc/PID/status),
at its most, of the process that trains. Of pictures (64x64 PNG),
10,000 or more, there is also the rate of two workers from the cache and lazily, in turns. Of
lines and pairs of sentences it is to the first batch, and the memory that ten have added, in memory
and from the cache; and the time and the memory of the process that reads them. Lines are mined for
pairs by two processes: of their processors, of the clock without waits, and the memory of the
first and of the larger of the two.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from scale_made import make_corpus, make_pictures, make_sentences, make_text, versus, watch

HERE = Path(__file__).resolve().parents[1]
PROBE = """\
import os, time
from lightning.pytorch import Callback
class FirstStep(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 1:
            waited = int(open("/proc/self/schedstat").read().split()[1]) / 1e9
            seconds = time.time() - float(os.environ["SCALE_START"]) - waited
            print(f"first step after {seconds:.1f} s, {time.process_time():.1f} s", flush=True)
"""
FIT = """\
-c flash/shakespeare --trainer.accelerator cpu --trainer.max_steps 20
--trainer.limit_val_batches 2 --trainer.val_check_interval 10 --trainer.enable_progress_bar false
--data.batch_size 8 --data.val_batch_size 8 --data.stride 256 --model.dim 32 --model.depth 2
--model.head_size 16 --trainer.callbacks probe.FirstStep --data.level
"""
FIT_PICTURES = """\
-c ddpm/folder --trainer.accelerator cpu --trainer.max_steps 3 --trainer.limit_val_batches 0
--trainer.enable_progress_bar false --data.batch_size 16
--model.width 8 --model.multipliers [1,1] --model.attention_levels [] --model.blocks 1
--model.groups 4 --samples.n 0 --trainer.callbacks probe.FirstStep
"""
RATE_PICTURES = """\
import sys, time
from zoo.data import ImageFolder
rates = {}
for name, cache, workers in (("lazy", False, 2), ("cache", True, 2), ("alone", True, 0)):
    options = {"cache": cache, "num_workers": workers, "memory_limit_gb": 0, "batch_size": 128}
    data = ImageFolder(root=sys.argv[1], **options)
    data.setup("fit")
    rates[name] = iter(data.train_dataloader())
    next(rates[name])  # its workers have begun
for turn in range(int(sys.argv[2])):
    for name, batches in rates.items():
        for _ in range(4):  # which lie ready
            next(batches)
        began = time.perf_counter()
        for _ in range(32):
            next(batches)
        print("rate", name, 32 * 128 / (time.perf_counter() - began), flush=True)
"""
SENTENCES = """\
import re, sys, time
from itertools import islice
from pathlib import Path
from zoo.data import Sentences, SimilarGroups
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
def clock():
    waited = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    return time.perf_counter() - waited
began, before = clock(), anonymous()
own = time.process_time()
kind = SimilarGroups if sys.argv[1].endswith(".tsv") else Sentences
data = kind(root=sys.argv[1], memory_limit_gb=float(sys.argv[2]), vocab=sys.argv[3])
data.setup("fit")
batches = iter(data.train_dataloader())
next(batches)
first, own = clock() - began, time.process_time() - own
for _ in islice(batches, 9):
    pass
print("found", first, own, anonymous() - before)
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


def picture_rates(folder: Path, root: Path, turns: int) -> dict[str, list[float]]:
    """Pictures a second of each turn: lazily and from the cache by two workers, and by none."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "ZOO_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", RATE_PICTURES, str(root), str(turns)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = re.findall(r"rate (\w+) ([\d.]+)", done.stdout)
    return {
        way: [float(rate) for name, rate in found if name == way]
        for way in ("lazy", "cache", "alone")
    }


def fit(
    code: Path, folder: Path, root: Path | None, what: str, devices: int = 1
) -> tuple[float, float, float, float]:
    """Seconds to the first step, of the clock and of this process, and the most memory in MB.

    The last number is the most memory of the largest process that it started, 0 of one device.
    """
    (folder / "probe.py").write_text(PROBE)
    environment = {**os.environ, "ZOO_TRUST": "probe", "ZOO_CACHE": str(folder / "cache")}
    environment |= {"PYTHONPATH": f"{code}:{folder}", "OMP_NUM_THREADS": "1"}
    run = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-m", "zoo.cli", "fit", *what.split(), "--run_dir", run]
    command += [] if root is None else ["--data.root", str(root)]
    command += ["--trainer.strategy", "ddp", "--trainer.devices", str(devices)] * (devices > 1)
    environment["SCALE_START"] = str(time.time())
    done = watch(command, folder, environment)
    found = re.search(r"first step after ([\d.]+) s, ([\d.]+) s", done.text)
    if not found:
        raise SystemExit(done.text)
    return float(found[1]), float(found[2]), done.most, done.most_of_others * (devices > 1)


def sentences(folder: Path, root: Path, limit: str) -> tuple[float, ...]:
    """Of the clock without waits and of the processor, seconds to the first batch; MB added by ten.

    Then seconds and most MB of the process that reads, if there is one.
    """
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"etaoinshrdlucm"]))
    environment = {**os.environ, "PYTHONPATH": str(HERE), "ZOO_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", SENTENCES, str(root), limit, str(vocab)]
    found = watch(command, folder, environment)
    own = map(float, found.text.split("found ")[1].split())
    return (*own, found.ran_by_others, found.most_of_others)


def mined(folder: Path, root: Path, threshold: float) -> str:
    """A row of `zoo mine-pairs lines` with two processes."""
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "zoo.cli", "mine-pairs", "lines", str(root), "--processes"]
    command += ["2", "-o", "mined.jsonl", "--threshold", str(threshold)]
    found = watch(command, folder, environment)
    pairs, candidates = re.findall(r"([\d,]+) pairs in .*: ([\d,]+) of", found.text)[0]
    row = f"{candidates} | {pairs} | {found.ran + found.ran_by_others:.0f} s | {found.clock:.0f} s"
    return f"{row} | {found.most:,.0f} and {found.most_of_others:,.0f} MB"


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
    parser.add_argument("--devices", type=int, default=1, choices=(1, 2), help="2: also of two")
    parser.add_argument("--level", default="char", help="what is fitted to them")
    parser.add_argument("--rates", default="byte,char,bpe", help="tokenizers to time")
    parser.add_argument("--rate_size", type=int, default=20, help="of the text for it, in MB")
    parser.add_argument("--pictures", default="", help="how many, such as 2000,200000")
    parser.add_argument("--sentences", default="", help="lines and pairs, such as 20000,2000000")
    parser.add_argument("--mined", default="", help="lines mined for pairs, such as 20000,5000000")
    parser.add_argument("--thresholds", default="0.8", help="of their similarity")
    parser.add_argument("--rows", default="lines,pairs", help="of sentences")
    parser.add_argument("--memory_most", type=int, default=10**6, help="of them, read into memory")
    parser.add_argument("--turns", type=int, default=5, help="of their rates")
    parser.add_argument("--before", type=Path, help="a checkout of the code to compare with")
    parser.add_argument("--before_most", type=int, default=100, help="MB that it is given at most")
    parser.add_argument("--folder", type=Path, help="for texts and cache; a temporary one")
    parser.add_argument("--json", type=Path, help="for the rates of pictures")
    options = parser.parse_args()
    report: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        print("| text | code | fit | first step | of this processor | most memory |")
        print("|---|---|---|---|---|---|")
        codes = {"here": HERE} | ({"before": options.before.resolve()} if options.before else {})
        for size in (0, *map(int, options.sizes.split(","))) if options.sizes else ():
            root = folder / f"{size}.txt" if size else None
            if root is not None:
                make_text(root, size)
            for which, code in codes.items():
                if which == "before" and size > options.before_most:
                    continue
                what = f"{size} MB" if size else "embedded"
                for time_of, devices in (("first", 1), ("again", 1), ("again", 2)):
                    if devices > options.devices:
                        continue
                    seconds, own, memory, of_other = fit(
                        code, folder, root, FIT + options.level, devices
                    )
                    row = f"{seconds:.1f} s | {own:.1f} s | {memory:,.0f} MB"
                    row += f" and {of_other:,.0f} MB" * (devices > 1)
                    print(f"| {what} | {which} | {time_of} | {row} |", flush=True)
            if root is not None:
                root.unlink()
        for count in map(int, filter(None, options.pictures.split(","))):
            root = folder / f"pictures-{count}"
            make_pictures(root, count)
            for time_of in ("first", "again", "again"):
                seconds, own, memory, _ = fit(HERE, folder, root, FIT_PICTURES)
                row = f"{seconds:.1f} s | {own:.1f} s | {memory:,.0f} MB"
                print(f"| {count:,} pictures | here | {time_of} | {row} |", flush=True)
            rates = picture_rates(folder, root, options.turns)
            lazy = rates.pop("lazy")
            for way, cached in rates.items():
                row = report[way] = versus(*([count / rate for rate in r] for r in (cached, lazy)))
                print(
                    f"rates of {count:,}: lazy {median(lazy):,.0f} a second, {way} "
                    f"{median(cached):,.0f}, ratio {row['ratio']:.1f} "
                    f"({row['ratio_min']:.1f} to {row['ratio_max']:.1f})",
                    flush=True,
                )
            shutil.rmtree(root)
        for count in map(int, filter(None, options.sentences.split(","))):
            for what in options.rows.split(","):
                root = folder / ("lines.txt" if what == "lines" else "pairs.tsv")
                make_sentences(root, count, pairs=what == "pairs")
                ways = {"in memory": "1e9", "cache, made": "0", "cache": "0"}
                for which, limit in ways.items():
                    if which == "in memory" and count > options.memory_most:
                        continue
                    seconds, own, memory, reading, most = sentences(folder, root, limit)
                    row = f"{seconds:.1f} s | {own:.1f} s | {memory:,.0f} MB"
                    row += f" | {reading:.1f} s | {most:,.0f} MB"
                    print(f"| {count:,} {what} | here | {which} | {row} |", flush=True)
                root.unlink()
                shutil.rmtree(folder / "cache", ignore_errors=True)
        if options.mined:
            print("| lines | threshold | compared | pairs | of processors | clock | memory |")
            print("|---|---|---|---|---|---|---|")
        for count in map(int, filter(None, options.mined.split(","))):
            make_corpus(folder / "corpus.txt", count)
            for threshold in map(float, options.thresholds.split(",")):
                row = mined(folder, folder / "corpus.txt", threshold)
                print(f"| {count:,} | {threshold} | {row} |", flush=True)
        if options.rates:
            make_text(folder / "rate.txt", options.rate_size)
        print("\n| tokenizer | MB a second of a core | the library's share of the time |")
        print("|---|---|---|")
        for tokenizer in filter(None, options.rates.split(",")):
            megabytes, share = rate(folder, folder / "rate.txt", tokenizer)
            print(f"| {tokenizer} | {megabytes:.1f} | {share:.2f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"pictures": report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
