"""All of the benchmarks in one go: one JSON and one table a machine.

    python benchmarks/all.py [--only PATTERN] [--out bench]

Each script runs in a process of its own, at sizes that together take some half an hour of two
cores; its output goes to OUT/NAME.log and its numbers to OUT/NAME.json. A row's ratio is the
peer's time over ours in the same round, the median of the rounds with their range, so that above
1 ours is faster; of memory it is bytes over bytes, of one process each. OUT/bench.json keeps the
rows with the processor, the versions, the goal and whether it is met, and OUT/bench.md the table.
The seconds beside it are medians too, where the script has them, and MiB the peak of resident
memory of the row's script, ours and peer's in one process. A script that fails (its peer is not
installed, say) is named, and the others go on.
"""

import argparse
import fnmatch
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import truediv
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from zoo.training.pictures import processor
from zoo.tuning.settings import bf16_is_slow

PEER = "PEER"  # in a place of a JSON: whoever's numbers they are
BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} of about {total:.0f} min"
PACKAGES = ("torch", "lightning", "diffusers", "pythae", "FLASH-pytorch", "sentence-transformers")


class Found(NamedTuple):
    """The peer's number over ours."""

    ratio: float
    least: float
    most: float
    ours: float | None = None
    """Seconds."""
    peer: float | None = None
    """Seconds."""

    def inverse(self) -> "Found":
        """Ours over the peer's."""
        return Found(1 / self.ratio, 1 / self.most, 1 / self.least, self.ours, self.peer)


Reader = Callable[[Any], Found]  # of a script's JSON


@dataclass(frozen=True)
class Row:
    """A number of a script, and what it should be."""

    title: str
    peer: str
    read: Reader
    goal: float | None = None  # at least
    without_amx: float | None = None  # the goal there, if it is another


@dataclass(frozen=True)
class Script:
    """A script, how long it takes on two cores, and its rows."""

    name: str
    command: str
    minutes: float
    rows: tuple[Row, ...]
    halves: bool = False  # only where bf16 is not emulated


def at(content: Any, path: tuple[Any, ...], who: str | None) -> Any:
    """A place of a JSON; a dict in the path picks the item of a list that holds it."""
    for key in path:
        if isinstance(key, dict):
            wanted = {k: who if v == PEER else v for k, v in key.items()}
            content = next(item for item in content if wanted.items() <= item.items())
        else:
            content = content[who if key == PEER else key]
    return content


def over(*path: Any, peer: str | None = None, ours: str | None = None) -> Reader:
    """The ratio at a place, and the seconds of both sides there."""

    def read(content: Any) -> Found:
        row = at(content, path, peer)
        own = at(content, path, ours) if ours else row
        least = row.get("ratio_min", row.get("least", row["ratio"]))
        most = row.get("ratio_max", row.get("most", least))
        took = (_seconds(own, "ours_s"), _seconds(row, "peer_s"))
        return Found(row["ratio"], least, most, *took)

    return read


def _seconds(row: Any, name: str) -> float | None:
    """Of a row of both sides by the name, else of one side's."""
    return next((row[key] for key in (name, "median_s", "seconds") if key in row), None)


def inverse(read: Reader) -> Reader:
    """Ours over the peer's, the other way round."""
    return lambda content: read(content).inverse()


def tuned(name: str) -> Reader:
    """The speed of the setting that was chosen, in times of the default's."""

    def read(content: Any) -> Found:
        row = content["rows"][name]
        ratios, took = row["ratios"], (row["ours_s"], row["peer_s"])
        return Found(median(ratios), min(ratios), max(ratios), *took)

    return read


def memory(peer: str, n: int) -> Reader:
    """The peer's peak memory over ours."""

    def read(content: Any) -> Found:
        rows = {r["contender"]: r["bytes"] for r in content["training"] if r["n"] == n}
        return Found(*(rows[peer] / rows["flash"],) * 3)

    return read


def share(name: str) -> Reader:
    """The products' share of a step."""

    def read(content: Any) -> Found:
        row = content["rows"][name]
        return Found(row["share"], row["share_min"], row["share_max"])

    return read


def steps(place: int, better: Callable[[float, float], float]) -> Reader:
    """Ten evaluations against a hundred, seed by seed, by distance (0) or images a second (1)."""

    def read(content: Any) -> Found:
        many, few = content["ddim:trailing:100"], content["dpmpp:logsnr:10"]
        pairs = [(a[place], b[place]) for a, b in zip(many, few, strict=True)]
        ratios = [better(a, b) for a, b in pairs]
        middle = better(*(mean(side) for side in zip(*pairs, strict=True)))
        return Found(middle, min(ratios), max(ratios))

    return read


