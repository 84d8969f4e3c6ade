"""Other words for the same: each does what was meant, or says it in a line."""

import re

import pytest

from zoo.cli.run import parse_function
from zoo.cli.words import meant, names_of, synonym


@pytest.mark.parametrize(
    ("written", "means"),
    [
        (["ddpm/digits"], ["-c", "ddpm/digits"]),
        (["ddpm/digits", "-c", "bf16"], ["-c", "ddpm/digits", "-c", "bf16"]),
        (["--config=ddpm/digits"], ["--config", "ddpm/digits"]),
        (["--model", "ddpm"], ["--model", "DDPM"]),
        (["--model=VAE", "--data=digits"], ["--model", "VAE", "--data", "Digits"]),
        (["--data", "mine.Images"], ["--data", "mine.Images"]),
        (["--model.help", "flashlm"], ["--model.help", "FlashLM"]),
        (["-c", "vae/digits", "--data.help"], ["-c", "vae/digits", "--data.help", "Digits"]),
        (["--model.help", "-c", "ddpm/mnist"], ["--model.help", "DDPM", "-c", "ddpm/mnist"]),
        (["--data.root", "data", "--model.lr=1"], ["--data.root", "data", "--model.lr=1"]),
        (["--run_dir", "model", "--data", "stl10"], ["--run_dir", "model", "--data", "STL10"]),
    ],
)
def test_what_is_meant(written, means):
    expected = [w.rpartition(".")[2] if "." in w and not w.startswith("-") else w for w in means]
    found = [w.rpartition(".")[2] if "." in w and not w.startswith("-") else w
             for w in meant("fit", written)]  # fmt: skip
    assert found == expected


def test_what_means_nothing_is_told(mistake):
    assert "did you mean fit?" in mistake("train", "-c", "ddpm/digits")
    assert "did you mean test?" in mistake("eval")
    assert "-c needs a recipe" in mistake("fit", "-c", "ddpm/digits", "-c")
    assert "-c needs a recipe" in mistake("fit", "-c", "--model.lr", 1)
    assert "did you mean ddpm/digits?" in mistake("fit", "ddpm/digts")
    line = mistake("fit", "--data.help")
    assert all(name in line for name in names_of("data"))
    assert "ImageBatch" not in line


def test_other_names_of_arguments(mistake, tiny):
    assert "did you mean --model.lr?" in mistake("fit", "-c", tiny, "--model.learning_rate", 1)
    line = mistake("fit", "-c", tiny, "--trainer.epochs", 1)
    assert "did you mean --trainer.max_epochs?" in line
    assert synonym("learning_rate", ["lr_generator", "lr_critic"]) == "lr_generator"
    assert synonym("learning_rate", ["width"]) is None


@pytest.mark.parametrize("arguments", [["help", "list"], ["list", "--help"]])
def test_help_of_a_verb(zoo_cli, arguments):
    code, out, _ = zoo_cli(*arguments)
    assert code == 0
    assert "usage: zoo list" in out


def test_help_of_a_model_and_of_data(zoo_cli):
    code, out, err = zoo_cli("fit", "--model.help", "vae")
    assert code == 0, err
    assert "--model.latent_dim" in out
    assert "int (1 or more)" in " ".join(out.split())
    code, out, err = zoo_cli("help", "sample")
    assert code == 0, err
    assert "--columns" in out


CSV = "lightning.pytorch.loggers.CSVLogger"


@pytest.mark.parametrize(
    ("yaml", "flags"),
    [
        ("ema: {}", ["--trainer.logger", "CSVLogger"]),
        ("ema: {}", ["--trainer.logger=CSVLogger", "--trainer.logger.prefix=x"]),
        ("ema: {}", ["--trainer.logger", f"{{class_path: {CSV}}}"]),
        (f"trainer: {{logger: {{class_path: {CSV}}}}}", []),
        (f"trainer: {{logger: [{{class_path: {CSV}, init_args: {{prefix: x}}}}]}}", []),
        ("trainer: {logger: CSVLogger}", []),
    ],
)
def test_a_logger_without_a_folder_writes_below_the_run(zoo_cli, tiny, tmp_path, yaml, flags):
    more = tmp_path / "more.yaml"
    more.write_text(yaml)
    short = ["--trainer.max_steps", 5, "--trainer.limit_val_batches", 0, "--run_dir", "run"]
    code, _, err = zoo_cli("fit", tiny, "-c", more, *flags, *short)
    assert code == 0, err
    assert list((tmp_path / "run").rglob("lightning_logs/version_0/metrics.csv"))
    assert {p.name for p in tmp_path.iterdir()} == {"run", "tiny.yaml", "more.yaml"}


def test_a_logger_whose_package_is_not_here(mistake, tiny, tmp_path, monkeypatch):
    tensorboard = "lightning.pytorch.loggers.TensorBoardLogger"
    for name in ("tensorboard", "tensorboardX"):
        monkeypatch.setattr(f"lightning.fabric.loggers.tensorboard._{name.upper()}_AVAILABLE", 0)
    (tmp_path / "more.yaml").write_text(f"trainer: {{logger: {{class_path: {tensorboard}}}}}")
    for more in (["-c", "more.yaml"], ["--trainer.logger", "TensorBoardLogger"]):
        line = mistake("fit", tiny, *more, "--trainer.max_steps", 1)
        assert "TensorBoardLogger needs a package that is not here: pip install tensorboard" in line
        assert len(line) < 120


def test_no_warning_about_an_epoch_shorter_than_the_logging_interval(zoo_cli, tiny):
    short = ["--trainer.max_steps", 2, "--trainer.limit_val_batches", 0, "--run_dir", "run"]
    code, _, err = zoo_cli("fit", tiny, "--trainer.log_every_n_steps", 50, *short)
    assert code == 0, err
    assert "logging interval" not in err
    for word in ("litlogger", "LeafSpec", "Tip:"):
        assert not re.search(word, err)


def test_a_short_option_may_have_its_value_in_it():
    for given in (["-n", "4"], ["-n=4"], ["-n4"], ["--n=4"]):
        assert parse_function("sample", ["ddpm/digits", *given])[1]["n"] == 4
    assert parse_function("generate", ["flash/shakespeare", "-p=a=b"])[1]["prompt"] == "a=b"


def test_an_empty_list_is_told_to_be_empty(mistake):
    said = mistake("similar", "simbert/zh", "--index", "x", "--query", "[]")
    assert "--query [] is empty" in said
