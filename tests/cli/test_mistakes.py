"""Every mistake ends in one clear line and exit code 2, and loses nothing."""

import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo.data
from zoo.cli import run

PWNED = "pwned"


class Bomb:
    """Unpickles into a shell command."""

    def __reduce__(self):
        return os.system, (f"touch {PWNED}",)


@pytest.fixture
def fit(tiny, mistake):
    def run(*arguments):
        return mistake("fit", "-c", tiny, "--run_dir", "run", *arguments)

    return run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, tiny_yaml):
    """A finished run of two steps."""
    from zoo.cli import main

    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.yaml").write_text(tiny_yaml)
    flags = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "0"]
    assert main(["fit", "-c", f"{folder}/tiny.yaml", "--run_dir", f"{folder}/run", *flags]) == 0
    return folder / "run"


def test_a_checkpoint_with_a_pickled_object(mistake):
    torch.save({"state_dict": {}, "extra": Bomb()}, "bomb.ckpt")
    for verb in (["test", "--ckpt_path"], ["sample"], ["export"]):
        more = ["out"] if verb == ["export"] else []
        assert "bomb.ckpt holds pickled code (" in mistake(*verb, "bomb.ckpt", *more)
    assert not os.path.exists(PWNED)


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "builtins.exec", "shutil.rmtree"]
)
@pytest.mark.parametrize("where", ["model", "data", "callback"])
def test_a_config_that_names_a_class_it_may_not(mistake, tmp_path, path, where):
    spec = f"{{class_path: {path}, init_args: {{args: [touch, {PWNED}], command: touch {PWNED}}}}}"
    text = {
        "model": f"model: {spec}",
        "data": f"model: {{class_path: zoo.DDPM}}\ndata: {spec}",
        "callback": f"trainer: {{callbacks: [{spec}]}}",
    }[where]
    (tmp_path / "evil.yaml").write_text(text)
    line = mistake("fit", "-c", "evil.yaml", "--trainer.max_steps", 1)
    assert f"class path '{path}' is not allowed" in line
    assert not os.path.exists(PWNED)


def test_a_checkpoint_that_names_a_class_it_may_not(mistake):
    torch.save({"state_dict": {}, "hyper_parameters": {"_class_path": "os.system"}}, "evil.ckpt")
    assert "'os.system' is not a model of the zoo" in mistake("sample", "evil.ckpt")


def test_own_packages_can_be_trusted(monkeypatch, tmp_path, zoo_cli, tiny):
    (tmp_path / "mypackage.py").write_text(
        "from zoo.data import Digits\nclass Mine(Digits):\n    '''Mine.'''\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ZOO_TRUST", "mypackage")
    arguments = ["--data", "mypackage.Mine", "--trainer.max_steps", 1, "--run_dir", "run"]
    code, _, err = zoo_cli("fit", "-c", tiny, *arguments, "--trainer.limit_val_batches", 0)
    sys.modules.pop("mypackage", None)
    assert code == 0, err


