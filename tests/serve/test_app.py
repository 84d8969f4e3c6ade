"""The verb, the app and the folder of a space; what needs Gradio is skipped without it."""

import gc
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import zoo
from zoo.pages import Number, Result, Tab
from zoo.serve.app import title_of

# Gradio leaves event loops open.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
SMALL = {"image_size": 8, "latent_dim": 2, "hidden": [8]}


def test_without_the_extra_a_line_says_how_to_get_it(mistake, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    said = mistake("serve", "ddpm/digits")
    assert said.endswith("pages need gradio: pip install 'lightning-model-zoo[serve]'")


def test_a_title_tells_no_path(tmp_path):
    assert title_of("ddpm/digits") == "ddpm/digits"
    assert title_of(str(tmp_path)) == tmp_path.name


def test_a_folder_is_of_a_space_only(mistake):
    assert "zoo export" in mistake("push", "ddpm/digits", "me/digits", "--out", "here")


@pytest.fixture
def gradio():
    yield pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    gc.collect()


@pytest.fixture
def handler(gradio):
    """What Gradio calls for a function of a number."""
    from zoo.serve.app import _handler

    def of(function, *results):
        controls = {"n": Number("Number", 1, 1, 9)}
        return _handler(gradio, Tab("Tab", function, controls, list(results)))

    return of


def test_a_mistake_is_one_escaped_message_and_a_bug_is_told_to_the_terminal(
    gradio, handler, capsys
):
    def broken(n):
        raise {1: ValueError("a\nb <i>"), 2: KeyError("c"), 3: MemoryError()}[n]

    run = handler(broken, Result("text", "Text"))
    for given, said in {
        10: "Number 10: must be from 1 to 9",
        1: "a b &lt;i&gt;",
        2: "KeyError, of which the terminal says more",
        3: "not enough memory: MemoryError: ask for fewer or shorter ones",
    }.items():
        with pytest.raises(gradio.Error) as error:
            list(run(given))
        assert error.value.message == said
        assert ("Traceback" in capsys.readouterr().err) == (given == 2)


def test_images_become_grids_and_the_last_frame_always_comes(handler):
    images = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 1, 8, 8)
    run = handler(lambda n: (images, "text"), Result("images", "I"), Result("text", "T"))
    [[grid, text]] = run(1)
    assert text == "text"
    levels = np.unique(grid)
    assert sorted({0, 85, 128, 170, 255}) == levels.tolist()
    assert 400 < grid.shape[1] < 600
    found = list(handler(lambda n: ((str(i),) for i in range(1000)), Result("text", "T"))(1))
    assert found[0] == "0"
    assert found[-1] == "999"
    assert len(found) < 100
    [points] = handler(lambda n: (torch.randn(50, 2),), Result("images", "P"))(1)
    assert points.ndim == 2


def test_an_app_tells_nothing_to_anyone_and_asks_nothing_of_anyone(gradio):
    from zoo.serve.app import app

    page = app(zoo.VAE(**SMALL), "small")
    assert page.analytics_enabled is False
    config = page.get_config_file()
    labels = {c["props"].get("label") for c in config["components"]}
    assert {"z1", "z2", "Number", "Seed", "Drawing", "Importance samples"} <= labels
    by_name = {each["api_name"]: each for each in config["dependencies"]}
    assert {"code", "samples", "draw"} <= set(by_name)
    limits = {f.concurrency_id for f in page.fns.values() if f.fn is not None}
    assert limits == {"model"}


@pytest.mark.slow
def test_a_port_that_is_taken_is_told_in_a_line(gradio, mistake):
    zoo.save_pretrained(zoo.VAE(**SMALL), "model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = mistake("serve", "model", "--port", port)
    assert f"cannot listen at 127.0.0.1, port {port}: give another --port or --host" in said


@pytest.mark.slow
def test_a_space_is_a_folder_that_runs(gradio, zoo_cli):
    zoo.save_pretrained(zoo.VAE(**SMALL), "model")
    code, out, err = zoo_cli(
        *("push", "model", "me/My digits'\"", "--space", "--out", "space"),
        *("--licence", "apache-2.0"),
    )
    assert code == 0, err
    assert "space/app.py" in out
    head = Path("space/README.md").read_text().split("---\n")[1]
    header = yaml.safe_load(head)
    assert header["sdk"] == "gradio"
    assert header["sdk_version"] == gradio.__version__
    assert header["app_file"] == "app.py"
    assert header["license"] == "apache-2.0"
    assert Path("space/requirements.txt").read_text().startswith("lightning-model-zoo[serve]")
    asked = "import runpy; print(runpy.run_path('space/app.py')['page'].title)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert done.stdout.strip() == "My digits'\"", done.stderr
    same = zoo.load("space/model").state_dict()
    assert all(torch.equal(v, same[k]) for k, v in zoo.load("model").state_dict().items())
