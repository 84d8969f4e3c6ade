"""Every number of the command line has a range: what is in it builds, all else is one line."""

import argparse
import importlib
import inspect
import math
import os
from typing import Annotated, get_args, get_origin

import pytest

import zoo.data
from zoo.cli.numbers import check_numbers
from zoo.cli.run import parse_function
from zoo.metrics.quality import SampleQuality
from zoo.ranges import Range, check_ranges, find_fault, number_hints
from zoo.registry import COMMANDS, MIXED_PRECISIONS, MODELS
from zoo.training import EMA, Checkpoint
from zoo.training.options import TRAINER
from zoo.training.samples import SampleGrid

WRONG = (-1, 0, 1e-320, math.nan, math.inf, 1e30)

# Arguments that make each model small, and the positional ones of each verb.
SMALL = {
    "DDPM": {"image_size": 8, "channels": 1, "width": 8, "multipliers": [1, 2], "groups": 4},
    "VAE": {"image_size": 4, "latent_dim": 2, "hidden": [4]},
    "VMFVAE": {"image_size": 4, "spheres": [3], "hidden": [4]},
    "TextVAE": {"vocab_size": 9, "latent_dim": 2, "embedding": 4, "hidden": 4},
    "WGAN": {"network": "mlp", "features": 2, "generator_widths": [4], "critic_widths": [4]},
    "FlashLM": {"vocab_size": 9, "dim": 8, "depth": 1, "head_size": 4, "chunk": 4},
    "FlashMLM": {"vocab_size": 9, "dim": 8, "depth": 1, "head_size": 4, "chunk": 4},
    "SimBERT": {"vocab_size": 9, "hidden": 8, "layers": 1, "heads": 2},
    "RoFormerSim": {"vocab_size": 9, "hidden": 8, "layers": 1, "heads": 2},
    "SentenceSimilarity": {"vocab_size": 9, "hidden": 8, "layers": 1, "heads": 2},
}
POSITIONAL = {
    "evaluate": ["a", "b"],
    "paraphrase": ["m", "text"], "export": ["m", "out"], "import": ["m", "out", "--format", "x"],
    "compress": ["m", "test"], "decompress": ["a.zbb", "m", "--out", "x"],
    "mine-pairs": ["answers", "x"], "prepare": ["text", "a", "b"], "study": ["wasserstein"],
    "embed": ["m", "--input", "x"], "similar": ["m", "--query", "x"],
}  # fmt: skip


def classes():
    models = [getattr(importlib.import_module(row.module), row.name) for row in MODELS.values()]
    data = [getattr(zoo.data, name) for name in zoo.data.__all__]
    data = [c for c in data if inspect.isclass(c) and hasattr(c, "setup") and not _abstract(c)]
    return models, data, [EMA, SampleGrid, SampleQuality, Checkpoint]


def _abstract(cls):
    return inspect.isabstract(cls)


def function_of(verb):
    module, name = COMMANDS[verb].function.split(":")
    return getattr(importlib.import_module(module), name)


def holds_number(hint):
    return hint in (int, float) or any(map(holds_number, get_args(hint)))


def ranged(hint):
    """Whether each number in an annotation has its range; keys of a dict are steps."""
    if get_origin(hint) is Annotated:
        return any(isinstance(m, Range) for m in hint.__metadata__)
    if get_origin(hint) is dict:
        return ranged(get_args(hint)[1])
    if get_origin(hint) is not None and holds_number(hint) and get_args(hint):
        return all(ranged(choice) for choice in get_args(hint) if holds_number(choice))
    return not holds_number(hint)


def numbers(function):
    names = inspect.signature(function).parameters
    hints = number_hints(function)
    return [name for name in names if name in hints and holds_number(hints[name])]


MODEL_CLASSES, DATA_CLASSES, CALLBACKS = classes()


