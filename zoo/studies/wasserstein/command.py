"""`zoo study wasserstein`: what kexue.fm/archives/8244 says about WGANs, measured.

Three experiments: `batches` (is a blurry batch nearer than a real one?), `static` (which distance
does a critic estimate?) and `training` (does the better estimate make the better samples?).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from zoo.files import replacing
from zoo.ranges import Count, Seed
from zoo.studies.wasserstein.batches import study_batches
from zoo.studies.wasserstein.data import load_population
from zoo.studies.wasserstein.report import Part
from zoo.studies.wasserstein.static import study_static
from zoo.studies.wasserstein.training import CONFIGS, study_training
from zoo.untrusted import read_json_object

PartName = Literal["batches", "static", "training", "all"]
FIGURES = {"batches": "batches.png", "static": "static.png", "training": "training.png"}


def study(
    topic: Literal["wasserstein"],
    part: PartName = "all",
    *,
    data: list[str] | str = ["digits", "gaussian-64"],  # noqa: B006  # never changed
    root: str = "data",
    run_dir: str = "runs/study-wasserstein",
    seeds: list[Seed] | Seed = [0, 1],  # noqa: B006
    batch_sizes: list[Count] | Count = [64, 128, 256, 512],  # noqa: B006
    limit: Count = 10_000,
    samples: list[Count] | Count = [512],  # noqa: B006
    steps: Count = 400,
    iterations: Count | None = None,
    figures: bool = True,
) -> None:
    """Measures what a post says, and writes study.json, study.md and figures to run_dir.

    Args:
        topic: wasserstein: kexue.fm/archives/8244.
        part: batches, static, training, or all.
        data: digits, mnist, fashion-mnist, cifar10, gaussian-D (N(0, I) in D dimensions), or paths
            of folders or .zip files of images.
        root: Folder that holds mnist, fashion-mnist and cifar10, as --data.root elsewhere.
        run_dir: Folder to write.
        seeds: Repetitions; what is said to hold is said of how many of them.
        batch_sizes: Batches that are compared in `batches`.
        limit: Most training items, and most held-out items, of each data set.
        samples: Sizes of the two fixed samples of images in `static`.
        steps: Training steps of each critic in `static`.
        iterations: Generator iterations of each run in `training`; the config's own if not given.
        figures: Draw figures, which needs matplotlib.
    """
    names = [data] if isinstance(data, str) else data
    seeds, batch_sizes, samples = (
        [given] if isinstance(given, int) else given for given in (seeds, batch_sizes, samples)
    )
    _check(part, seeds, batch_sizes, samples, limit=limit, steps=steps, iterations=iterations)
    asked = list(get_args(PartName)[:-1]) if part == "all" else [part]
    if "training" in asked and not CONFIGS.keys() & set(names):
        only = f"has recipes for {', '.join(CONFIGS)} only"
        if part == "training":
            raise ValueError(f"--data {', '.join(names)}: the training part {only}")
        print(f"the training part is left out: it {only}")
        asked.remove("training")
    if figures:
        from zoo.studies.wasserstein.figures import check_matplotlib

        check_matplotlib()
    populations = [load_population(name, root, limit) for name in names]
    images = [population for population in populations if population.train.ndim > 2]
    if not images and part == "static":
        raise ValueError(f"--data {', '.join(names)}: the static part takes sets of images")
    folder = Path(run_dir)
    measure: dict[str, Callable[[], Part]] = {
        "batches": lambda: study_batches(populations, batch_sizes, seeds),
        "static": lambda: study_static(images, sizes=samples, steps=steps, seeds=seeds),
        "training": lambda: study_training(
            images, folder=folder / "runs", root=root, iterations=iterations, seeds=seeds
        ),
    }
    for name in asked:
        result = measure[name]()
        write_part(folder, name, result, figures=figures)
        print(result.markdown())
    print(f"written to {folder}")


def _check(
    part: str,
    seeds: Sequence[int],
    batch_sizes: Sequence[int],
    samples: Sequence[int],
    **counts: int | None,
) -> None:
    if part not in get_args(PartName):
        raise ValueError(f"--part {part!r}: choose {', '.join(get_args(PartName))}")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"--seeds {list(seeds)}: give different numbers, 0 or more")
    if not batch_sizes or min(batch_sizes) < 2:
        raise ValueError(f"--batch_sizes {list(batch_sizes)}: give sizes of 2 or more")
    if not samples or min(samples) < 64:
        raise ValueError(f"--samples {list(samples)}: a step draws 64 of them, give 64 or more")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"--{name} {count}: give 1 or more")


def write_part(folder: Path, name: str, part: Part, *, figures: bool) -> None:
    """Adds a part to study.json and study.md, beside those that other commands have written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.json"
    parts = read_json_object(path) if path.is_file() else {}
    parts[name] = part._asdict()
    parts = {key: parts[key] for key in FIGURES if key in parts}
    with replacing(path) as file:
        file.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if figures:
        from zoo.studies.wasserstein import figures as draw

        getattr(draw, f"{name}_figure")(part.rows, folder / FIGURES[name])
    pieces = ["# What WGANs estimate (kexue.fm/archives/8244)\n"]
    for key, value in parts.items():
        pieces.append(Part(**value).markdown())
        if (folder / FIGURES[key]).is_file():
            pieces.append(f"![{value['title']}]({FIGURES[key]})\n")
    with replacing(folder / "study.md") as file:
        file.write_text("\n".join(pieces), "utf-8")
