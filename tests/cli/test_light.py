"""What is answered without torch: help, version, list, unknown verbs."""

import subprocess
import sys
from types import ModuleType

import pytest

import zoo
from zoo.cli import main
from zoo.pretrained import list_models
from zoo.recipes import list_configs
from zoo.registry import COMMANDS, MODELS, TRAINER_VERBS


@pytest.mark.parametrize("arguments", [["list"], ["--version"], ["--help"], ["list", "*ddpm*"]])
def test_no_torch_is_imported(arguments):
    code = (
        "import sys; from zoo.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 10 * any(m in sys.modules for m in ('torch', 'lightning', 'yaml')))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_version(zoo_cli):
    assert zoo_cli("--version")[:2] == (0, f"zoo {zoo.__version__}\n")


def test_help_shows_every_verb(zoo_cli):
    code, out, _ = zoo_cli("--help")
    assert code == 0
    for verb in [*TRAINER_VERBS, "list", *COMMANDS]:
        assert f"  {verb} " in out


def test_list_shows_models_and_configs(zoo_cli):
    _, out, _ = zoo_cli("list")
    for name in [*MODELS, *list_configs()]:
        assert any(line.split()[:1] == [name] for line in out.splitlines())


def test_list_takes_a_pattern(zoo_cli):
    _, out, _ = zoo_cli("list", "ddpm/*")
    names = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert names == [name for name in list_configs() if name.startswith("ddpm/")]


def test_list_groups_by_family_and_says_what_a_recipe_needs(zoo_cli):
    _, out, _ = zoo_cli("list")
    heads = [line.split()[0] for line in out.splitlines() if line[:1].strip()]
    assert heads == ["models", "ddpm", "flash", "simbert", "vae", "wgan", "overlays"]
    lines = {line.split()[0]: line.split()[1] for line in out.splitlines() if line[:1] == " "}
    assert lines["ddpm/digits"] == "CPU"
    assert lines["ddpm/cifar10"] == "GPU"


def test_list_of_nothing_suggests(mistake):
    assert "did you mean ddpm/digits?" in mistake("list", "ddpm/digist")


def test_unknown_verb_suggests(mistake):
    assert "did you mean fit?" in mistake("fitt")


def test_list_models_matches_patterns():
    assert list_models("d*") == ["DDPM"]
    assert list_models("*vae-of-mars*") == []


def test_public_names_are_lazy_and_complete():
    assert set(MODELS) <= set(dir(zoo))
    with pytest.raises(AttributeError, match="no attribute 'DDPN'"):
        zoo.DDPN  # noqa: B018


@pytest.mark.parametrize("arguments", [["fit", "-c", "ddpm/digits"], ["list"]])
def test_ctrl_c_while_it_imports_is_a_line(arguments, monkeypatch, capsys):
    """Imports take seconds, in which people think better of it."""

    class Interrupted(ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    for name in ("zoo.cli.run", "zoo.cli.listing"):
        monkeypatch.setitem(sys.modules, name, Interrupted(name))
    assert main(arguments) == 130
    assert capsys.readouterr().err == "zoo: stopped\n"
