"""What a config may name: the classes that a run is made of, one by one, and the user's own.

Naming a class is running it, and a YAML is untrusted input: packages hold functions that run code,
load libraries, fetch or write files, so none is trusted as a whole.
"""

import inspect
import sys
from collections.abc import Iterator
from functools import cache, partial
from importlib import import_module
from typing import Any

import jsonargparse
from jsonargparse import Namespace

from zoo.loading import trusted_packages
from zoo.registry import DATA, MODELS, nearest

LIGHTNING = {
    "lightning.pytorch.accelerators": ("CPUAccelerator", "CUDAAccelerator", "MPSAccelerator"),
    "lightning.pytorch.callbacks": (
        "BatchSizeFinder",
        "DeviceStatsMonitor",
        "EarlyStopping",
        "GradientAccumulationScheduler",
        "LearningRateFinder",
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ModelSummary",
        "OnExceptionCheckpoint",
        "RichModelSummary",
        "RichProgressBar",
        "StochasticWeightAveraging",
        "TQDMProgressBar",
        "Timer",
    ),
    "lightning.pytorch.loggers": ("CSVLogger", "TensorBoardLogger", "WandbLogger"),
    "zoo.training.loggers": ("MLflow",),
    "lightning.pytorch.plugins": (
        "DoublePrecision",
        "FSDPPrecision",
        "HalfPrecision",
        "MixedPrecision",
        "Precision",
        "TorchSyncBatchNorm",
    ),
    "lightning.pytorch.plugins.environments": (
        "LSFEnvironment",
        "LightningEnvironment",
        "MPIEnvironment",
        "SLURMEnvironment",
        "TorchElasticEnvironment",
    ),
    "lightning.pytorch.profilers": (
        "AdvancedProfiler",
        "PassThroughProfiler",
        "PyTorchProfiler",
        "SimpleProfiler",
    ),
    "lightning.pytorch.strategies": (
        "DDPStrategy",
        "FSDPStrategy",
        "ModelParallelStrategy",
        "SingleDeviceStrategy",
    ),
}
_ALSO = "a config may name models and data of the zoo, and the callbacks, loggers, strategies, "
_ALSO += "plugins, profilers and optimisers that zoo/cli/trusted.py lists"


def restrict_imports() -> None:
    """Limits what a config may import to the listed classes, and to `ZOO_TRUST=package,package`.

    The parser's own rule takes in what is below a path, so the members of each class are denied:
    what remains are classes alone, no functions.
    """
    own = set(trusted_packages())
    if _settled == [own]:
        return
    withdrawn = _settled[0] - own if _settled else set()
    _settled[:] = [own]
    jsonargparse.set_parsing_settings(
        import_path_denylist=["*", *withdrawn, *_members()],
        import_path_allowlist=[*allowed_paths(), *sorted(own)],
        instantiate_subclass_spec_in_any=False,
    )


def refused(path: str, given: str = "") -> str | None:
    """Why a config may not name a class `path`; None if it may. `given` goes into the message."""
    if path in allowed_paths() or path.split(".")[0] in trusted_packages():
        return None
    package = path.split(".")[0]
    own = "" if package in _KNOWN else f" (ZOO_TRUST={package} adds your own)"
    return f"class path {path!r} is not allowed{given}: {_ALSO}{own}"


def check_config(config: Any, source: str) -> None:
    """Raises ValueError if a config names a class that it may not, wherever it stands.

    The parser itself refuses too, but knows neither the file nor what was given to the class.
    """
    for spec in _specs(config):
        path = spec["class_path"]
        if "." not in path:
            continue  # a short name, which the parser looks up
        given = spec.get("init_args")
        given = given.items() if isinstance(given, dict) else ()
        dotted = [f"{k}: {v}" for k, v in given if isinstance(v, str) and "." in v]
        if why := refused(path, f" (with {', '.join(dotted)[:200]})" if dotted else ""):
            raise ValueError(f"{source}: {why}")


