"""Configs name listed classes and nothing else, and write below the run directory."""

import importlib
import inspect
import pkgutil
import sys
import warnings
from pathlib import Path

import pytest
from jsonargparse import Namespace
from jsonargparse._util import import_object

from tests.processes import in_new_process
from zoo.cli.config_files import read_config
from zoo.cli.outputs import place_outputs
from zoo.cli.trusted import (
    LIGHTNING,
    allowed_paths,
    check_config,
    check_stored_config,
    restrict_imports,
)


def resolves(path: str) -> bool:
    """Whether the parser would import it."""
    try:
        import_object(path)
    except (ValueError, ImportError, AttributeError):
        return False
    return True


@pytest.mark.slow
def test_nothing_of_torch_and_lightning_resolves_but_the_listed_classes():
    in_new_process(walk)  # importing all modules changes loggers and settings of this one


def walk():
    restrict_imports()
    found, tried = set(), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in ("torch", "lightning.pytorch", "lightning.fabric"):
            root = importlib.import_module(package)
            names = [
                m.name for m in pkgutil.walk_packages(root.__path__, f"{package}.", lambda _: 0)
            ]
            for name in [package, *names]:
                if "test" in name.lower() or name.endswith("__main__"):
                    continue
                try:
                    module = importlib.import_module(name)
                except BaseException:  # of hardware or packages that are not here
                    continue
                for member in list(vars(module)):
                    path = f"{name}.{member}"
                    tried += 1
                    if resolves(path):
                        found.add(path)
    assert tried > 20_000
    listed = {p for p in allowed_paths() if p.startswith(("torch.", "lightning."))}
    classes = {import_object(path) for path in listed}
    # Other modules import the same classes, under names that are not listed: these are refused.
    assert found <= listed
    assert all(inspect.isclass(cls) for cls in classes)
    assert len(listed) > sum(map(len, LIGHTNING.values()))


def test_members_of_listed_classes_do_not_resolve():
    restrict_imports()
    for path in sorted(allowed_paths()):
        assert resolves(path), path
        cls = import_object(path)
        for name in ("load_from_checkpoint", "mro", "__init__", *list(vars(cls))[:20]):
            if name.isidentifier():
                assert not resolves(f"{path}.{name}"), name


@pytest.mark.parametrize(
    "path",
    [
        "zoo.load",
        "zoo.cli.main",
        "zoo.DDPM.load_from_checkpoint",
        "zoo.data.to_float",
        "zoo.data.Vocabulary",
        "lightning.pytorch.callbacks.LambdaCallback",
        "lightning.pytorch.Trainer",
        "lightning.pytorch.loggers.MLFlowLogger",
        "torch.load",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.nn.Linear",
        "torch.optim.Optimizer.load_state_dict",
    ],
)
def test_what_is_not_listed_is_refused_in_every_place(path):
    restrict_imports()
    assert not resolves(path)
    spec = {"class_path": path, "init_args": {"f": "torch.is_tensor"}}
    for config in ({"model": spec}, {"trainer": {"callbacks": [spec]}}, {"a": [{"b": spec}]}):
        with pytest.raises(ValueError, match=f"theirs.yaml: class path '{path}' is not allowed"):
            check_config(config, "theirs.yaml")
    with pytest.raises(ValueError, match=r"torch\.is_tensor"):
        check_config({"data": spec}, "theirs.yaml")


def test_a_checkpoint_names_its_model_and_its_data_alone(monkeypatch):
    model = {"class_path": "zoo.DDPM", "init_args": {"width": 8}}
    data = {"class_path": "zoo.data.Digits"}
    check_stored_config({"model": model, "data": data}, "x.ckpt")
    stopping = {"class_path": "lightning.pytorch.callbacks.EarlyStopping"}
    for config in (
        {"model": stopping},
        {"data": {"class_path": "zoo.DDPM"}},
        {"trainer": {"max_time": stopping}},
        {"model": {"class_path": "zoo.DDPM", "init_args": {"width": stopping}}},
        {"model": {"class_path": "mine.Model"}},
        {"model": [1]},
    ):
        with pytest.raises(ValueError, match=r"x\.ckpt: "):
            check_stored_config(config, "x.ckpt")
    with pytest.raises(
        ValueError, match="as model: if you trust the package mine, set ZOO_TRUST=mine"
    ):
        check_stored_config({"model": {"class_path": "mine.Model"}}, "x.ckpt")
    monkeypatch.setenv("ZOO_TRUST", "mine")
    check_stored_config({"model": {"class_path": "mine.Model"}}, "x.ckpt")


