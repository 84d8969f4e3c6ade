"""One length for training, encoding and exchange; texts, indexes and folders of strangers."""

import io
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from tests.simbert.models import CHARACTERS, texts, tiny
from zoo.data import SimilarGroups
from zoo.simbert.index import SentenceIndex
from zoo.simbert.interchange_sentences import from_sentence_transformers, to_sentence_transformers

LONG = CHARACTERS * 6


def exported(folder, **options):
    model = tiny("SentenceSimilarity", **options)
    to_sentence_transformers(model.hparams, model.state_dict(), folder)
    return model


def lengths_of(folder):
    old = json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"]
    new = json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"]
    return old, new


def change(file, **values):
    held = json.loads(file.read_text()) if file.exists() else {}
    kept = {k: v for k, v in {**held, **values}.items() if v is not None}
    file.write_text(json.dumps(kept))


# One length


def test_the_length_of_the_training_is_the_models(tmp_path, caplog):
    rows = "\n".join(f"{a}\t{b}" for a, b in zip(texts(40, 1, 20, 30), texts(40, 2), strict=True))
    (tmp_path / "pairs.tsv").write_text(rows, encoding="utf-8")
    model = tiny()
    assert torch.equal(model.encode([LONG]), model.encode([LONG[:62]]))  # 64 with both ends
    data = SimilarGroups(root=str(tmp_path), max_length=12, batch_size=4, val_share=0, test_share=0)
    data.tokenizer = model.tokenizer
    data.setup()
    with caplog.at_level("INFO"):
        loader = data.train_dataloader()
    assert "50 % of the training sentences are longer than 12 tokens" in caplog.text
    assert max(int(batch.lengths.max()) for batch in loader) <= 24
    assert torch.equal(model.encode([LONG]), model.encode([LONG[:10]]))
    again = zoo.load(zoo.save_pretrained(model, tmp_path / "m"))
    assert again.tokenizer.length == 12
    assert torch.equal(again.encode([LONG]), model.encode([LONG[:10]]))
    other = SimilarGroups(root=str(tmp_path))
    other.tokenizer = again.tokenizer
    assert other.length == 12  # what no flag says, the model does


def test_words_are_cut_by_tokens_and_not_by_characters():
    tokenizer = tiny().tokenizer
    tokenizer.adopt([*tokenizer.tokens, "word", ",", "."])
    text = "word word, word word. word word"
    assert tokenizer.fitting([text], 8) == [text]
    assert tokenizer.fitting([text], 7) == ["word word"]  # the clause that fits
    assert tokenizer.fitting(["word " * 9], 5) == ["word word word word word"]
    assert tokenizer.share_cut([text, "word"], 9) == 0.5


def test_learned_positions_bound_the_length():
    model = tiny("SimBERT", positions="learned", max_positions=20)
    data = SimilarGroups()
    model.agree_on_length(data)
    assert model.tokenizer.length == 10
    data.max_length = 11
    with pytest.raises(ValueError, match=r"--data\.max_length=11: rows of 22 tokens for"):
        model.agree_on_length(data)
    free = tiny("SimBERT", positions="learned", max_positions=20)
    assert torch.equal(free.encode([LONG]), free.encode([LONG[:18]]))


def test_what_is_no_list_of_sentences_is_told():
    model = tiny()
    for wrong, message in (
        ([None], "number 0 is None"),
        (["甲", 1], "number 1 is 1"),
        ("甲乙", r"give \[text\]"),
        (b"ab", r"give \[text\]"),
        (None, r"not None: give \[text\]"),
        (["\ud800"], "sentence 0 holds half a surrogate pair"),
    ):
        with pytest.raises(ValueError, match=message):
            model.encode(wrong)
        with pytest.raises(ValueError, match=message):
            model.similarity(["甲"], wrong)
    assert model.encode([]).shape == (0, 16)
    assert model.encode(iter(["甲", "乙"])).shape == (2, 16)
    assert model.encode(np.array(["甲", "乙"])).shape == (2, 16)


# sentence-transformers' folders