def check_stored_config(config: dict[str, Any], source: str) -> None:
    """Raises ValueError if a checkpoint's config names more than its model and its data.

    Both must be the zoo's, or of a package that the user trusts.
    """
    for section, known in (("model", list(MODELS)), ("data", DATA)):
        spec = config.get(section)
        if spec is None:
            continue
        path = spec.get("class_path") if isinstance(spec, dict) else None
        arguments = spec.get("init_args", {}) if isinstance(spec, dict) else None
        if not isinstance(path, str) or not isinstance(arguments, dict):
            raise ValueError(f"{source}: the {section} of its config is no class with arguments")
        package, _, name = path.rpartition(".")
        root = package.split(".")[0]
        if not (root == "zoo" and name in known) and root not in trusted_packages():
            own = f"if you trust the package {root}, set ZOO_TRUST={root}"
            hint = nearest(name, known) if root in _KNOWN else own
            raise ValueError(f"{source}: class path {path!r} is not allowed as {section}: {hint}")
    inside = {
        key: value.get("init_args") if key in ("model", "data") and value is not None else value
        for key, value in config.items()
    }
    for spec in _specs(inside):
        raise ValueError(
            f"{source}: class path {spec['class_path']!r} is not allowed: a checkpoint may name "
            "only its model and its data"
        )


def check_values(config: Any, key: str = "") -> None:
    """Raises ValueError if a parsed config names a function of a trusted package, not a class.

    What a class has as its own default may be anything.
    """
    no_function = "is a function, and a config may name classes alone"
    own = vars(config) if isinstance(config, Namespace) else config
    defaults: list[Any] = []
    if isinstance(own, dict) and "." in str(own.get("class_path")):
        package, _, name = own["class_path"].rpartition(".")
        cls = getattr(import_module(package), name, None)
        if not inspect.isclass(cls):
            raise ValueError(f"--{key}: {own['class_path']} {no_function}")
        defaults = [default for base in cls.__mro__ for default in _defaults(base)]
        own = own.get("init_args") or {}
        own = vars(own) if isinstance(own, Namespace) else own
    left: list[tuple[str, Any]] = []
    if isinstance(own, list | tuple):
        left = [(key, value) for value in own]
    elif isinstance(own, dict):
        left = [(f"{key}.{k}".strip("."), value) for k, value in own.items()]
    for name, value in left:
        if any(value is default for default in defaults):
            continue
        if inspect.isroutine(value) or isinstance(value, partial):
            raise ValueError(f"--{name}: {getattr(value, '__qualname__', value)} {no_function}")
        check_values(value, name)


def _defaults(cls: type) -> list[Any]:
    made = vars(cls).get("__init__")
    parameters = inspect.signature(made).parameters if inspect.isfunction(made) else {}
    return [parameter.default for parameter in parameters.values()]


@cache
def allowed_paths() -> frozenset[str]:
    """Every path of every listed class: where it is defined, and where it is exported."""
    return frozenset(path for cls in _classes() for path in _paths_of(cls))


def _classes() -> Iterator[type]:
    """The listed classes, and torch's optimisers and schedulers of learning rates."""
    from torch import optim

    import zoo.data

    for model in MODELS.values():
        yield getattr(import_module(model.module), model.name)
    for name in DATA:
        yield getattr(zoo.data, name)
    for module, names in LIGHTNING.items():
        for name in names:
            yield getattr(import_module(module), name)
    bases: dict[Any, Any] = {
        optim.Optimizer: optim,
        optim.lr_scheduler.LRScheduler: optim.lr_scheduler,
    }
    for base, space in bases.items():
        for cls in vars(space).values():
            public = inspect.isclass(cls) and not cls.__name__.startswith("_")
            if public and issubclass(cls, base) and cls is not base:
                yield cls


def _paths_of(cls: type) -> set[str]:
    """Where a class is defined, and the packages above that export it."""
    parts = cls.__module__.split(".")
    packages = [".".join(parts[:n]) for n in range(1, len(parts))]
    exported = [p for p in packages if getattr(sys.modules.get(p), cls.__name__, None) is cls]
    return {f"{package}.{cls.__name__}" for package in (*exported, cls.__module__)}


@cache
def _members() -> tuple[str, ...]:
    """Methods and other attributes of the listed classes, which are no classes of the list."""
    return tuple(
        f"{path}.{name}"
        for cls in _classes()
        for path in _paths_of(cls)
        for name in {*dir(cls), *dir(type(cls))}
        if name.isidentifier()
    )


def _specs(value: Any) -> Iterator[dict[str, Any]]:
    """Every dict with a class path inside a value without cycles."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            if isinstance(item.get("class_path"), str):
                yield item
            left += item.values()
        elif isinstance(item, list | tuple):
            left += item


_KNOWN = ("zoo", "lightning", "torch", *sys.stdlib_module_names)
_settled: list[set[str]] = []  # for which own packages; the parser's settings hold for a process
