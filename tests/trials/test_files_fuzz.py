"""Saved indexes and sentence-transformers folders that nobody wrote on purpose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from tests.trials.test_untrusted_fuzz import FUZZ, clear, junk, mutations
from zoo.data.sentences.tokenizer import SPECIAL
from zoo.loading import build
from zoo.simbert.index import SentenceIndex
from zoo.simbert.interchange_sentences import from_sentence_transformers, to_sentence_transformers

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TEXTS = ["a", "b c", "句子"]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    vectors = torch.nn.functional.normalize(torch.arange(12.0).reshape(3, 4) + 1, dim=1)
    SentenceIndex(TEXTS, vectors, "f" * 64).save(tmp_path / "index")
    return tmp_path / "index"


def test_the_texts_and_the_model_of_an_index(index: Path) -> None:
    names = ["texts.json", "model.json"]
    contents = [json.loads((index / name).read_text("utf-8")) for name in names]

    @FUZZ
    @given(st.integers(0, 1), st.data())
    def check(i: int, data: Any) -> None:
        content = data.draw(mutations(contents[i]) | junk)
        for j, name in enumerate(names):
            value = content if i == j else contents[j]
            (index / name).write_text(json.dumps(value), "utf-8")

        def read() -> None:
            found = SentenceIndex.load(index)
            assert len(found.texts) == len(found.vectors) == 3

        clear(read, index)

    check()


def test_the_bytes_of_an_index(index: Path) -> None:
    names = ["texts.json", "model.json", "vectors.npy"]
    whole = {name: (index / name).read_bytes() for name in names}
    right = SentenceIndex.load(index).vectors

    @settings(FUZZ, max_examples=300)
    @given(st.sampled_from(names), st.data())
    def check(name: str, data: Any) -> None:
        content = bytearray(whole[name])
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        del content[data.draw(st.integers(0, len(content)) | st.just(len(content))) :]
        content += data.draw(st.binary(max_size=20))
        for other in names:
            (index / other).write_bytes(content if other == name else whole[other])

        def read() -> None:
            found = SentenceIndex.load(index)
            assert all(isinstance(text, str) for text in found.texts)
            assert found.vectors.shape[0] == right.shape[0] == len(found.texts)
            assert found.vectors.dtype == torch.float32

        clear(read, index)

    check()


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i8", "|O", "<U2", "<c8", "|V4", "<M8[s]"])
def test_headers_of_vectors_that_promise_anything(index: Path, dtype: str) -> None:
    file = index / "vectors.npy"

    @FUZZ
    @given(st.lists(st.sampled_from([-1, 0, 1, 3, 4, 2**31, 2**40, 2**63]), max_size=3))
    def check(shape: list[int]) -> None:
        text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
        header = text.encode().ljust(117) + b"\n"
        file.write_bytes(np.lib.format.magic(1, 0) + len(header).to_bytes(2, "little") + header)
        clear(lambda: SentenceIndex.load(index), index)

    check()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden": 8, "layers": 1, "heads": 2, "intermediate": 8, "max_positions": 8}
    model = zoo.SentenceSimilarity(vocab_size=8, head="cosent", **sizes)
    model.tokenizer.adopt([*SPECIAL, "a", "b", "c"][:8])
    to_sentence_transformers(dict(model.hparams), model.state_dict(), tmp_path / "st")
    return tmp_path / "st"


def read_folder(folder: Path) -> Any:
    return build("zoo.SentenceSimilarity", *from_sentence_transformers(folder), folder)


def test_the_settings_of_a_sentence_transformers_folder(folder: Path) -> None:
    files = sorted(folder.rglob("*.json"))
    contents = {file: json.loads(file.read_text("utf-8")) for file in files}
    names = [file.relative_to(folder).as_posix() for file in files]
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/config.json"} <= set(names)

    @settings(FUZZ, max_examples=250)
    @given(st.sampled_from(files), st.data())
    def check(file: Path, data: Any) -> None:
        content = data.draw(mutations(contents[file]) | junk)
        for other in files:
            value = content if other == file else contents[other]
            other.write_text(json.dumps(value), "utf-8")
        clear(lambda: read_folder(folder), folder)

    check()


def test_bytes_and_missing_files_of_a_sentence_transformers_folder(folder: Path) -> None:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    whole = {file: file.read_bytes() for file in files}

    @settings(FUZZ, max_examples=40)
    @given(st.sampled_from(files), st.data())
    def check(file: Path, data: Any) -> None:
        for other in files:
            other.write_bytes(whole[other])
        content = bytearray(whole[file])
        if data.draw(st.integers(0, 4)) == 0:
            file.unlink()
        else:
            head = min(len(content), 400) - 1
            content[data.draw(st.integers(0, head))] = data.draw(st.integers(0, 255))
            del content[data.draw(st.integers(0, head) | st.just(len(content))) :]
            file.write_bytes(content)
        clear(lambda: read_folder(folder), folder)

    check()
