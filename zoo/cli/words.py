"""What was meant: the same names in other words, resolved before the parser sees them."""

import itertools
from collections import deque
from collections.abc import Iterable

import yaml

from zoo.loading import current_path
from zoo.recipes import list_configs, resolve_config
from zoo.registry import DATA, MODELS, TRAINER_VERBS, nearest

# Arguments and what other libraries call them; what a class has of those here is meant.
_ELSEWHERE = {
    "lr": "learning_rate learningrate",
    "lr_generator": "learning_rate learningrate lr",
    "weight_decay": "wd",
    "batch_size": "batch bs bsz",
    "critic_batch": "batch batch_size",
    "max_epochs": "epochs num_epochs",
    "max_steps": "steps num_steps iterations",
    "devices": "gpus num_gpus",
    "root": "path dir folder data_dir",
    "layers": "num_layers n_layers",
    "depth": "num_layers n_layers layers",
    "blocks": "num_layers n_layers layers",
    "heads": "num_heads n_heads",
    "hidden": "hidden_size hidden_dim",
    "dim": "hidden_size hidden_dim",
    "width": "hidden_size hidden_dim",
    "latent_dim": "z_dim latent_size",
    "timesteps": "num_timesteps",
    "image_size": "resolution img_size",
    "size": "resolution img_size",
    "num_workers": "workers",
}


def synonym(name: str, known: Iterable[str]) -> str | None:
    """What an argument of this name is called here, if it is."""
    here = (n for n, others in _ELSEWHERE.items() if name.lower() in others.split())
    known = set(known)
    return next((n for n in here if n in known), None)


def names_of(group: str) -> list[str]:
    """The classes that `--model` or `--data` takes by name."""
    return list(MODELS if group == "model" else DATA)


def meant(verb: str, arguments: list[str]) -> list[str]:
    """The arguments of a Trainer verb with what was meant in the place of what was written.

    A recipe without -c gets it; models and data are found whatever their capitals; `--model.help`
    and `--data.help` alone are of the recipe's class.

    Raises:
        ValueError: A word stands for nothing, or there is no such model.
    """
    assert verb in TRAINER_VERBS
    out: list[str] = []
    rest = deque(arguments)
    if rest and not rest[0].startswith("-"):
        out += ["-c", rest.popleft()]
    while rest:
        argument = rest.popleft()
        flag, equals, value = argument.partition("=")
        group = flag.removeprefix("--").removesuffix(".help")
        config = flag in ("-c", "--config")
        named = flag.startswith("--") and group in ("model", "data")
        if not config and not named:
            out.append(argument)
            continue
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.popleft()
        if config and not value:
            raise ValueError(f"{flag} needs a recipe (see zoo list) or a YAML file behind it")
        if named and flag.endswith(".help"):
            value = value or recipe_class(arguments, group) or ""
        if named and not value:
            raise ValueError(f"{flag} needs a name behind it: {', '.join(names_of(group))}")
        out += [flag, _class(group, value) if named else value]
    return out


def recipe_class(arguments: list[str], group: str) -> str | None:
    """The class that the last shipped recipe among the arguments names."""
    found = None
    for flag, value in itertools.pairwise(arguments):
        name = value if flag in ("-c", "--config") else flag.partition("=")[2]
        if flag.split("=")[0] in ("-c", "--config") and name in list_configs():
            for file in resolve_config(name)[0]:
                spec = yaml.safe_load(file.read_text(encoding="utf-8")).get(group) or {}
                found = spec.get("class_path", found)
    return found


def _class(group: str, name: str) -> str:
    """The class of this name, whatever its capitals; class paths and YAML as they are."""
    if not name.isidentifier():
        return current_path(name)
    known = names_of(group)
    same = [n for n in known if n.lower() == name.lower()]
    if not same and group == "model":
        raise ValueError(f"there is no model {name!r}: {nearest(name, known)}")
    return same[0] if same else name