@pytest.mark.parametrize("content", [b"", b"hello", "half"])
def test_a_damaged_checkpoint(mistake, fit, run_dir, content):
    if content == "half":
        whole = (run_dir / "checkpoints/last.ckpt").read_bytes()
        content = whole[: len(whole) // 2]
    with open("bad.ckpt", "wb") as file:
        file.write(content)
    for line in (mistake("test", "--ckpt_path", "bad.ckpt"), fit("--ckpt_path", "bad.ckpt")):
        assert "bad.ckpt is cut off or not a checkpoint" in line


def test_a_misspelt_key(mistake, fit, tiny, tmp_path):
    assert "no option '--model.widht': did you mean --model.width?" in fit("--model.widht", 3)
    assert "did you mean --trainer.max_steps?" in fit("--trainer.max_stps", 3)
    for written, meant in (
        ("model: {class_path: zoo.DDPM, init_args: {schedul: linear}}", "--model.schedule"),
        ("trainer: {max_stepz: 1}", "--trainer.max_steps"),
        ("modle: {class_path: zoo.DDPM}", "--model"),
    ):
        (tmp_path / "typo.yaml").write_text(written)
        assert f"did you mean {meant}?" in mistake("fit", "-c", tiny, "-c", "typo.yaml")


@pytest.mark.parametrize(
    ("flag", "value", "told"),
    [
        ("--model.groups", 3, "--model.groups=3: does not divide"),
        ("--model.multipliers", "[]", "--model.multipliers=[]: give"),
        ("--model.attention_levels", "[7]", "--model.attention_levels=[7]: [7] do not exist"),
        ("--model.eta", 1, "--model.eta=1.0 has no effect on --model.sampler=ancestral"),
        ("--model.multipliers", "x", "--model.multipliers: needs a list, such as '[x]'"),
        ("--model.width", "x", "--model.width: needs a whole number, got x"),
        ("--data.limit", "x", "--data.limit: needs a whole number, got x"),
        ("--trainer.gradient_clip_val", "x", "--trainer.gradient_clip_val: needs a number, got x"),
        ("--trainer.max_time", "abc", "--trainer.max_time=abc: give DD:HH:MM:SS"),
        ("--trainer.max_time", "{foo: 1}", "--trainer.max_time={'foo': 1}: give DD:HH:MM:SS"),
        ("--trainer.strategy", "dpp", "--trainer.strategy=dpp: did you mean ddp?"),
        ("--trainer.accelerator", "gpus", "--trainer.accelerator=gpus: did you mean gpu?"),
        ("--trainer.profiler", "x", "--trainer.profiler=x: known: simple, advanced, pytorch"),
        (
            "--trainer.callbacks",
            "EarlyStop",
            "no callback 'EarlyStop': did you mean EarlyStopping?",
        ),
        ("--trainer.callbacks", "EarlyStopping", "EarlyStopping needs --trainer.callbacks.monitor"),
        ("--data.foo", 1, "no option '--data.foo': see --help"),
        ("--model.attention", 1, "no option '--model.attention': did you mean --model.attention_l"),
    ],
)
def test_a_message_names_the_flag_that_was_typed(fit, flag, value, told):
    assert told in fit(flag, value)


def test_only_what_is_near_is_suggested(mistake):
    assert "no option '--foo': see --help" in mistake("sample", "x", "--foo", 1)
    assert "did you mean --steps?" in mistake("sample", "x", "--stpes", 1)


def test_a_value_that_does_not_fit(fit):
    assert "width" in fit("--model.width", "wide")
    assert "trainer.max_steps" in fit("--trainer.max_steps", "many")
    assert "linear" in fit("--model.schedule", "quadratic")


def test_unknown_names_suggest_the_nearest(mistake):
    assert "no model 'DDMP': did you mean DDPM?" in mistake("fit", "--model", "DDMP")
    assert "no data 'MINST': did you mean MNIST?" in mistake(
        "fit", "--model", "DDPM", "--data", "MINST", "--trainer.max_steps", 1
    )
    assert "did you mean ddpm/digits?" in mistake("fit", "-c", "ddpm/digts")


def test_what_is_missing_is_named(mistake, tiny):
    assert "--ckpt_path" in mistake("test", "-c", tiny)
    assert "there is no" in mistake("test", "-c", tiny, "--ckpt_path", "last")
    assert "no such checkpoint: nowhere" in mistake("sample", "nowhere")
    os.makedirs("empty")
    assert "no checkpoint in empty" in mistake("test", "--ckpt_path", "empty")
    assert "which model?" in mistake("fit", "--trainer.max_steps", 1)
    assert "which data?" in mistake("fit", "--model", "DDPM", "--trainer.max_steps", 1)
    assert "when does it end?" in mistake("fit", "-c", tiny, "--trainer.max_steps", -1)


def test_a_missing_folder_of_images(mistake, tiny):
    line = mistake("fit", "-c", tiny, "--data", "ImageFolder", "--data.root", "nowhere")
    assert "no folder nowhere" in line
    assert "MNIST" in mistake("fit", "-c", tiny, "--data", "MNIST", "--data.root", "nowhere")


def test_images_of_the_wrong_channel_count(fit):
    line = fit("--model.channels", 3)
    assert "leave out --model.channels" in line


def test_images_of_the_wrong_size(fit):
    assert "--model.image_size" in fit("--model.image_size", 16)


def test_a_batch_larger_than_the_data(fit):
    assert "200" in fit("--data.batch_size", 201)


def test_a_loss_that_is_not_finite(fit):
    line = fit("--model.lr", 1e30, "--trainer.gradient_clip_val", "null")
    assert "not finite" in line
    assert "learning rate" in line


def test_a_run_directory_is_not_overwritten(fit, run_dir, tiny, mistake):
    before = (run_dir / "checkpoints/last.ckpt").read_bytes()
    line = mistake("fit", "-c", tiny, "--run_dir", run_dir)
    assert "already holds a run" in line
    assert "--ckpt_path last" in line
    assert (run_dir / "checkpoints/last.ckpt").read_bytes() == before


def test_a_run_directory_that_cannot_be_made(mistake, tiny, tmp_path):
    for folder in ("tiny.yaml", "tiny.yaml/run", "/proc/run"):
        line = mistake("fit", "-c", tiny, "--run_dir", folder)
        assert f"--run_dir {folder} cannot be made: " in line


def test_weights_that_do_not_fit(mistake, run_dir):
    line = mistake("test", "--ckpt_path", run_dir, "--model.width", 16)
    assert "does not fit" in line


def test_options_that_a_command_does_not_have(mistake, run_dir):
    assert "--out" in mistake("sample", run_dir, "--out", "x.jpg")
    assert "--n" in mistake("sample", run_dir, "-n", 0)
    assert "did you mean --steps?" in mistake("sample", run_dir, "--stepz", 3)
    assert "diffusers" in mistake("export", run_dir, "out", "--format", "difusers")
    assert "no such file" in mistake("import", "nowhere", "out", "--format", "diffusers")
    line = mistake("import", run_dir / "checkpoints/last.ckpt", "out", "--format", "pesser")
    assert "--options" in line
    assert "'image_size'" in line
    options = ["--options.image_size", 8]
    line = mistake("import", run_dir / "config.yaml", "out", "--format", "pesser", *options)
    assert "config.yaml" in line


def test_an_option_of_a_format_is_true_or_false(mistake, run_dir):
    options = ["--format", "diffusers", "--options.drop_variance", "maybe"]
    line = mistake("export", run_dir, "out", *options)
    assert "--options.drop_variance='maybe': true or false?" in line
    assert not os.path.exists("out")


def test_an_export_can_be_tested(zoo_cli, run_dir, tiny):
    assert zoo_cli("export", run_dir, "export")[0] == 0
    code, _, err = zoo_cli("validate", "-c", tiny, "--ckpt_path", "export")
    assert code == 0, err


def test_warnings_of_the_zoo_are_lines_and_those_of_others_as_python_has_them(mistake):
    assert "nowhere" in mistake("sample", "nowhere")
    shown = warnings.formatwarning
    assert shown(UserWarning("a\nb"), UserWarning, zoo.data.__file__, 1) == "zoo: a b\n"
    assert shown(UserWarning("a"), UserWarning, "/x/y.py", 1) == "/x/y.py:1: UserWarning: a\n"


@pytest.mark.parametrize("first_ends", [True, False])
def test_what_all_processes_meet_is_said_by_the_first(zoo_cli, monkeypatch, first_ends):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(run, "_GRACE", 0)
    parents = iter([7, 1 if first_ends else 7])
    monkeypatch.setattr(run.os, "getppid", lambda: next(parents))
    code, _, err = zoo_cli("density", "no/such/run")
    assert code == 2
    assert ("zoo: error: " in err) is not first_ends


def test_the_timer_callback_is_told_by_its_flag(fit):
    line = fit("--trainer.callbacks+", "Timer", "--trainer.callbacks.duration", "00:00:00:05")
    assert "the Timer callback cannot be named here: give --trainer.max_time DD:HH:MM:SS" in line


def test_data_that_a_checkpoint_alone_names_are_not_fetched(mistake, run_dir, tmp_path):
    def trained_on(root):
        checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
        spec = {"class_path": "zoo.data.ImageFolder", "init_args": {"root": root, "size": 8}}
        checkpoint["zoo_config"]["data"] = spec
        torch.save(checkpoint, "theirs.ckpt")

    root = "http://127.0.0.1:9/shards.tar"
    trained_on(root)
    told = f"theirs.ckpt was trained on {root}, which no command has copied here yet: give --"
    for verb in ("test", "fit"):
        line = mistake(verb, "--ckpt_path", "theirs.ckpt", "--run_dir", tmp_path / verb)
        assert told + f"data.root {root}" in line
    asked = mistake("test", "--ckpt_path", "theirs.ckpt", "--data.root", root, "--run_dir", "asked")
    assert f"{root} cannot be read" in asked
    trained_on("ftp://host/shards.tar")
    assert "ftp:// is not read" in mistake("test", "--ckpt_path", "theirs.ckpt", "--run_dir", "ftp")


def test_an_export_never_hides_a_runs_checkpoints(run_dir, mistake, zoo_cli, tmp_path):
    """Every verb took the exported weights for the run's, also when it had been trained on."""
    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    for verb in (["export"], ["export", "--format", "diffusers"]):
        assert "run holds a run (last.ckpt): name another folder" in mistake(*verb, run, run)
    assert zoo_cli("export", run, "out")[0] == 0
    assert zoo_cli("export", run, "theirs", "--format", "diffusers")[0] == 0
    assert "holds a run" in mistake("import", "theirs", run, "--format", "diffusers")
    assert not (run / "config.json").exists()
    assert "out holds an exported model" in mistake(
        "fit", "-c", run / "config.yaml", "--run_dir", "out"
    )
    shutil.copy("out/config.json", run)
    for verb in (["sample"], ["test", "--ckpt_path"], ["report"]):
        assert "run holds a run and an exported model: move config.json" in mistake(*verb, run)
    assert "run holds a run and an exported model" in mistake(
        "fit", "--ckpt_path", "last", "--run_dir", run
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pictures", "files", "out", "--size", "[8]"), "--size must be a side or [height, width]"),
        (
            ("pictures", "files", "out"),
            "no images in files, only 1 .txt (no pictures): ROOT must hold",
        ),
        (("pictures", "nowhere", "out"), "no folder nowhere: give a folder or .zip of images"),
        (("pictures", "ready", "out"), "ready is prepared: --data.root takes it"),
        (("text", "tokens", "out"), "tokens is prepared: --data.root takes it"),
    ],
)
def test_what_cannot_be_prepared_is_told_in_the_words_of_the_verb(
    mistake, zoo_cli, arguments, said
):
    os.mkdir("files")
    Path("files/a.txt").write_text("some words of a text\n" * 99)
    os.mkdir("pictures")
    for i in range(20):
        Image.new("L", (9, 9), 9 * i).save(f"pictures/{i}.png")
    assert zoo_cli("prepare", "pictures", "pictures", "ready", "--size", 8)[0] == 0
    assert zoo_cli("prepare", "text", "files", "tokens")[0] == 0
    assert said in mistake("prepare", *arguments)
    assert not os.path.exists("out/index.json")


