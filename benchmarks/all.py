"""All of the benchmarks in one go: one JSON and one table a machine.

    python benchmarks/all.py [--only PATTERN] [--out bench]

Each script runs in a process of its own, at sizes that together take some half an hour of two
cores; its output goes to OUT/NAME.log and its numbers to OUT/NAME.json. A row's ratio is the
peer's time over ours in the same round, the median of the rounds with their range, so that above
1 ours is faster; of memory it is bytes over bytes, of one process each. OUT/bench.json keeps the
rows with the processor, the versions, the goal and whether it is met, and OUT/bench.md the table.
A script that fails (its peer is not installed, say) is named, and the others go on.
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
from pathlib import Path
from typing import Any

from tqdm import tqdm

from zoo.training.pictures import processor

Ratio = Callable[[Any], tuple[float, float, float]]  # of a script's JSON: median, least, most
BAR = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} of about {total:.0f} min"
PACKAGES = ("torch", "lightning", "diffusers", "pythae", "FLASH-pytorch", "sentence-transformers")


@dataclass(frozen=True)
class Row:
    """A number of a script, and what it should be."""

    title: str
    peer: str
    ratio: Ratio
    goal: float | None = None  # at least
    without_amx: float | None = None  # the goal there, if it is another


@dataclass(frozen=True)
class Script:
    """A script, how long it takes on two cores, and its rows."""

    name: str
    command: str
    minutes: float
    rows: tuple[Row, ...]


def over(*path: Any) -> Ratio:
    """The ratio at a place of the JSON; a dict in it picks the item of a list that holds it."""

    def read(content: Any) -> tuple[float, float, float]:
        for key in path:
            if isinstance(key, dict):
                content = next(item for item in content if key.items() <= item.items())
            else:
                content = content[key]
        least = content.get("ratio_min", content.get("least", content["ratio"]))
        return content["ratio"], least, content.get("ratio_max", content.get("most", least))

    return read


def inverse(read: Ratio) -> Ratio:
    """Ours over the peer's, the other way round."""

    def turned(content: Any) -> tuple[float, float, float]:
        middle, least, most = read(content)
        return 1 / middle, 1 / most, 1 / least

    return turned


def tuned(name: str) -> Ratio:
    """The speed of the setting that was chosen, in times of the default's."""

    def read(content: Any) -> tuple[float, float, float]:
        ratios = sorted(content["rows"][name]["ratios"])
        return ratios[len(ratios) // 2], ratios[0], ratios[-1]

    return read


def memory(peer: str, n: int) -> Ratio:
    """The peer's peak memory over ours."""

    def read(content: Any) -> tuple[float, float, float]:
        rows = {r["contender"]: r["bytes"] for r in content["training"] if r["n"] == n}
        return (rows[peer] / rows["flash"],) * 3

    return read


def share(name: str) -> Ratio:
    """The products' share of a step."""

    def read(content: Any) -> tuple[float, float, float]:
        row = content["rows"][name]
        return row["share"], row["share_min"], row["share_max"]

    return read


TRAIN = ("results", 0, "contenders")
SCRIPTS = (
    Script(
        "roofline",
        "roofline.py --rounds 5",
        3,
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
        9,
        (
            Row("DDPM step, CIFAR-10, batch 32, tuned", "the default", tuned("cifar"), 2.5, 1.0),
            Row("DDPM step, MNIST, batch 64, tuned", "the default", tuned("mnist"), 1.9, 1.0),
            Row("vectors of 600 sentences, tuned", "the default", tuned("encode"), 2.0, 1.0),
        ),
    ),
    Script(
        "ddpm",
        "ddpm.py --batch 4 --precision fp32 --rounds 6 --warm 1 --sampler dpmpp --steps 10 "
        "--sample-rounds 3 --no-memory",
        5,
        (
            Row("DDPM step", "diffusers", over(*TRAIN, "diffusers", "train")),
            Row("DDPM step", "diffusers, fused", over(*TRAIN, "diffusers-fused", "train"), 1.0),
            Row("DPM-Solver++", "diffusers", over(*TRAIN, "diffusers", "sample"), 1.0),
        ),
    ),
    Script(
        "vae",
        "vae.py --only --rounds 60 --cases vae,svae-10",
        1,
        (
            Row("VAE step", "pythae, fused", over("vae", "contenders", "pythae-fused"), 1.0),
            Row("spherical VAE step", "pythae, fused",
                over("svae-10", "contenders", "pythae-fused"), 1.0),
        ),
    ),
    Script(
        "vae-sphere",
        "vae_sphere.py --rounds 20 --batch 1024 --dim 10,128",
        1,
        tuple(
            Row(f"von Mises-Fisher draws, d = {d}", "pythae",
                over("rows", {"dim": d}, "contenders", "pythae"), 1.0)
            for d in (10, 128)
        ),
    ),
    Script(
        "wgan",
        "wgan.py --network dcgan --batch 16 --rounds 6 --warm 1 --constraints gp,gn "
        "--contenders zoo;public",
        4,
        tuple(
            Row(f"DCGAN critic's step, {c.upper()}", "public code",
                over(c, "public", "critic"), 1.0)
            for c in ("gp", "gn")
        ),
    ),
    Script(
        "wgan-w1",
        "wgan_w1.py",
        2,
        tuple(
            Row(f"exact W1, {kind}", way, over("rows", kind, way), 1.0)
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
        9,
        (
            Row("FLASH step, 4,096 tokens", "FLASH-pytorch",
                over("training", {"n": 4096, "contender": "flash-pytorch"}), 1.5),
            Row("FLASH step, 4,096 tokens", "FLASH-pytorch, compiled",
                over("training", {"n": 4096, "contender": "flash-pytorch-compiled"}), 1.5),
            Row("FLASH step, 16,384 tokens", "Transformer",
                over("training", {"n": 16384, "contender": "transformer"})),
            Row("FLASH's memory, 4,096 tokens", "Transformer", memory("transformer", 4096), 1.0),
            Row("FLASH's memory, 16,384 tokens", "Transformer", memory("transformer", 16384), 1.0),
            Row("FLASH decoding after 8,192", "FLASH-pytorch",
                over("decoding", {"prefix": 8192, "contender": "flash-pytorch"}), 1.0),
        ),
    ),
    Script(
        "simbert",
        "simbert.py --parts step encode --rounds 3 --threads 2",
        3,
        (
            Row("RoFormer-Sim step", "transformers", over("step", "transformers"), 1.0),
            Row("vectors of 600 sentences", "sentence-transformers",
                over("encode", "sentence-transformers"), 1.0),
        ),
    ),
    Script(
        "overhead",
        "trainer_overhead.py --steps 100 --rounds 3",
        2,
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
        ratio, least, most = row.ratio(content)
        goal = row.goal if row.without_amx is None or "amx" in processor() else row.without_amx
        met = None if goal is None else ratio >= goal
        found.append(
            {"script": script.name, "what": row.title, "peer": row.peer, "ratio": ratio}
            | {"least": least, "most": most, "goal": goal, "met": met}
        )
    return found


def table(report: dict[str, Any]) -> str:
    """The rows as Markdown, under the machine they are of."""
    lines = [
        f"{report['machine']}; " + ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
        "\n| | peer | ratio (range) | goal | |\n|---|---|---|---|---|",
    ]
    words = {True: "met", False: "missed", None: ""}
    for row in report["rows"]:
        goal = "" if row["goal"] is None else f"{row['goal']:g}"
        ratio = f"{row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
        lines.append(f"| {row['what']} | {row['peer']} | {ratio} | {goal} | {words[row['met']]} |")
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
