"""The tokenizer against transformers', and its way through checkpoints."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.data import SimilarGroups
from zoo.data.sentences.tokenizer import (
    SPECIAL,
    Tokenizer,
    first_piece,
    pad_tokens,
    read_tokens,
    train_tokens,
)

TEXTS = [
    "广州和深圳哪个好？",
    "Four Rivers 委员会与 Audubon 委员会合并",
    "我 喜欢　北京！ 2021年",
    "naïve Café—ＡＢＣ",
    "",
    "a[MASK]b",
]


@pytest.fixture(scope="module")
def corpus():
    data = SimilarGroups()
    data.setup()
    return list(data.training_texts())[:400]


@pytest.fixture
def tokenizer(corpus):
    return Tokenizer(train_tokens([*corpus, *TEXTS[:4]], 3000))


@pytest.mark.filterwarnings("ignore")
def test_tokens_are_transformers(tokenizer, corpus, tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(tokenizer.tokens) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == len(tokenizer)  # one that ignores its file has five tokens
    texts = [*corpus[:100], *TEXTS[:5]]
    assert tokenizer.encode(texts, 40) == [
        theirs(text, max_length=40, truncation=True)["input_ids"] for text in texts
    ]


def test_a_mask_in_a_source_is_the_token(tokenizer):
    ids = tokenizer.encode_masked("我[MASK]北[MASK]", 20)
    assert ids == [
        tokenizer.cls,
        tokenizer.tokens.index("我"),
        tokenizer.mask,
        tokenizer.tokens.index("北"),
        tokenizer.mask,
        tokenizer.sep,
    ]
    assert tokenizer.mask not in tokenizer.encode(["我[MASK]"], 20)[0]


def test_decoding_gives_the_text_back(tokenizer):
    for text, expected in [
        ("广州和深圳哪个好？", "广州和深圳哪个好？"),
        ("Four Rivers 委员会与 Audubon", "four rivers委员会与audubon"),
    ]:
        assert tokenizer.decode(tokenizer.encode([text], 64)[0]) == expected


def test_a_trained_vocabulary_has_its_size_and_the_most_frequent():
    tokens = train_tokens(["好好好学习", "学习ab", "ab"], 9)
    assert tokens == [*SPECIAL, "好", "##b", "a", "习"]  # ties by code point
    assert train_tokens(["好"], 8) == [*SPECIAL, "好", "[unused1]", "[unused2]"]
    with pytest.raises(ValueError, match="vocab_size=5: 5 tokens are special"):
        train_tokens(["好"], 5)


def test_the_vocabulary_goes_with_the_weights(tokenizer, tmp_path):
    state = tokenizer.state_dict()
    assert set(state) == {"_extra_state"}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    for read in (
        load_file(tmp_path / "a.safetensors"),
        torch.load(tmp_path / "a.pt", weights_only=True),
    ):
        other = Tokenizer()
        other.load_state_dict(read)
        assert other.tokens == tokenizer.tokens
        assert other.encode(TEXTS, 20) == tokenizer.encode(TEXTS, 20)


def test_wrong_vocabularies_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"has no \[MASK\]"):
        Tokenizer(SPECIAL[:4])
    with pytest.raises(ValueError, match="'好' twice"):
        Tokenizer([*SPECIAL, "好", "好"])
    (tmp_path / "vocab.txt").write_text("a\n\nb\n")
    with pytest.raises(ValueError, match="line 2: a token is empty"):
        read_tokens(tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match="a vocabulary of 6 tokens for a model of 5"):
        pad_tokens([*SPECIAL, "a"], 5)


@pytest.mark.parametrize(
    ("text", "length", "piece"),
    [
        ("短句。", 10, "短句。"),
        ("第一句话。第二句话。第三句", 10, "第一句话。第二句话"),
        ("一句很长很长的话，后面还有", 10, "一句很长很长的话"),
        ("一行\n两行三行四行五行", 6, "一行"),
        ("没有标点的很长的句子", 4, "没有标点"),
        ("？一句很长很长的话，后面还有", 10, "？一句很长很长的话"),
        ("。。第一句话。第二句话", 8, "。。第一句话"),
        ("！！！！！", 3, "！！！"),
    ],
)
def test_a_long_text_is_cut_at_the_best_place(text, length, piece):
    assert first_piece(text, length) == piece
