"""The shipped recipes by name: a YAML, or one with an overlay or a flag laid over it.

Imports nothing heavy: `zoo list` is quick.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from zoo.registry import nearest

_PARTS = ("wgan/on-points", "wgan/on-images")  # folders of what lies over a recipe
_SWEEPS = "sweeps"  # what `wandb sweep` takes

_POINTS = ("clip", "sn", "gp", "lp", "div", "dragan", "r1", "gn", "gran", "c", "c-eps")
_IMAGES = ("clip", "sn", "gp", "gn", "gran")


@dataclass(frozen=True)
class Recipe:
    """What a name stands for after `-c`.

    Args:
        files: Configs, each laid over those before it, as names below `configs/`; none of what only
            lies over others.
        flags: Flags laid over them.
        note: What sets it apart from its first config, for `zoo list`.
    """

    files: tuple[str, ...]
    flags: tuple[str, ...] = ()
    note: str = ""


def _laid_over() -> dict[str, Recipe]:
    found = {}
    for data, folder, names in (
        ("8gaussians", "on-points", _POINTS),
        ("25gaussians", "on-points", _POINTS),
        ("swissroll", "on-points", _POINTS),
        ("mnist", "on-images", _IMAGES),
        ("fashion-mnist", "on-images", _IMAGES),
    ):
        for name in names:
            found[f"wgan/{data}-{name}"] = Recipe((f"wgan/{data}", f"wgan/{folder}/{name}"))
    for data in ("8gaussians", "25gaussians", "swissroll"):
        found[f"wgan/{data}-none"] = Recipe((f"wgan/{data}",))
    for d in (2, 5, 10, 20, 40):
        normal, sphere = f"--model.latent_dim={d}", f"--model.spheres=[{d + 1}]"
        found[f"vae/mnist-normal-d{d}"] = Recipe(("vae/mnist-normal",), (normal,), f"d = {d}")
        found[f"vae/mnist-vmf-d{d}"] = Recipe(("vae/mnist-vmf",), (sphere,), f"d = {d}")
    logger = "--trainer.logger+="
    for name, flag, note in (
        (
            "bf16",
            "--trainer.precision=bf16-mixed",
            "bfloat16 autocast; parameters, loss, EMA and the sampler's state stay in float32",
        ),
        (
            "compile",
            "--model.compile=true",
            "torch.compile of the network, in place (the keys of the checkpoint stay as they are)",
        ),
        (
            "wandb",
            f'{logger}{{"class_path": "lightning.pytorch.loggers.WandbLogger", '
            '"init_args": {"project": "zoo"}}',
            "log to Weights & Biases (offline when there is no key)",
        ),
        (
            "tensorboard",  # one folder, also of a resumed run
            f'{logger}{{"class_path": "lightning.pytorch.loggers.TensorBoardLogger", '
            '"init_args": {"name": "tensorboard", "version": ""}}',
            "log to RUN/tensorboard as well, for TensorBoard (extra tensorboard)",
        ),
        (
            "mlflow",
            f'{logger}{{"class_path": "zoo.training.loggers.MLflow", '
            '"init_args": {"experiment_name": "zoo"}}',
            "log to RUN/mlflow.db as well, for MLflow (extra mlflow)",
        ),
    ):
        found[f"overlays/{name}"] = Recipe((), (flag,), note)
    return found


COMPOSED = _laid_over()


def config_root() -> Path:
    """Folder of the shipped configs: inside the wheel, or beside `zoo/` in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def _file(name: str) -> Path:
    return config_root() / f"{name}.yaml"


def list_files() -> list[str]:
    """Names of the YAML files, recipes and parts of them; a sweep is neither."""
    root = config_root()
    names = (p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith(f"{_SWEEPS}/"))


def list_configs() -> list[str]:
    """Names of the shipped recipes, such as `ddpm/digits`; overlays last."""
    names = {n for n in list_files() if n.rpartition("/")[0] not in _PARTS} | set(COMPOSED)
    return sorted(names, key=lambda name: (name.startswith("overlays/"), name))


def find_recipe(name: str) -> Recipe | None:
    """The shipped recipe or overlay of this name, with or without `.yaml`, if there is one."""
    name = name.removesuffix(".yaml")
    for known in (name, f"overlays/{name}"):
        if known in COMPOSED:
            return COMPOSED[known]
        if _file(known).is_file() and not known.startswith(f"{_SWEEPS}/"):
            return Recipe((known,))
    return None


def resolve_config(name: str) -> tuple[list[Path], tuple[str, ...]]:
    """The files of a config, in the order in which they are laid, and the flags over them.

    Args:
        name: A path, or the name of a shipped recipe or overlay.

    Raises:
        FileNotFoundError: Neither; suggests the nearest shipped one.
    """
    if Path(name).is_file():
        return [Path(name)], ()
    recipe = find_recipe(name)
    if recipe is None:
        raise FileNotFoundError(f"no config {name!r}: {nearest(name, list_configs())}")
    return [_file(part) for part in recipe.files], recipe.flags


def describe_config(name: str) -> str:
    """What a shipped config is, in one line: the first comment line of its files."""
    recipe = find_recipe(name)
    assert recipe is not None, name
    line, *over = [*map(_first_line, recipe.files), *filter(None, [recipe.note])]
    return f"{re.split(':|, d = ', line)[0]}: {over[0]}" if over else line


def _first_line(name: str) -> str:
    with _file(name).open(encoding="utf-8") as file:
        first = file.readline()
    return first.lstrip("# ").strip() if first.startswith("#") else ""
