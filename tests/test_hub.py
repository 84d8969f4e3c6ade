"""hf:// names and zoo push, against a hub on the loopback."""

import json
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save

import zoo
import zoo.pretrained.hub
from tests.hub import asked_instead, running
from tests.test_before import BEFORE
from zoo.pretrained import pinned

pytest.importorskip("huggingface_hub")
SMALL = {"image_size": 8, "latent_dim": 2, "hidden": [8], "levels": 17, "channels": 1}
NAME = "hf://someone/digits"
MORE = ("--trainer.max_steps", 2, "--trainer.limit_val_batches", 0)


@pytest.fixture(scope="module")
def server():
    with running() as found:
        yield found


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """An empty hub, and a cache of its own."""
    found, address = server
    found.__init__()
    asked_instead(monkeypatch, address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    zoo.pretrained.hub.fetch.cache_clear()
    return found


@pytest.fixture
def model():
    torch.manual_seed(0)
    return zoo.VAE(**SMALL).eval()


@pytest.fixture
def files(model, tmp_path):
    """The files of an export."""
    folder = zoo.save_pretrained(model, tmp_path / "export")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def same(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    zoo.pretrained.hub.fetch.cache_clear()


def test_a_repository_is_loaded_and_kept(hub, files, model, monkeypatch):
    first = hub.commit("someone/digits", {**files, "pytorch_model.bin": b"pickle"})
    assert same(zoo.load(NAME), model)
    assert pinned(NAME) == f"{NAME}@{first}"
    assert not any("pytorch_model" in request for request in hub.requests)
    hub.commit("someone/digits", {"config.json": b"{}"})
    offline(monkeypatch)
    before = len(hub.requests)
    assert same(zoo.load(NAME), model)
    assert same(zoo.load(f"{NAME}@{first}"), model)
    assert len(hub.requests) == before


def test_the_hub_may_be_down_where_the_cache_has_it(hub, files, model):
    hub.commit("someone/digits", files)
    zoo.load(NAME)
    hub.down = True
    zoo.pretrained.hub.fetch.cache_clear()
    assert same(zoo.load(NAME), model)


def test_a_revision_is_a_branch_or_a_commit(hub, files, tmp_path):
    old = hub.commit("someone/digits", files)
    other = zoo.save_pretrained(zoo.VAE(**SMALL), tmp_path / "other")
    new = {file.name: file.read_bytes() for file in other.iterdir()}
    hub.commit("someone/digits", new, branch="next")
    hub.commit("someone/digits", new)
    assert same(zoo.load(f"{NAME}@next"), zoo.load(other))
    assert not same(zoo.load(f"{NAME}@{old}"), zoo.load(other))
    assert pinned(f"{NAME}@{old}") == f"{NAME}@{old}"


def wrong(zoo_cli, name):
    code, _, err = zoo_cli("sample", name, "--out", "a.png")
    lines = err.strip().splitlines()
    assert code == 2, err
    assert "Traceback" not in err
    assert lines[-1].startswith("zoo: error: ")
    return lines[-1]


def test_what_is_wrong_is_said_in_a_line(hub, files, zoo_cli, monkeypatch):
    hub.commit("someone/digits", files)
    hub.commit("someone/pickles", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    hub.commit("someone/empty", {"notes.txt": b""})
    hub.commit("someone/foreign", {"config.json": b"{}", "model.safetensors": save({})})
    for name, said in {
        "hf://someone/nothing": "no such repository",
        f"{NAME}@v9": "no such branch, tag or commit",
        "hf://someone/pickles": "pytorch_model.bin, which can run code",
        "hf://someone/empty": "no config.json and no model.safetensors",
        "hf://someone/foreign": "not a folder of the zoo's",
        "hf://": "OWNER/REPO",
        "hf://a/b/c": "OWNER/REPO",
    }.items():
        assert said in wrong(zoo_cli, name), name
    offline(monkeypatch)
    assert "HF_HUB_OFFLINE" in wrong(zoo_cli, "hf://someone/elsewhere")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert "lightning-model-zoo[hub]" in wrong(zoo_cli, "hf://someone/elsewhere")


def test_a_file_that_breaks_off_is_never_loaded(hub, files, model, zoo_cli, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between its attempts
    hub.commit("someone/digits", files)
    hub.cut = "model.safetensors", 1000
    assert NAME in wrong(zoo_cli, NAME)
    hub.cut = None
    assert same(zoo.load(NAME), model)


def test_a_file_that_is_not_whole_has_another_checksum(hub, files, zoo_cli):
    weights = files["model.safetensors"]
    hub.commit("someone/digits", {**files, "model.safetensors": weights[:-100]})
    assert "model.safetensors" in wrong(zoo_cli, NAME)
    hub.commit("someone/other", {**files, "model.safetensors": weights[:-4] + b"abcd"})
    assert "checksum" in wrong(zoo_cli, "hf://someone/other")


@pytest.mark.filterwarnings("ignore:Use 'content=")  # of the library's own
def test_a_run_is_pushed_and_comes_back(hub, zoo_cli, tiny):
    fit = ("fit", "-c", tiny, "--run_dir", "run", "--trainer.max_steps", 2)
    assert zoo_cli(*fit, "--trainer.limit_val_batches", 0)[0] == 0
    code, out, err = zoo_cli("push", "run", "someone/new", "--private", "true")
    assert code == 0, err
    assert "no results.json" in out
    code, _, err = zoo_cli("test", "--ckpt_path", "run", "--trainer.limit_test_batches", 1)
    assert code == 0, err
    code, out, err = zoo_cli("push", "run", "hf://someone/new", "--licence", "apache-2.0")
    assert code == 0, err
    commit = hub.refs["someone/new", "main"]
    assert out.strip() == f"hf://someone/new@{commit}"
    assert same(zoo.load(f"hf://someone/new@{commit}"), zoo.load("run"))
    there = hub.repos["someone/new"][commit]
    assert {"README.md", "config.json", "model.safetensors", "results.json"} <= set(there)
    assert "private" in str(hub.created["someone/new"])
    _, header, text = there["README.md"].decode().split("---\n", 2)
    card = yaml.safe_load(header)
    assert card["license"] == "apache-2.0"
    measured = json.loads(there["results.json"])["metrics"]
    shown = card["model-index"][0]["results"]
    numbers = {m["type"]: m["value"] for result in shown for m in result["metrics"]}
    assert numbers["bits_per_dim"] == measured["test/bits_per_dim"]
    assert shown[0]["dataset"]["name"] == "Digits"
    assert 'zoo.load("hf://someone/new")' in text


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("[]", "expected a JSON object"),
        ('{"metrics": 5}', "results.json: metrics is no dict"),
        ('{"metrics": {"test/a": [1]}}', "is no record of a test"),
        ('{"metrics": {}, "licence": "x"}', "is no record of a test ('command')"),
        ("{", "results.json is not JSON"),
    ],
)
def test_results_of_anybody_are_no_card(hub, files, zoo_cli, record, said):
    Path("export/results.json").write_text(record)
    code, _, err = zoo_cli("push", "export", "someone/new")
    assert code == 2
    assert said in err.splitlines()[-1]
    assert not hub.repos


def test_a_space_is_made_of_page_and_weights(hub, model, zoo_cli, tmp_path):
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    zoo.save_pretrained(model, tmp_path / "model")
    code, out, err = zoo_cli("push", tmp_path / "model", "someone/page", "--space")
    assert code == 0, err
    assert out.strip() == "spaces/someone/page"
    made = hub.created["someone/page"]
    assert (made["type"], made["sdk"]) == ("space", "gradio")
    files = hub.repos["someone/page"][hub.refs["someone/page", "main"]]
    assert {"app.py", "requirements.txt", "README.md", "model/config.json"} < set(files)
    assert "model/model.safetensors" in files
    assert any("/api/spaces/someone/page/commit" in request for request in hub.requests)


def test_a_push_without_a_token_is_refused(hub, files, zoo_cli, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    code, _, err = zoo_cli("push", tmp_path / "export", "someone/new")
    assert code == 2
    assert "hf://someone/new" in err.splitlines()[-1]
    assert not hub.repos


def test_a_test_records_the_commit(hub, files, zoo_cli):
    commit = hub.commit("someone/digits", files)
    flags = ("--data", "Digits", "--run_dir", "tested", "--trainer.limit_test_batches", 1)
    code, _, err = zoo_cli("test", "--ckpt_path", NAME, *flags)
    assert code == 0, err
    assert f"{NAME}@{commit}" in err
    results = json.loads(Path("tested/results.json").read_text())
    assert results["checkpoint"] == f"{NAME}@{commit}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Total length of")  # an empty validation split
def test_a_fit_from_a_repository_records_the_commit(hub, zoo_cli):
    folder = BEFORE / "simbert"
    files = {file.name: file.read_bytes() for file in (folder / "exported").iterdir()}
    commit = hub.commit("someone/sentences", files)
    name = "hf://someone/sentences"
    for flag, key in (("--model.init", "init"), ("--ckpt_path", "ckpt_path")):
        fit = ("fit", "-c", folder / "config.yaml", flag, name, "--run_dir", key)
        code, _, err = zoo_cli(*fit, "--trainer.max_steps", 1, "--trainer.limit_val_batches", 0)
        assert code == 0, err
        config = yaml.safe_load(Path(key, "config.yaml").read_text())
        said = config["ckpt_path"] if key == "ckpt_path" else config["model"]["init_args"][key]
        assert said == f"{name}@{commit}"
    hub.down = True
    code, _, err = zoo_cli("fit", "--ckpt_path", "last", "--run_dir", "init", *MORE)
    assert code == 0, err