def test_an_output_that_cannot_be_is_told_before_the_work(mistake, monkeypatch):
    Path("file").touch()
    os.mkdir("folder")
    monkeypatch.setattr("zoo.cli.tune._tune_training", lambda *given: pytest.fail("measured"))
    for out, said in (("file/t.yaml", "file is a file, and no folder"), ("folder", "is a folder")):
        assert said in mistake("tune", "-c", "ddpm/digits", "--out", out)
        assert said in mistake("embed", "simbert/zh", "-i", "file", "-o", out)


@pytest.mark.parametrize(
    "name",
    ["hf:me/digits", "https://huggingface.co/me/digits", "https://hf.co/me/digits/tree/main"],
)
def test_the_address_of_a_repository_is_told_as_its_name(mistake, name):
    assert mistake("sample", name).endswith("a repository is hf://me/digits")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            "model: {class_path: zoo.VAE}\nmodel: {class_path: zoo.DDPM}\n",
            "the key model stands twice",
        ),
        (
            "ema:\n  decay: 0.9\n  decay: 0.8\n",
            "the key decay stands twice in one place, again in line 3",
        ),
        (
            "model: {init_args: {lr_schedule: {0.5: 1.0}}}\n",
            "the key 0.5 is no whole number",
        ),
        (
            "model: {init_args: {lr_schedule: {0:1.5}}}\n",
            "the key 0:1.5 is no whole number, or lacks the space behind its colon",
        ),
        ("Model: {class_path: zoo.DDPM}\n", "there is no section 'Model': did you mean model?"),
    ],
)
def test_a_key_that_would_be_lost_is_named(mistake, config, said):
    Path("c.yaml").write_text(config)
    line = mistake("fit", "-c", "c.yaml")
    assert "c.yaml" in line
    assert said in line