@pytest.mark.parametrize(
    "function", [*MODEL_CLASSES, *DATA_CLASSES, *CALLBACKS, *map(function_of, COMMANDS)],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_every_number_has_a_range(function):
    hints = number_hints(function)
    assert [name for name in numbers(function) if not ranged(hints[name])] == []


def mistake_of(build):
    """What the one line says, if a call is refused."""
    try:
        build()
    except (ValueError, argparse.ArgumentError) as error:
        return str(error)
    return None


def forms(name, hint, value):
    """The value as the argument takes it: alone, in a list, or at a step."""
    outer = [get_origin(choice) for choice in (hint, *get_args(hint))]
    if list in outer:
        return [value] if name not in ("betas", "adam_betas") else [0.5, value]
    return {0: value} if dict in outer else value


@pytest.mark.parametrize("cls", MODEL_CLASSES, ids=lambda c: c.__name__)
def test_a_model_builds_or_says_which_number(cls):
    hints, refused = number_hints(cls), 0
    for name in numbers(cls):
        for value in WRONG:
            arguments = {**SMALL[cls.__name__], name: forms(name, hints[name], value)}
            said = mistake_of(lambda arguments=arguments: cls(**arguments))
            assert said is None or (name in said and "\n" not in said), (name, value)
            refused += said is not None
    assert refused > 3 * len(numbers(cls))  # nan, inf and -1 at least, nearly everywhere


@pytest.mark.parametrize("cls", [*DATA_CLASSES, *CALLBACKS], ids=lambda c: c.__name__)
def test_data_and_callbacks_build_or_say_which_number(cls):
    hints = number_hints(cls)
    for name in numbers(cls):
        for value in WRONG:
            arguments = {name: forms(name, hints[name], value)}
            said = mistake_of(lambda arguments=arguments: cls(**arguments))
            assert said is None or f".{name}" in said, (name, value)
            assert said is not None or find_fault(hints[name], arguments[name]) is None


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_verb_takes_a_number_in_its_range_or_names_it(verb):
    function = function_of(verb)
    for name in numbers(function):
        for value in ("-1", "0", "1e-320", "nan", ".nan", ".inf", "1e30"):
            arguments = [*POSITIONAL.get(verb, ["m"]), f"--{name}={value}"]
            said = mistake_of(lambda arguments=arguments: parse_function(verb, arguments))
            if said is None:
                values = parse_function(verb, arguments)[1]
                assert find_fault(number_hints(function)[name], values[name]) is None
            else:
                assert name in said, (name, value)
                assert "\n" not in said


@pytest.mark.parametrize("name", TRAINER)
def test_the_trainer_takes_a_number_in_its_range_or_names_it(name):
    from lightning.pytorch import Trainer

    for value in (-3, *WRONG):
        said = mistake_of(lambda value=value: check_numbers({"trainer": {name: value}}))
        assert said is None or f"--trainer.{name}={value}: " in said
        if said is None and name not in ("devices", "num_nodes"):  # those hang on the machine
            quiet = {"accelerator": "cpu", "devices": 1, "logger": False}
            Trainer(**{**quiet, name: value})


def test_what_the_trainer_takes_passes():
    taken = {
        "devices": [-1, 2, "auto", "-1", "0,1", [0, 1]],
        "max_steps": [-1, 1],
        "limit_val_batches": [0, 7, 0.0, 0.5, 1.0, None],
        "val_check_interval": [1, 7, 0.5, 1.0, None, "00:10:00:00"],
        "fast_dev_run": [False, True, 3],
        "gradient_clip_val": [None, 0, 1.0],
    }
    for name, values in taken.items():
        for value in values:
            check_numbers({"trainer": {name: value, "accelerator": "cuda"}})


@pytest.mark.parametrize("accelerator", ["cpu", "auto", {"class_path": "x.CPUAccelerator"}])
def test_processes_on_a_cpu_are_no_more_than_its_cores(monkeypatch, accelerator):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for value in (1, "2", 4, "auto", None):
        check_numbers({"trainer": {"devices": value, "accelerator": accelerator}})
    for value in (99, "99", 5, -3, -1, 0, "abc", "0,1", [0, 1], "2.5"):
        said = mistake_of(
            lambda value=value: check_numbers(
                {"trainer": {"devices": value, "accelerator": accelerator}}
            )
        )
        assert said is not None
        assert f"--trainer.devices={value}: " in said
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    check_numbers({"trainer": {"devices": 2, "accelerator": accelerator}})


def test_devices_of_a_gpu_are_a_number_or_a_list():
    with pytest.raises(ValueError, match=r"--trainer\.devices=abc: "):
        check_numbers({"trainer": {"devices": "abc", "accelerator": "cuda"}})


def test_machines_are_only_waited_for_where_something_started_them(monkeypatch):
    for name in ("MASTER_ADDR", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"--trainer\.num_nodes=2: "):
        check_numbers({"trainer": {"num_nodes": 2}})
    monkeypatch.setenv("MASTER_ADDR", "host")
    check_numbers({"trainer": {"num_nodes": 2}})


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("trainer.accumulate_grad_batches", 0, "must be 1 or more"),
        ("trainer.val_check_interval", 0, "must be 1 or more"),
        ("trainer.devices", -3, "must be -1, or from 1 to 1024"),
        ("trainer.limit_train_batches", 1.5, "must be from 0 (not included) to 1"),
        ("trainer.limit_train_batches", 0, "must be 1 or more"),
        ("trainer.min_steps", 100, "is more than --trainer.max_steps=30, which ends the run"),
        ("trainer.val_check_interval", 0.5, "needs --trainer.check_val_every_n_epoch=1"),
        ("seed_everything", -1, "must be from 0 to 4294967295"),
        ("model.lr", 1e-45, "is no number of float32"),
        ("data.batch_size", 0, "must be 1 or more"),
        ("ema.decay", 1, "must be from 0 to 1 (not included)"),
    ],
)
def test_fit_names_the_flag(mistake, tiny, flag, value, said):
    line = mistake("fit", "-c", tiny, f"--{flag}={value}")
    assert f"--{flag}={value}" in line.replace("1.0:", "1:")
    assert said in line


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--trainer.limit_train_batches=0.001", ": of 12 batches that is none"),
        ("--trainer.enable_checkpointing=false", ": a run keeps its checkpoints and metrics"),
        ("--trainer.barebones=true", ": a run keeps its checkpoints and metrics"),
        ("--trainer.default_root_dir=x", " has no effect: give --run_dir"),
        ("--trainer.accelerator=tpu", "pip install torch_xla"),
        ("--ema=null", "--ema: null is no YAML file; give its options, as --ema.decay"),
        ("--trainer=foo", "--trainer: foo is no YAML file; give its options"),
        ("--model.init_args=3", "--model.init_args of DDPM needs keys with values"),
        ("--data.init_args=null", "--data.init_args of Digits needs keys with values"),
        ("--trainer.logger={class_path: CSVLogger, init_args: a}", "--trainer.logger.init_args of"),
    ],
)
def test_what_a_run_cannot_do_without_is_told_by_its_flag(mistake, tiny, flag, said):
    """Lightning's own words have other names, and a training of no batch was "done"."""
    line = mistake("fit", "-c", tiny, "--run_dir", "run", flag)
    assert said in line
    assert flag.partition("=")[0] in line or "torch_xla" in line
    assert not os.path.exists("run/checkpoints")


