"""Files that nobody wrote on purpose: every reader ends with its value or with one clear error."""

import copy
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import zoo
from zoo.cli.arguments import prepare
from zoo.cli.config_files import read_config
from zoo.cli.stored import stored_config
from zoo.ddpm.interchange import IMPORTERS as DDPM_IMPORTERS
from zoo.flash.interchange import IMPORTERS as FLASH_IMPORTERS
from zoo.loading import build, read_checkpoint
from zoo.simbert.interchange import read_folder
from zoo.training.state import check_state

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]
FUZZ = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SMALL = {"image_size": 8, "channels": 1, "timesteps": 4, "width": 8, "multipliers": [1]}
SMALL |= {"blocks": 1, "attention_levels": [], "groups": 4}

# What a field may hold instead of its value.
junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from([10**7, 10**12, -(10**12), 2**70, 10**400])
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["torch.load", "os.system", "zoo.DDPM", "../x", "/etc/passwd"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def paths_of(value: Any, prefix: tuple = ()) -> list[tuple]:
    """Every place inside a nested value."""
    found = [prefix] if prefix else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += paths_of(inner, (*prefix, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:3]):
            found += paths_of(inner, (*prefix, i))
    return found


def changed(value: Any, path: tuple, by: Any, *, drop: bool) -> Any:
    """A copy with another value, or none, at one place."""
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    if drop:
        del parent[path[-1]]
    else:
        parent[path[-1]] = by
    return value


@st.composite
def mutations(draw: Any, value: Any) -> Any:
    """A value with one or two places changed."""
    for _ in range(draw(st.integers(1, 2))):
        places = paths_of(value)
        if not places:
            break
        path = draw(st.sampled_from(places))
        value = changed(value, path, draw(junk), drop=draw(st.integers(0, 3)) == 0)
    return value


def clear(read: Callable[[], Any], file: Path | str) -> None:
    """Runs a reader, which may only end well or with a line that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read()
        except (ValueError, FileNotFoundError) as error:
            named = f"{error} {getattr(error, 'filename', '')}"
            if str(file) not in named:
                raise AssertionError(f"{file} is not named: {named}") from error


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return zoo.DDPM(**SMALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_yaml: str) -> Path:
    from zoo.cli import main

    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.yaml").write_text(tiny_yaml)
    flags = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "0"]
    assert main(["fit", "-c", f"{folder}/tiny.yaml", "--run_dir", f"{folder}/run", *flags]) == 0
    return folder / "run" / "checkpoints" / "last.ckpt"


def test_config_of_an_exported_folder(model: Any, tmp_path: Path) -> None:
    out = zoo.save_pretrained(model, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())

    @FUZZ
    @given(mutations(config) | junk)
    def check(content: Any) -> None:
        (out / "config.json").write_text(json.dumps(content))
        clear(lambda: zoo.load(out), out)

    check()


def test_fields_of_a_checkpoint(run: Path, tmp_path: Path) -> None:
    whole = torch.load(run, weights_only=True)
    file = tmp_path / "bad.ckpt"

    def read() -> None:
        checkpoint = read_checkpoint(file)
        check_state(checkpoint, file)
        stored_config(checkpoint, file, "fit")
        zoo.load(file)
        prepare("fit", ["--ckpt_path", str(file)])

    @FUZZ
    @given(mutations(whole))
    def check(content: Any) -> None:
        torch.save(content, file)
        clear(read, file)

    check()


def test_a_flipped_bit_of_a_checkpoint_is_told_or_harmless(run: Path, tmp_path: Path) -> None:
    whole = run.read_bytes()
    right = zoo.load(run).state_dict()
    file = tmp_path / "bad.ckpt"

    @FUZZ
    @given(st.integers(0, len(whole) - 1), st.integers(0, 7))
    def check(place: int, bit: int) -> None:
        content = bytearray(whole)
        content[place] ^= 1 << bit
        file.write_bytes(content)
        try:
            found = zoo.load(file).state_dict()
        except ValueError as error:
            if "bad.ckpt" not in str(error):
                raise
        else:
            assert all(torch.equal(found[key], value) for key, value in right.items())

    check()


def test_a_flipped_bit_of_an_exported_folder_is_told(model: Any, tmp_path: Path) -> None:
    out = zoo.save_pretrained(model, tmp_path / "out")
    weights = out / "model.safetensors"
    whole = weights.read_bytes()

    @FUZZ
    @given(st.integers(0, len(whole) - 1), st.integers(0, 7))
    def check(place: int, bit: int) -> None:
        content = bytearray(whole)
        content[place] ^= 1 << bit
        weights.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            zoo.load(out)

    check()


def test_a_diffusers_folder(model: Any, tmp_path: Path) -> None:
    from zoo.ddpm.interchange import EXPORTERS

    EXPORTERS["DDPM"]["diffusers"](dict(model.hparams), model.state_dict(), tmp_path)
    files = [tmp_path / "unet" / "config.json", tmp_path / "scheduler" / "scheduler_config.json"]
    contents = [json.loads(file.read_text()) for file in files]

    def read() -> None:
        build("zoo.DDPM", *DDPM_IMPORTERS["DDPM"]["diffusers"](tmp_path), tmp_path)

    @FUZZ
    @given(st.integers(0, 1).flatmap(lambda i: st.tuples(st.just(i), mutations(contents[i]))))
    def check(case: tuple[int, Any]) -> None:
        for i, file in enumerate(files):
            file.write_text(json.dumps(case[1] if i == case[0] else contents[i]))
        clear(read, tmp_path)

    check()


def test_a_transformers_folder(tmp_path: Path) -> None:
    from zoo.data.sentences.tokenizer import SPECIAL
    from zoo.simbert.interchange import to_transformers

    bert = zoo.SimBERT(vocab_size=8, hidden=8, layers=1, heads=2, intermediate=8, max_positions=8)
    bert.tokenizer.adopt([*SPECIAL, "a", "b", "c"][:8])
    to_transformers(dict(bert.hparams), bert.state_dict(), tmp_path)
    (tmp_path / "vocab.txt").unlink()
    names = ["config.json", "tokenizer_config.json", "tokenizer.json"]
    contents = [json.loads((tmp_path / name).read_text()) for name in names]

    def read() -> None:
        build("zoo.SimBERT", *read_folder(tmp_path), tmp_path)

    @FUZZ
    @given(st.integers(0, 2).flatmap(lambda i: st.tuples(st.just(i), mutations(contents[i]))))
    def check(case: tuple[int, Any]) -> None:
        for i, name in enumerate(names):
            content = case[1] if i == case[0] else contents[i]
            (tmp_path / name).write_text(json.dumps(content))
        clear(read, tmp_path)

    check()


def importers() -> dict[str, tuple[Callable, dict[str, Any]]]:
    found = {
        name: (DDPM_IMPORTERS["DDPM"][name], {"image_size": 8}) for name in ("openai", "pesser")
    }
    return found | {name: (importer, {}) for name, importer in FLASH_IMPORTERS["FlashMLM"].items()}


@pytest.mark.parametrize("name", importers())
def test_tensors_under_any_names(name: str, tmp_path: Path, capfd: Any) -> None:
    from zoo.cli import main

    known = {
        "openai": ["input_blocks.1.0.in_layers.2.weight", "input_blocks.1.0.emb_layers.1.weight"],
        "pesser": ["down.0.block.0.conv1.weight", "down.99999999.block.0.conv1.weight"],
        "gau-alpha": ["gau_alpha.embeddings.word_embeddings.weight"],
        "flash-pytorch-mlm": ["token_emb.weight", "layers.0.to_hidden.0.weight"],
    }[name]
    shapes = st.lists(st.integers(0, 3), max_size=4)
    options = [f"--options.{k}={v}" for k, v in importers()[name][1].items()]

    @settings(FUZZ, max_examples=10)
    @given(st.dictionaries(st.sampled_from(known), shapes, max_size=3))
    def check(tensors: dict[str, list[int]]) -> None:
        save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, "in.safetensors")
        code = main(["import", "in.safetensors", "out", f"--format={name}", *options])
        said = capfd.readouterr().err
        assert code == 2
        assert "in.safetensors" in said
        assert "Traceback" not in said

    check()


def test_bytes_that_are_no_checkpoint(tmp_path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"state_dict": {}}, whole)
    legacy = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(3)}}, legacy, _use_new_zipfile_serialization=False)
    file = tmp_path / "bad.ckpt"
    starts = st.sampled_from([b"", b"\x80\x02", whole.getvalue()[:60], legacy.getvalue()[:90]])

    @settings(FUZZ, max_examples=200)
    @given(starts, st.binary(max_size=60))
    def check(start: bytes, rest: bytes) -> None:
        file.write_bytes(start + rest)
        clear(lambda: zoo.load(file), file)

    check()


def test_yaml(tmp_path: Path, tiny_yaml: str, capfd: Any) -> None:
    import yaml

    from zoo.cli import main

    tiny = yaml.safe_load(tiny_yaml)
    file = tmp_path / "theirs.yaml"
    pieces = st.lists(
        st.sampled_from(
            ["a: ", "&a ", "*a", "- ", "[", "]", "{", "}", "\n", " ", "!!python/x ", "1"]
        )
    )

    @settings(FUZZ, max_examples=200)
    @given(pieces)
    def read(parts: list[str]) -> None:
        file.write_text("".join(parts))
        clear(lambda: read_config(file), file)

    @settings(FUZZ, max_examples=25)
    @given(mutations(tiny))
    def use(content: Any) -> None:
        file.write_text(yaml.safe_dump(content))
        code = main(["fit", "-c", str(file), "--print_config"])
        said = capfd.readouterr().err
        assert code in (0, 2)
        assert "Traceback" not in said
        if code == 2:
            assert len([line for line in said.splitlines() if line.startswith("zoo: error")]) == 1

    read()
    use()