@pytest.mark.parametrize(
    ("old", "new", "length"),
    [(9, 9, 9), (9, 30, 9), (None, 11, 11), (None, int(1e30), 40), (100, 7, 40), (None, None, 40)],
)
def test_a_folders_length_is_kept_and_written_back(tmp_path, old, new, length):
    exported(tmp_path / "a", max_positions=40)
    change(tmp_path / "a" / "sentence_bert_config.json", max_seq_length=old)
    change(tmp_path / "a" / "tokenizer_config.json", model_max_length=new)
    hparams, state = from_sentence_transformers(tmp_path / "a")
    model = zoo.SentenceSimilarity(**hparams)
    model.load_state_dict(state)
    assert model.tokenizer.length == length
    assert torch.equal(model.eval().encode([LONG]), model.encode([LONG[: length - 2]]))
    to_sentence_transformers(model.hparams, model.state_dict(), tmp_path / "b")
    assert lengths_of(tmp_path / "b") == (length, length)


@pytest.mark.slow
def test_sentence_transformers_cuts_where_encode_does(tmp_path):
    SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer
    model = tiny("SentenceSimilarity", pooler="mean", max_positions=32, positions="learned")
    to_sentence_transformers(model.hparams, model.state_dict(), tmp_path / "a")
    assert lengths_of(tmp_path / "a") == (32, 32)
    theirs = SentenceTransformer(str(tmp_path / "a"), device="cpu")
    assert theirs.max_seq_length == 32
    torch.testing.assert_close(torch.tensor(theirs.encode([LONG])), model.encode([LONG]))
    theirs.max_seq_length = 13
    theirs.save(str(tmp_path / "b"))
    hparams, state = from_sentence_transformers(tmp_path / "b")
    again = zoo.SentenceSimilarity(**hparams)
    again.load_state_dict(state)
    assert again.tokenizer.length == 13
    ours = again.eval().encode([LONG])
    torch.testing.assert_close(torch.tensor(theirs.encode([LONG])), ours)


def test_folders_of_strangers_are_refused_in_a_line(tmp_path, mistake):
    def broken(number, file, content):
        folder = tmp_path / f"f{number}"
        exported(folder)
        (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
        return mistake("import", folder, tmp_path / "out", "--format", "sentence-transformers")

    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    pooling = {**module, "path": "1_Pooling", "type": "a.Pooling"}
    for number, (file, content, message) in enumerate(
        [
            ("modules.json", {"a": 1}, "is no list of modules"),
            ("modules.json", [1], "a module without type and path"),
            ("modules.json", [{**module, "type": None}], "a module without type and path"),
            ("modules.json", [module, pooling, pooling], "two modules of type Pooling"),
            ("modules.json", [module, {**pooling, "path": "../x"}], "leads out of the folder"),
            ("modules.json", "[" * 100_000, "nested too deeply"),
            ("1_Pooling/config.json", [], "config.json"),
            ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pooling 'cls+mean'"),
            (
                "1_Pooling/config.json",
                {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
                "pooling 'cls_token+max_tokens'",
            ),
            ("2_Dense/config.json", {"activation_function": 3}, "not a square linear map"),
            ("2_Dense/config.json", "null", "config.json"),
            ("sentence_bert_config.json", {"max_seq_length": "x"}, "max_seq_length 'x' is no num"),
            ("sentence_bert_config.json", {"max_seq_length": -4}, "max_seq_length -4 is no numb"),
            ("config.json", {"model_type": "bert", "vocab_size": "9"}, "f13"),
            ("tokenizer_config.json", [1], "tokenizer_config.json"),
            ("2_Dense/model.safetensors", "nonsense", "model.safetensors"),
        ]
    ):
        assert message in broken(number, file, content), (file, content)
    exported(tmp_path / "w")
    file = tmp_path / "w" / "2_Dense" / "model.safetensors"
    weights = load_file(file)
    save_file({"linear.weight": weights["linear.weight"][:3].contiguous()}, file)
    line = mistake("import", tmp_path / "w", tmp_path / "o", "--format", "sentence-transformers")
    assert "linear.weight is not there with the shape (16, 16)" in line


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tokenizer_config.json", {"strip_accents": False}, "strip_accents False beside"),
        ("tokenizer_config.json", {"tokenize_chinese_chars": False}, "tokenize_chinese_chars Fal"),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}, "as BERT does"),
        ("tokenizer_config.json", {"do_lower_case": 3}, "neither true nor false"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case beside a tokenizer"),
    ],
)
def test_texts_that_are_split_in_another_way_are_refused(tmp_path, mistake, file, change, message):
    folder = tmp_path / "a"
    exported(folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, **change}))
    if file == "sentence_bert_config.json":
        other = folder / "tokenizer_config.json"
        other.write_text(json.dumps({**json.loads(other.read_text()), "do_lower_case": False}))
    line = mistake("import", folder, tmp_path / "o", "--format", "sentence-transformers")
    assert message in line


