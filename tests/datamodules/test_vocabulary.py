"""Symbols, their order and their numbers, there and back."""

import pytest

from zoo.data.text.vocabulary import Vocabulary


def test_symbols_are_sorted_by_count_and_then_by_themselves():
    vocabulary = Vocabulary.of(["b a b", "c c a b"], "word")
    assert vocabulary.symbols == ["</s>", "<unk>", "b", "a", "c"]
    assert vocabulary.end == 0
    assert vocabulary.encode("c d b").tolist() == [4, 1, 2]


def test_small_vocabularies_keep_the_most_frequent():
    texts = ["a a a b b c"]
    assert Vocabulary.of(texts, "word", size=4).symbols == ["</s>", "<unk>", "a", "b"]
    assert Vocabulary.of(texts, "word", min_count=3).symbols == ["</s>", "<unk>", "a"]


def test_the_texts_own_specials_count_once():
    """The Penn Treebank has <unk> in it; an end inside a sentence would cut it off."""
    vocabulary = Vocabulary.of(["<unk> a </s> <unk>"], "word")
    assert vocabulary.symbols == ["</s>", "<unk>", "a"]
    assert vocabulary.encode("<unk> a </s>").tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("level", "text"),
    [
        ("word", "pierre <unk> n.v. 's chairman"),
        ("wordpunct", "We know't, we know't; 'tis so: away!"),
        ("char", "two  spaces, é and 漢字"),
        ("byte", "é and 漢字\x00"),
    ],
)
def test_text_goes_round(level, text):
    vocabulary = Vocabulary.of([text], level)
    numbers = vocabulary.encode(text)
    expected = "We know't, we know't; ' tis so: away!" if level == "wordpunct" else text
    assert vocabulary.decode([*numbers, vocabulary.end, 0, 0]) == expected


def test_bytes_are_their_own_numbers():
    vocabulary = Vocabulary("byte")
    assert len(vocabulary) == 257
    assert vocabulary.encode("aé").tolist() == [97, 0xC3, 0xA9]
    odd = b"\xff\xfea".decode(errors="surrogateescape")
    assert vocabulary.encode(odd).tolist() == [255, 254, 97]
    assert vocabulary.decode([97, 0xC3, 256, 98]) == "a\ufffd"


@pytest.mark.parametrize(
    ("level", "number"), [("char", -1), ("char", 3), ("byte", -1), ("byte", 257)]
)
def test_a_number_of_no_symbol_is_refused(level, number):
    vocabulary = Vocabulary(level, ["</s>", "<unk>", "a"])
    with pytest.raises(ValueError, match=rf"from 0 to {len(vocabulary) - 1}, not \[2, {number}\]"):
        vocabulary.decode([2, number])


def test_wordpunct_parts_marks_from_words():
    vocabulary = Vocabulary.of(["Is't a verdict? No--more (talking)."], "wordpunct")
    known = set(vocabulary.symbols)
    assert known == {"</s>", "<unk>", "Is't", "a", "verdict", "?", "No", "-", "more", "(",
                     "talking", ")", "."}  # fmt: skip


def test_equality_is_of_level_and_symbols():
    assert Vocabulary.of(["a b"], "word") == Vocabulary.of(["b a"], "word")
    assert Vocabulary.of(["ab"], "word") != Vocabulary.of(["ab"], "char")
    assert Vocabulary.of(["a"], "word") != Vocabulary.of(["b"], "word")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("syllable",), "level='syllable': choose one of word, wordpunct, char, byte"),
        (("word", ["a", "b"]), "begins with </s> and <unk>"),
        (("word", ["</s>", "<unk>", "a", "a"]), "each symbol once"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(*arguments)


def test_characters_are_encoded_as_one_by_one():
    """Also those whose code is greater than that of every symbol."""
    words = Vocabulary.of(["今天天气不错", "a\n"], "char")
    text = "今天a不\U0010ffff\ud83d好\n</s>"
    naive = [words.symbols.index(c) if c in words.symbols else words.unknown for c in text]
    assert words.encode(text).tolist() == naive
    assert words.encode("").tolist() == []
    assert words.encode("天").dtype == "int64"
