"""Core hours of every recipe: CPU time of its steps times their number, for `zoo list`.

python benchmarks/hours.py --data DATA [PATTERN]

DATA holds MNIST/, FashionMNIST/, ptb/, zh_sts/ and catalogues.jsonl; other data sets are stood in
for by noise of the same shape. Each recipe is started by the command, on one thread, and stopped
after a few steps; CPU time hardly hangs on what else a machine does. Writes zoo/cli/hours.json.
"""

import argparse
import fnmatch
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from zoo.recipes import list_configs, resolve_config

STEPS, SECONDS = 6, 8.0  # measured after the first step, whichever ends first
PIXELS = 2**17  # of a batch at most, for memory: time is then taken in proportion


def stand_in(name: str, data: Path, folder: Path) -> tuple[list[str], float]:
    """Flags that bring a recipe's data, or noise of the same shape, and the share of its batch."""
    config: dict = {}
    model: dict = {}
    for file in resolve_config(name)[0]:
        content = yaml.safe_load(file.read_text())
        config.update(content.get("data") or {})
        model.update((content.get("model") or {}).get("init_args") or {})
    kind, given = config["class_path"].rpartition(".")[2], config.get("init_args", {})
    root = str(given.get("root", ""))
    if kind in ("MNIST", "FashionMNIST"):
        return ["--data.root", str(data)], 1.0
    if kind in ("CIFAR10", "STL10", "ImageFolder"):
        size = {"CIFAR10": 32, "STL10": 48}.get(kind) or given["size"]
        made = folder / f"{size}"
        if not made.is_dir():
            made.mkdir()
            draw = np.random.default_rng(0)
            for i in range(500):  # five batches of 64 to train on
                pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(made / f"{i}.png")
        flags = ["--data", "ImageFolder", "--data.root", str(made), "--data.size", str(size)]
        most = PIXELS // size**2
        if "critic_batch" in model and model["critic_batch"] > most:  # of which the data follow
            share = most / model["critic_batch"]
            flags += ["--model.critic_batch", str(most)]
            generator = max(1, round(share * model["generator_batch"]))
            return [*flags, "--model.generator_batch", str(generator)], share
        if "critic_batch" in model or "batch_size" not in given:
            return flags, 1.0
        batch = min(given["batch_size"], most)
        return [*flags, "--data.batch_size", str(batch)], batch / given["batch_size"]
    if root.endswith("enwik8"):
        file = folder / "enwik8"
        file.write_bytes(np.random.default_rng(0).integers(32, 127, 10**8, np.uint8).tobytes())
        return ["--data.root", str(file)], 1.0
    if root.partition("/")[0] == "data":
        return ["--data.root", str(data / root.partition("/")[2])], 1.0
    return [], 1.0


def measure(name: str, data: Path) -> dict[str, float]:
    """Core hours and seconds a step of one recipe, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        reader, writer = os.pipe()
        child = os.fork()
        if child:
            os.close(writer)
            with os.fdopen(reader) as file:
                text = file.read()
            os.waitpid(child, 0)
            return json.loads(text or "{}")
        try:
            os.chdir(place)
            log = os.open("log", os.O_WRONLY | os.O_CREAT)
            os.dup2(log, 1)
            os.dup2(log, 2)
            flags, share = stand_in(name, data, Path(place))
            _fit(name, flags, share, lambda found: os.write(writer, json.dumps(found).encode()))
            os.write(writer, json.dumps({"log": Path("log").read_text()[-600:]}).encode())
        finally:
            os._exit(1)


def _fit(name: str, flags: list[str], share: float, tell: Callable[[dict], Any]) -> None:
    """Begins to train, and ends the process once it was measured."""
    from zoo.cli import main
    from zoo.training import pace

    marks: list[tuple[float, int]] = []

    def on_train_batch_end(self, trainer, *_):
        if not marks or trainer.global_step > marks[-1][1]:
            marks.append((time.process_time(), trainer.global_step))
        spent = marks[-1][0] - marks[0][0]
        if len(marks) > 1 and (len(marks) > STEPS or spent > SECONDS):
            each = spent / (marks[-1][1] - marks[0][1]) / share
            steps = pace._steps(trainer)
            tell({"hours": each * steps / 3600, "seconds": each, "steps": steps})
            os._exit(0)  # a run that ends would draw its pictures

    common = [
        *("--trainer.accelerator", "cpu", "--trainer.val_check_interval", "1000000"),
        *("--trainer.check_val_every_n_epoch", "null", "--quality.samples", "0"),
        *("--trainer.limit_val_batches", "0", "--checkpoint.monitor", "null", *flags),
    ]
    config = "".join(file.read_text() for file in resolve_config(name)[0])
    if "init: runs/" in config:
        common += ["--model.init", "null"]
    teacher = re.search("teacher: runs/simbert-(.*)", config)
    if teacher:  # its weights do not matter, its size does
        recipe = ["-c", f"simbert/{teacher[1]}", "--trainer.max_steps", "1"]
        main(["fit", *recipe, *common, "--run_dir", "teacher"])
        common += ["--model.teacher", "teacher"]
    pace.Pace.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]
    main(["fit", "-c", name, *common, "--checkpoint.every_n_train_steps", "0"])


def main_() -> None:
    """Measures the recipes that match, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--data", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    import zoo.cli.trainer  # so that a forked child begins at once

    path = Path(zoo.cli.__file__).with_name("hours.json")
    table = json.loads(path.read_text()) if path.is_file() else {}
    names = [n for n in list_configs() if not n.startswith("overlays/")]
    for name in fnmatch.filter(names, arguments.pattern):
        found = measure(name, arguments.data.resolve())
        print(name, found, flush=True)
        if "hours" in found:
            table[name] = float(f"{found['hours']:.2g}")
            path.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main_())