@pytest.mark.parametrize("lower", [True, False])
def test_a_tokenizer_by_its_file_says_itself_whether_it_lower_cases(tmp_path, lower):
    model = exported(tmp_path / "a")
    file = tmp_path / "a" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["normalizer"]["lowercase"] = lower
    file.write_text(json.dumps(content))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
    (tmp_path / "a" / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "a" / "vocab.txt").unlink()
    hparams, state = from_sentence_transformers(tmp_path / "a")
    again = zoo.SentenceSimilarity(**hparams)
    again.load_state_dict(state)
    assert (again.tokenizer.tokens, again.tokenizer.lower) == (model.tokenizer.tokens, lower)
    file.write_text(json.dumps({**content, "pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(ValueError, match=r"tokenizer\.json does not split texts as BERT does"):
        from_sentence_transformers(tmp_path / "a")


def test_a_prompt_before_every_sentence_is_told(tmp_path):
    exported(tmp_path / "a")
    settings = {"prompts": {"query": "query: ", "none": ""}, "default_prompt_name": "query"}
    file = tmp_path / "a" / "config_sentence_transformers.json"
    file.write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match="puts 'query: ' before every sentence, and encode does"):
        from_sentence_transformers(tmp_path / "a")
    for other in ({"default_prompt_name": None}, {"default_prompt_name": "none"}):
        file.write_text(json.dumps({**settings, **other}))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            from_sentence_transformers(tmp_path / "a")


# Indexes


def test_indexes_of_strangers_are_refused_in_a_line(tmp_path, mistake):
    model = tiny()
    zoo.save_pretrained(model, tmp_path / "m")
    folder = tmp_path / "index"
    good = model.encode(texts(6)).numpy()

    def array(value):
        return lambda file: np.save(file, value)

    def raw(data):
        return lambda file: file.write_bytes(data)

    def js(value):
        return raw(json.dumps(value).encode())

    packed = io.BytesIO()
    np.savez(packed, a=good)
    nan, short = good.copy(), good.copy()
    nan[2, 3] = np.nan
    short[1] /= 2
    for name, write, message in (
        ("vectors.npy", array(good.astype(np.float64)), "vectors.npy is no table of float32"),
        ("vectors.npy", array(good[0]), "vectors.npy is no table of float32"),
        ("vectors.npy", array(np.tile(good, (1000, 1))), "has 6000 vectors for 6 sentences"),
        ("vectors.npy", array(nan), "numbers that are not finite"),
        ("vectors.npy", array(short), "not of length 1"),
        ("vectors.npy", array(np.array([{"a": 1}], dtype=object)), "vectors.npy is cut off or no"),
        ("vectors.npy", raw(b""), "vectors.npy is cut off or no array"),
        ("vectors.npy", raw(b"nonsense" * 20), "vectors.npy is cut off or no array"),
        ("vectors.npy", raw(packed.getvalue()), "no table of float32"),
        ("texts.json", js({"a": 1}), "texts.json is no list of texts"),
        ("texts.json", js(["a", 2]), "texts.json is no list of texts"),
        ("texts.json", raw(b"[" * 100_000), "texts.json is not JSON: nested too deeply"),
        ("texts.json", raw(b"\xff"), "texts.json, line 1: not UTF-8"),
        ("model.json", js([1]), "model.json"),
        ("model.json", js({"fingerprint": 3}), "the fingerprint 3 is no text"),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        SentenceIndex(texts(6), torch.from_numpy(good)).save(folder)
        write(folder / name)
        line = mistake("similar", tmp_path / "m", "--index", folder, "--query", "甲")
        assert message in line, (name, message)
    SentenceIndex(texts(6), torch.from_numpy(good)).save(folder)
    data = (folder / "vectors.npy").read_bytes()
    (folder / "vectors.npy").write_bytes(data.replace(b"(6, 16), ", b"(6, 9999)"))
    line = mistake("similar", tmp_path / "m", "--index", folder, "--query", "甲")
    assert "vectors.npy is cut off or no array" in line