OWN = """
from collections.abc import Callable
from typing import Any
import torch
from zoo.data import Digits

def give(**kwargs) -> Digits:
    return Digits(**kwargs)

def half(x: torch.Tensor) -> torch.Tensor:
    return x / 2

class Mine(Digits):
    def __init__(self, change: Callable[[Any], Any] = half, kind: type | None = None,
                 changes: list[Callable[[Any], Any]] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
"""


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--data.change", "theirs.half"], "--data.change: half is a function"),
        (["--data.change", "theirs.give"], "--data.change: give is a function"),
        (["--data.changes", "[theirs.give]"], "--data.changes: give is a function"),
        (["--data", "theirs.give"], "theirs.give"),
    ],
)
def test_a_function_of_a_trusted_package_is_no_value(
    mistake, zoo_cli, tiny, tmp_path, monkeypatch, flags, named
):
    (tmp_path / "theirs.py").write_text(OWN.replace("= half, kind", "= torch.relu, kind"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ZOO_TRUST", "theirs")
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    own = ["-c", tiny, "--data", "theirs.Mine"]
    assert named in mistake("fit", *own, *flags, "--run_dir", "refused")
    short = ["--trainer.max_steps", 1, "--trainer.limit_val_batches", 0, "--run_dir", "run"]
    code, _, err = zoo_cli("fit", *own, "--data.kind", "theirs.Mine", *short)
    assert code == 0, err


@pytest.mark.parametrize(
    ("key", "value"),
    [("save_dir", "/tmp/else"), ("save_dir", "../../x"), ("name", "../../../x"), ("name", "/x")],
)
def test_a_config_writes_below_the_run_directory_alone(tmp_path, key, value):
    spec = Namespace(
        class_path="lightning.pytorch.loggers.CSVLogger", init_args=Namespace(**{key: value})
    )
    run_dir = tmp_path / "run"
    with pytest.raises(ValueError, match="outside of the run directory"):
        place_outputs(Namespace(logger=spec), run_dir, ["--config=theirs.yaml"])
    for typed in (
        [f"--trainer.logger.{key}={value}"],
        [f"--trainer.logger.init_args.{key}", value],
    ):
        place_outputs(Namespace(logger=[spec]), run_dir, typed)
        assert spec.init_args[key] == value


def test_a_relative_folder_goes_below_the_run_directory(tmp_path):
    spec = Namespace(class_path="x.CSVLogger", init_args=Namespace(save_dir="logs", name=None))
    place_outputs(Namespace(logger=spec), tmp_path, [])
    assert spec.init_args.save_dir == str(tmp_path / "logs")


def test_another_server_of_wandb_needs_a_flag(tmp_path):
    settings = {"base_url": "http://elsewhere"}
    spec = Namespace(class_path="x.WandbLogger", init_args=Namespace(settings=settings))
    with pytest.raises(ValueError, match="settings may only be given by a flag"):
        place_outputs(Namespace(logger=spec), tmp_path, [])


@pytest.mark.parametrize("name", ["tracking_uri", "artifact_location"])
def test_another_server_of_mlflow_needs_a_flag_or_the_users_variable(name, tmp_path, monkeypatch):
    values = Namespace(**{name: "http://elsewhere"})
    spec = Namespace(class_path="x.MLflow", init_args=values)
    with pytest.raises(ValueError, match=f"{name} may only be given by a flag"):
        place_outputs(Namespace(logger=spec), tmp_path, [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    spec.init_args = Namespace(tracking_uri="http://elsewhere")
    place_outputs(Namespace(logger=spec), tmp_path, [])
    assert spec.init_args.tracking_uri == "http://elsewhere"


YAML = {
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{n}: &{n} [{', '.join([f'*{p}'] * 10)}]\n"
        for p, n in zip("abcdefg", "bcdefgh", strict=True)
    ),
    "itself": "a: &a [*a]",
    "deep": "a: " + "[" * 100_000 + "]" * 100_000,
    "deep lines": "\n".join(" " * i + "a:" for i in range(200)),
    "null": "trainer: null",
    "list": "model: [1]",
    "number": "3",
    "object": "a: !!python/object/apply:os.system [ls]",
    "keys": "1: 2",
    "digits": "a: " + "9" * 5000,
}


@pytest.mark.parametrize("case", YAML)
def test_yaml_is_measured_before_it_is_read(tmp_path: Path, case: str):
    file = tmp_path / "theirs.yaml"
    file.write_text(YAML[case])
    with pytest.raises(ValueError, match=r"theirs\.yaml") as error:
        read_config(file)
    assert "\n" not in str(error.value)


def test_aliases_of_an_ordinary_config_are_read(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("trainer: &t {max_steps: 3}\nema: {<<: *t, decay: 0.9}\n")
    assert read_config(file)["ema"] == {"max_steps": 3, "decay": 0.9}