def trained(n: int, peer: str, ours: str) -> Reader:
    """A training step of benchmarks/flash.py."""
    return over("training", {"n": n, "contender": PEER}, peer=peer, ours=ours)


def named(content: Any, start: str) -> Any:
    """The one whose name begins so; numbers of samples follow."""
    (row,) = (row for name, row in content.items() if name.startswith(start))
    return row


def refined(peer: str, number: str) -> Reader:
    """An estimate's error or time over those of the refined one."""

    def read(content: Any) -> Found:
        ours, other = named(content, "refined"), named(content, peer)
        if number == "time":
            return Found(other["ratio"], *other["range"])
        return Found(*(other[number] / ours[number],) * 3)

    return read


def reliable(content: Any) -> Found:
    """The share of the data whose refined estimate can be trusted."""
    return Found(*(1 - named(content, "refined")["unreliable"],) * 3)


TRAIN = ("results", 0, "contenders", PEER)
SCRIPTS = (
    Script(
        "roofline",
        "roofline.py --rounds 5",
        1,
        tuple(
            Row(f"{title}: products' share of the step", "1 is all", share(name))
            for name, title in (
                ("vae", "VAE"),
                ("dcgan-gp", "DCGAN critic, GP"),
                ("dcgan-gn", "DCGAN critic, GN"),
                ("ddpm-cifar", "DDPM, CIFAR-10's network"),
                ("flash-4k", "FLASH, 4,096 tokens"),
            )
        ),
    ),
    Script(
        "tune",
        "tune.py --seconds 100 --rounds 5",
        7,
        (
            Row("DDPM step, CIFAR-10, batch 32, tuned", "the default", tuned("cifar"), 2.5, 1.0),
            Row("DDPM step, MNIST, batch 64, tuned", "the default", tuned("mnist"), 1.9, 1.0),
            Row("vectors of 600 sentences, tuned", "the default", tuned("encode"), 2.0, 1.0),
        ),
    ),
    Script(
        "best",
        "best.py",
        4,
        (
            Row("DPM-Solver++, ten steps, best setting", "diffusers' default",
                over("samples", "default"), 1.5, 1.0),
            Row("DPM-Solver++, ten steps, best setting", "diffusers' best setting",
                over("samples", "best"), 1.0),
            Row("vectors of 600 sentences, best setting", "sentence-transformers' default",
                over("vectors", "default"), 2.5, 1.0),
            Row("vectors of 600 sentences, best setting", "its best backend of those installed",
                over("vectors", "best"), 1.0),
        ),
    ),
    Script(
        "ddpm",
        "ddpm.py --batch 4 --precision fp32 --rounds 6 --warm 1 --sampler dpmpp --steps 10 "
        "--sample-rounds 3 --no-memory",
        2,
        (
            Row("DDPM step", "diffusers", over(*TRAIN, "train", peer="diffusers", ours="zoo")),
            Row("DDPM step", "diffusers, fused",
                over(*TRAIN, "train", peer="diffusers-fused", ours="zoo"), 1.0),
            Row("DPM-Solver++", "diffusers",
                over(*TRAIN, "sample", peer="diffusers", ours="zoo"), 1.0),
        ),
    ),
    Script(
        "steps",
        "ddpm_steps.py ddpm/digits --ways ddim:trailing:100,dpmpp:logsnr:10 --threads 2",
        1,
        (
            Row("`ddpm/digits`: Fréchet distance of ten evaluations", "DDIM, a hundred",
                steps(0, truediv), 1.0),
            Row("`ddpm/digits`: images a second with ten evaluations", "DDIM, a hundred",
                steps(1, lambda many, few: few / many), 8.0),
        ),
    ),
    Script(
        "vae",
        "vae.py --only --rounds 60 --cases vae,svae-10",
        1,
        (
            Row("VAE step", "pythae, fused",
                over("vae", "contenders", PEER, peer="pythae-fused", ours="zoo"), 1.0),
            Row("spherical VAE step", "pythae, fused",
                over("svae-10", "contenders", PEER, peer="pythae-fused", ours="zoo"), 1.0),
        ),
    ),
    Script(
        "vae-sphere",
        "vae_sphere.py --rounds 20 --batch 1024 --dim 10,128",
        1,
        tuple(
            Row(f"von Mises-Fisher draws, d = {d}", "pythae",
                over("rows", {"dim": d}, "contenders", PEER, peer="pythae", ours="zoo"), 1.0)
            for d in (10, 128)
        ),
    ),
    *(
        Script(
            f"densities-{kind}",
            f"vae_refined.py vae/mnist-{kind}-d10 --images 8 --repeats 10 --temperatures 300",
            1,
            (
                Row(f"log p of {title}, d = 10, refined: share that can be trusted", "1 is all",
                    reliable, 0.9),
                Row(f"log p of {title}, d = 10, refined: error", "not refined, in equal time",
                    refined("equal time", "rmse"), 3.0),
                Row(f"log p of {title}, d = 10, refined: time", "not refined",
                    refined("encoder", "time"), 0.5),
                Row(f"log p of {title}, d = 10, refined: error", "pythae, 5,000 samples",
                    refined("pythae", "rmse"), 1.0),
                Row(f"log p of {title}, d = 10, refined: time", "pythae, 5,000 samples",
                    refined("pythae", "time"), 5.0),
            ),
        )
        for kind, title in (("vmf", "S-VAE"), ("normal", "N-VAE"))
    ),
    Script(
        "wgan",
        "wgan.py --network dcgan --batch 16 --rounds 6 --warm 1 --constraints gp,gn "
        "--contenders zoo;public",
        1,
        tuple(
            Row(f"DCGAN critic's step, {c.upper()}", "public code",
                over(c, PEER, "critic", peer="public", ours="zoo"), 1.0)
            for c in ("gp", "gn")
        ),
    ),
    Script(
        "wgan-w1",
        "wgan_w1.py",
        1,
        tuple(
            Row(f"exact W1, {kind}", way, over("rows", kind, PEER, peer=way, ours="zoo"), 1.0)
            for kind, way in (
                ("flat points", "assignment"), ("collapsed points", "assignment"),
                ("images", "POT"), ("images, 20 that differ", "POT"),
            )
        ),
    ),
    Script(
        "flash",
        "flash.py --lengths 4096,16384 --prefixes 8192 --rounds 3 "
        "--contenders flash,transformer,flash-pytorch,flash-pytorch-compiled",
        5,
        (
            Row("FLASH step, 4,096 tokens", "FLASH-pytorch",
                trained(4096, "flash-pytorch", "flash"), 1.5),
            Row("FLASH step, 4,096 tokens", "FLASH-pytorch, compiled",
                trained(4096, "flash-pytorch-compiled", "flash"), 1.5),
            Row("FLASH step, 16,384 tokens", "Transformer",
                trained(16384, "transformer", "flash")),
            Row("FLASH's memory, 4,096 tokens", "Transformer", memory("transformer", 4096), 1.0),
            Row("FLASH's memory, 16,384 tokens", "Transformer", memory("transformer", 16384), 1.0),
            Row("FLASH decoding after 8,192", "FLASH-pytorch",
                over("decoding", {"prefix": 8192, "contender": PEER},
                     peer="flash-pytorch", ours="flash"), 1.0),
        ),
    ),
    Script(
        "flash-bf16",
        "flash.py --precision bf16 --lengths 4096 --prefixes= --rounds 5 --no_memory "
        "--contenders flash-compiled,flash-pytorch,flash-pytorch-compiled",
        1,
        (
            Row("FLASH step, 4,096 tokens, bf16, compiled", "FLASH-pytorch, bf16",
                trained(4096, "flash-pytorch", "flash-compiled")),
            Row("FLASH step, 4,096 tokens, bf16, compiled", "FLASH-pytorch, bf16, compiled",
                trained(4096, "flash-pytorch-compiled", "flash-compiled"), 1.5, 1.0),
        ),
        halves=True,
    ),
    Script(
        "simbert",
        "simbert.py --parts step encode --rounds 3 --threads 2",
        1,
        (
            Row("RoFormer-Sim step", "transformers",
                over("step", PEER, peer="transformers", ours="zoo"), 1.0),
            Row("vectors of 600 sentences", "sentence-transformers",
                over("encode", PEER, peer="sentence-transformers", ours="zoo"), 1.0),
        ),
    ),
    Script(
        "pictures",
        "scale.py --sizes= --rates= --pictures 20000 --turns 3",
        1,
        (
            Row("20,000 pictures of 64x64 from the cache, by no worker as by default",
                "lazily by two workers", over("pictures", "alone"), 5.0),
            Row("the same, by two workers", "lazily by two workers", over("pictures", "cache")),
        ),
    ),
    Script(
        "verbs",
        "verbs.py --rounds 3",
        2,
        (
            Row("`zoo sample` of `ddpm/digits`", "`import lightning.pytorch`",
                over("rows", "sample"), 1 / 1.15),
            Row("`zoo similar` over 200,000 saved vectors", "its imports",
                over("rows", "similar"), 1 / 1.3),
        ),
    ),
    Script(
        "overhead",
        "trainer_overhead.py --steps 100 --rounds 3",
        3,
        (
            Row("`zoo fit`, perceptron", "bare loop", inverse(over("mlp"))),
            Row("`zoo fit`, U-Net", "bare loop", inverse(over("unet"))),
        ),
    ),
)  # fmt: skip