@pytest.mark.parametrize("name", [n for n, m in MODELS.items() if m.precisions == MIXED_PRECISIONS])
def test_a_precision_that_a_model_does_not_train_in_is_refused(name):
    for precision in ("64-true", 64, "16-true", "bf16-true", "transformer-engine"):
        config = {"trainer": {"precision": precision}, "model": {"class_path": f"zoo.{name}"}}
        with pytest.raises(ValueError, match=f"precision={precision}: {name} trains in 32-true, "):
            check_numbers(config)
    for precision in ("32", 32, "bf16", "bf16-mixed", 16, "16-mixed", None):
        config["trainer"]["precision"] = precision
        check_numbers(config)


def test_help_shows_the_ranges(zoo_cli):
    out = zoo_cli("sample", "--help")[1]
    assert "Annotated" not in out
    assert "int (1 or more)" in " ".join(out.split())
    assert "float (0, or 1e-06 or more)" in " ".join(out.split())


def test_a_range_is_what_it_says():
    assert 0 in Range(0, 1)
    assert 1 not in Range(0, 1, without_high=True)
    assert repr(Range(0, 1, without_high=True)) == "from 0 to 1 (not included)"
    for value in (math.nan, math.inf, -math.inf):
        assert value not in Range()

    def function(a: Annotated[int, Range(1)] | list[Annotated[int, Range(1)]] = 1) -> None: ...

    check_ranges(function, {"a": [3, 4], "other": -1})
    with pytest.raises(ValueError, match=r"a=\[3, 0\]: must be 1 or more"):
        check_ranges(function, {"a": [3, 0]})
    with pytest.raises(ValueError, match=r"a=1\.5: must be a whole number"):
        check_ranges(function, {"a": 1.5})
    with pytest.raises(ValueError, match="a=True: must be a number"):
        check_ranges(function, {"a": True})


def test_the_options_of_every_foreign_format_have_hints():
    for name, row in MODELS.items():
        exchange = importlib.import_module(row.exchange) if row.exchange else None
        for formats in (exchange.EXPORTERS, exchange.IMPORTERS) if exchange else ():
            for function in formats.get(name, {}).values():  # partial functions among them
                assert "return" in number_hints(function)
