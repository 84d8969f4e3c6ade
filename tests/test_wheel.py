"""What is installed: data as zoo.data, and no name that a user's own project has."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from zoo.pretrained import names

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
OWN = "from zoo.data import Digits\nclass Mine(Digits):\n    'Of the project.'\n"
CONFIG = """
model:
  class_path: zoo.vae.module.VAE
  init_args: {image_size: 8, channels: 1, levels: 17, latent_dim: 2, hidden: [8]}
data: {class_path: datamodules.NAME, init_args: {batch_size: 32, limit: 100}}
trainer: {accelerator: cpu, max_steps: 2, limit_val_batches: 1, enable_progress_bar: false}
quality: {samples: 0}
"""
ZOO = ("-c", "import sys; from zoo.cli import main; sys.exit(main(sys.argv[1:]))")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project that has a `datamodules` of its own, with the wheel beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", folder, ROOT], check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    (folder / "datamodules").mkdir()
    (folder / "datamodules" / "__init__.py").write_text(OWN)
    for name in ("Digits", "Mine"):
        (folder / f"{name}.yaml").write_text(CONFIG.replace("NAME", name))
    return folder


def run(project, *arguments, **environment):
    path = {"PYTHONPATH": f"{project / 'site'}:{project}"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, **path, **environment},
    )


def trained_on(project, name):
    return yaml.safe_load((project / name / "config.yaml").read_text())["data"]["class_path"]


def test_the_wheel_has_one_package_and_all_of_it(project):
    site = project / "site"
    assert {p.name for p in site.iterdir() if not p.name.endswith(".dist-info")} == {"zoo"}
    for source, installed in (
        ("zoo", "zoo"),
        ("datamodules", "zoo/data"),
        ("configs", "zoo/configs"),
    ):
        tracked = subprocess.run(
            ["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for file in tracked:
            if file != "zoo/data":  # the checkout's link
                assert (site / installed / Path(file).relative_to(source)).is_file(), file


def test_a_project_keeps_its_own_datamodules(project):
    shown = run(project, "-c", "import zoo.data as d, datamodules as o; print(o.Mine, d.__file__)")
    assert "datamodules.Mine" in shown.stdout
    assert str(project / "site") in shown.stdout


def test_an_old_config_means_the_zoo(project):
    done = run(project, *ZOO, "fit", "-c", "Digits.yaml", "--run_dir", "old")
    assert done.returncode == 0, done.stderr
    assert trained_on(project, "old") == "zoo.data.Digits"
    assert run(project, *ZOO, "test", "--ckpt_path", "old").returncode == 0


def test_a_trusted_datamodules_is_the_users_own(project):
    done = run(project, *ZOO, "fit", "-c", "Mine.yaml", "--run_dir", "own", ZOO_TRUST="datamodules")
    assert done.returncode == 0, done.stderr
    assert trained_on(project, "own") == "datamodules.Mine"
    refused = run(project, *ZOO, "fit", "-c", "Mine.yaml", "--run_dir", "refused")
    assert refused.returncode == 2
    assert "Mine" in refused.stderr.splitlines()[-1]


@pytest.mark.skipif("ddpm/digits" not in names(), reason="no trained model ships yet")
def test_a_trained_model_is_in_the_wheel(project):
    shown = run(project, *ZOO, "list", "--weights")
    assert [line.split()[0] for line in shown.stdout.splitlines()[1 : 1 + len(names())]] == names()
    done = run(project, *ZOO, "sample", "ddpm/digits", "-n", "2", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert (project / "samples.png").is_file()
