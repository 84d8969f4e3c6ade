"""Does the critic that follows the distance better make the better samples?

kexue.fm/archives/8244 tells from arXiv 2103.01678 that it does not: trained with the c-transform,
the critic's value follows the exact W1 of the batches, and the samples are worse than with a
gradient penalty. Each run here is one of `zoo fit`, in a folder of its own with checkpoints and
sample grids; only the objective differs.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean as mean
from typing import Any

from zoo.studies.wasserstein.data import Population
from zoo.studies.wasserstein.report import Part, by, how_many, markdown_table, with_spread
from zoo.wgan.transport import exact_w1

CONFIGS = {"digits": "wgan/study-digits", "mnist": "wgan/study-mnist"}
EPS = 0.1

# What is set on top of the config.
OBJECTIVES: dict[str, list[str]] = {
    "GP": ["--model.lipschitz=gp"],
    "GN": ["--model.lipschitz=gn"],
    "c-transform": ["--model.lipschitz=none", "--model.objective=c_transform"],
    f"(c,ε), ε={EPS}": [
        "--model.lipschitz=none",
        "--model.objective=c_eps_transform",
        f"--model.c_epsilon={EPS}",
    ],
}
_FOLDERS = dict(zip(OBJECTIVES, ("gp", "gn", "c", "c-eps"), strict=True))
_BATCH = 64  # of the configs' critics
_VALIDATIONS = 6  # in a run of other length than the config's
_SHORT = 20  # iterations; a shorter run logs each of them
_PAIRS = 20  # of real batches, for the baseline
_QUALITY = ("frechet_distance", "precision", "recall")


def fit_arguments(
    data: str, objective: str, *, seed: int, folder: Path, root: str, iterations: int | None
) -> list[str]:
    """What follows `zoo fit` for a run; one that was begun goes on, one that is done is left."""
    arguments = ["-c", CONFIGS[data], *OBJECTIVES[objective], f"--seed_everything={seed}"]
    arguments += [f"--data.seed={seed}", f"--data.root={root}", f"--run_dir={folder}"]
    if iterations is not None:
        every = max(iterations // _VALIDATIONS, 1)
        arguments += [f"--trainer.max_steps={iterations}", f"--trainer.val_check_interval={every}"]
        if iterations < _SHORT:
            arguments.append("--trainer.log_every_n_steps=1")
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    return [*arguments, *quiet, "--ckpt_path=last"]


def read_curves(path: Path) -> dict[str, list[float]]:
    """Steps and values of a metrics.csv: of the two distances, and of each validation."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> tuple[list[float], list[float]]:
        filled = [row for row in rows if row.get(name)]
        return [float(row["step"]) for row in filled], [float(row[name]) for row in filled]

    step, critic = column("wasserstein/critic")
    curves = {"step": step, "critic": critic, "exact": column("wasserstein/exact")[1]}
    for name in _QUALITY:
        curves["quality_step"], curves[name] = column(f"val/{name}")
        curves[f"baseline_{name}"] = column(f"baseline/{name}")[1]
    return curves


def iterations_of(curves: dict[str, list[float]]) -> int:
    """How many iterations a run has, by its last validation or log."""
    return round(max([*curves["step"], *curves["quality_step"]], default=-1)) + 1