def test_an_optimiser_without_its_state_is_refused_and_leaves_nothing(run_dir, mistake):
    """It went on with averages of nothing; metrics.csv stayed behind as if there were a run."""
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    checkpoint["optimizer_states"][0]["state"].clear()
    torch.save(checkpoint, "x.ckpt")
    said = mistake("fit", "--ckpt_path", "x.ckpt", "--run_dir", "new", "--trainer.max_steps", 4)
    assert "x.ckpt: optimizer_states: no parameter has a state after 2 steps" in said
    assert not os.path.exists("new")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--model.lr", "1"), "--model: options of which class? Give --model NAME, or a recipe"),
        (("--data.root", "x"), "--data: options of which class? Give --data NAME, or a recipe"),
        (("--trainer.callbacks.monitor", "x"), "Give --trainer.callbacks NAME first (known: Batch"),
        (("--trainer.logger.save_dir", "x"), "Give --trainer.logger NAME first (known: CSVLogger"),
    ],
)
def test_options_without_their_class_ask_for_it(mistake, flags, said):
    assert said in mistake("fit", *flags)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--trainer.callbacks.patience=1.5", "patience: needs a whole number, got 1.5"),
        ("--trainer.callbacks.strict=7", "strict: needs true or false, got 7"),
        ("--trainer.callbacks.mode=less", "`mode` can be min, max, got less"),
    ],
)
@pytest.mark.parametrize("callbacks", ["--trainer.callbacks", "--trainer.callbacks+"])
def test_a_wrong_option_of_a_callback_is_named(mistake, callbacks, flag, said):
    given = (callbacks, "EarlyStopping", "--trainer.callbacks.monitor", "val/loss", flag)
    assert mistake("fit", "-c", "vae/digits", *given).endswith(said)


def test_a_callback_without_what_it_needs_says_so_in_one_sentence(mistake):
    line = mistake(
        "fit", "-c", "vae/digits", "--trainer.callbacks", "GradientAccumulationScheduler"
    )
    assert line.endswith("GradientAccumulationScheduler needs --trainer.callbacks.scheduling")