def run(script: Script, out: Path) -> tuple[Any, int]:
    """A script's JSON, or what went wrong, and its peak of resident memory in MiB."""
    target, log = out / f"{script.name}.json", out / f"{script.name}.log"
    target.unlink(missing_ok=True)
    name, *flags = script.command.split()
    command = [sys.executable, str(Path(__file__).with_name(name)), *flags, "--json", str(target)]
    with log.open("w") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode or not target.is_file():
        said = log.read_text(errors="replace").strip().splitlines() or ["said nothing"]
        return f"{said[-1]} ({log})", used.ru_maxrss // 1024
    return json.loads(target.read_text()), used.ru_maxrss // 1024


def rows_of(script: Script, content: Any) -> list[dict[str, Any]]:
    """The script's rows, with the goal and whether it is met."""
    found = []
    for row in script.rows:
        ratio, least, most, ours, peer = row.read(content)
        goal = row.goal if row.without_amx is None or "amx" in processor() else row.without_amx
        met = None if goal is None else ratio >= goal
        found.append(
            {"script": script.name, "what": row.title, "peer": row.peer, "ratio": ratio}
            | {"least": least, "most": most, "ours_s": ours, "peer_s": peer}
            | {"goal": goal, "met": met}
        )
    return found


def table(report: dict[str, Any]) -> str:
    """The rows as Markdown, under the machine they are of."""
    lines = [
        f"{report['machine']}; " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
        "\n| | peer | ours, s | peer, s | ratio (range) | goal | | MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    words = {True: "met", False: "missed", None: ""}
    for row in report["rows"]:
        goal = "" if row["goal"] is None else f"{row['goal']:.3g}"
        ratio = f"{row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
        took = ("" if row[key] is None else f"{row[key]:.3g}" for key in ("ours_s", "peer_s"))
        cells = (row["what"], row["peer"], *took, ratio, goal, words[row["met"]])
        lines.append(f"| {' | '.join(cells)} | {report['peak_mib'][row['script']]:,} |")
    lines += [f"\nfailed: {name}: {why}" for name, why in report["failed"].items()]
    return "\n".join(lines)


def main() -> int:
    """Runs the scripts, and writes what they found after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help=f"of {', '.join(s.name for s in SCRIPTS)}")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    options = parser.parse_args()
    chosen = [s for s in SCRIPTS if fnmatch.fnmatch(s.name, options.only)]
    if not chosen:
        parser.error(f"--only {options.only}: none of {', '.join(s.name for s in SCRIPTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    versions = {n: importlib.metadata.version(n) for n in PACKAGES if n.lower() in installed}
    report: dict[str, Any] = {
        "machine": f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "versions": versions, "rows": [], "failed": {}, "peak_mib": {}, "seconds": {},
    }  # fmt: skip
    with tqdm(total=sum(s.minutes for s in chosen), unit="min", bar_format=BAR) as bar:
        for script in chosen:
            bar.set_description(script.name)
            if script.halves and bf16_is_slow(torch.device("cpu")):
                bar.update(script.minutes)
                continue
            began = time.monotonic()
            content, report["peak_mib"][script.name] = run(script, options.out)
            report["seconds"][script.name] = round(time.monotonic() - began)
            if isinstance(content, str):
                report["failed"][script.name] = content
            else:
                report["rows"] += rows_of(script, content)
            (options.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
            (options.out / "bench.md").write_text(table(report) + "\n")
            bar.update(script.minutes)
    print(table(report))
    return bool(report["failed"])


if __name__ == "__main__":
    sys.exit(main())