def summary(curves: dict[str, list[float]]) -> dict[str, float]:
    """Of the last quarter of a run: both distances, their relative gap; and the last quality."""
    last = -max(len(curves["step"]) // 4, 1)
    critic, exact = curves["critic"][last:], curves["exact"][last:]
    gap = mean([abs(c - e) / e for c, e in zip(critic, exact, strict=True)])
    quality = {name: curves[name][-1] for name in _QUALITY}
    return {"critic": mean(critic), "exact": mean(exact), "gap": gap, **quality}


def real_distance(population: Population, pairs: int = _PAIRS) -> list[float]:
    """W1 of two batches of real images, for some pairs of batches that share none."""
    both = [population.batch("train", 2 * _BATCH, seed) for seed in range(pairs)]
    return [float(exact_w1(two[:_BATCH], two[_BATCH:])) for two in both]


def study_training(
    populations: Sequence[Population],
    *,
    folder: Path,
    root: str,
    iterations: int | None,
    seeds: Sequence[int],
) -> Part:
    """Trains with each objective and seed on the populations that have a config.

    Runs go into `folder`, data come from `root`, and iterations are the config's own if not given.
    """
    from zoo.cli.trainer import run_trainer_verb

    own = [population for population in populations if population.name in CONFIGS]
    rows: list[dict[str, Any]] = []
    for population in own:
        real = real_distance(population)
        for objective in OBJECTIVES:
            for seed in seeds:
                run = folder / f"{population.name}-{_FOLDERS[objective]}-{seed}"
                file = run / "metrics.csv"
                done = iterations_of(read_curves(file)) if file.is_file() else 0
                if iterations is not None and done > iterations:
                    raise ValueError(
                        f"{run} has {done} iterations already, more than --iterations "
                        f"{iterations}: choose another --run_dir"
                    )
                options: Any = {"seed": seed, "folder": run, "root": root}
                arguments = fit_arguments(
                    population.name, objective, iterations=iterations, **options
                )
                run_trainer_verb("fit", arguments)
                curves = read_curves(file)
                row = {"data": population.name, "objective": objective, "seed": seed}
                rows.append(row | summary(curves) | {"real": real, "curves": curves})
    protocol = (
        f"Runs of `zoo fit -c {', '.join(CONFIGS[p.name] for p in own)}`, "
        f"{iterations or max(iterations_of(row['curves']) for row in rows)} generator iterations, "
        f"seeds {', '.join(map(str, seeds))}; the transforms with the two penalties of arXiv "
        "1902.03642, of weight 0.1. Critic and exact W1: "
        f"the last critic batch of {_BATCH} real and {_BATCH} fake images of an iteration, mean "
        "over the last quarter of the logged iterations; off by: mean |critic - exact| / exact of "
        "the same. Fréchet distance, precision and recall: averaged weights at the last "
        "validation, against the validation images; those of real images: as many training images. "
        f"W1 of real images: {_PAIRS} pairs of batches of {_BATCH}. ± is the standard deviation "
        "over seeds, or pairs."
    )
    title = "Training: the estimate and the samples"
    return Part(title, protocol, rows, table(rows), findings(rows))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each objective, and one of real images, for each population."""
    body = []
    for name, of_data in by("data", rows).items():
        for objective, own in by("objective", of_data).items():
            off = with_spread([100 * row["gap"] for row in own], 0)
            body.append(
                [
                    f"{name}, {objective}",
                    with_spread([row["critic"] for row in own]),
                    with_spread([row["exact"] for row in own]),
                    f"{off} %",
                    *(with_spread([row[key] for row in own]) for key in _QUALITY),
                ]
            )
        curves = of_data[0]["curves"]
        quality = [with_spread([curves[f"baseline_{key}"][-1]]) for key in _QUALITY]
        body.append([f"{name}, real images", "", with_spread(of_data[0]["real"]), "", *quality])
    return markdown_table(
        ["", "critic", "exact W1", "off by", "Fréchet distance", "precision", "recall"], body
    )


def findings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The post's claims about the transforms against GP, and about real images."""
    said = []
    for name, of_data in by("data", rows).items():
        runs = by("objective", of_data)
        for objective in list(OBJECTIVES)[2:]:
            pairs = list(zip(runs[objective], runs["GP"], strict=True))
            closer = how_many([own["gap"] < gp["gap"] for own, gp in pairs])
            quality = "frechet_distance"
            worse = how_many([own[quality] > gp[quality] for own, gp in pairs])
            nearer = how_many([own["exact"] < mean(own["real"]) for own, _ in pairs])
            said.append(
                f"{name}, {objective} against GP: the critic is nearer to the exact W1: {closer}; "
                f"the samples have the larger Fréchet distance: {worse}. Its batches are nearer in "
                f"W1 to real ones than real ones are: {nearer}."
            )
    return said
