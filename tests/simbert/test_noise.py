"""Noise and batches, written out."""

from random import Random

import pytest
import torch

from zoo.data.sentences.batches import masked_batch, seq2seq_batch
from zoo.data.sentences.noise import noised, segmenter, words_of
from zoo.data.sentences.tokenizer import Tokenizer, train_tokens

TEXT = "广州和深圳哪个更好一些 abc"
TOKENIZER = Tokenizer(train_tokens([TEXT], 30))


def test_words_are_left_masked_kept_or_replaced_as_often_as_the_authors_code_does():
    rng = Random(0)
    words = [[7, 8]] * 40_000
    tokens, targets = noised(words, TOKENIZER, rng)
    counts = {"masked": 0, "replaced": 0, "kept": 0}
    for i in range(0, len(tokens), 2):
        new, told = tokens[i : i + 2], targets[i : i + 2]
        assert told in ([7, 8], [-1, -1])  # whole words
        if new == [TOKENIZER.mask] * 2:
            counts["masked"] += 1
            assert told == [7, 8]
        elif told == [7, 8]:
            counts["kept" if new == [7, 8] else "replaced"] += 1
            assert TOKENIZER.pad not in new
        else:
            assert new == [7, 8]
    for name, p in (("masked", 0.12), ("kept", 0.015), ("replaced", 0.015)):
        # A replaced word may be drawn as itself, once in 29 * 29.
        assert abs(counts[name] - 40_000 * p) < 4 * (40_000 * p) ** 0.5, name


def test_noise_is_a_function_of_its_seed():
    made = [
        noised(words_of(TEXT, TOKENIZER, None, rng), TOKENIZER, rng)
        for rng in (Random(3), Random(3), Random(4))
    ]
    assert made[0] == made[1]
    several = [words_of(TEXT, TOKENIZER, None, Random(i)) for i in range(5)]
    assert any(words != several[0] for words in several)


def test_spans_have_one_to_three_characters_and_never_cut_a_word_of_letters():
    whole = TOKENIZER.pieces_of([TEXT])[0]
    sizes = set()
    for seed in range(50):
        spans = words_of(TEXT, TOKENIZER, None, Random(seed))
        assert [i for span in spans for i in span] == whole
        for span in spans:
            sizes.add(len(TOKENIZER.words(span)))
            assert not TOKENIZER.tokens[span[0]].startswith("##")
    assert sizes == {1, 2, 3}


def test_a_segmenters_words_are_kept_whole():
    words = words_of("广州和深圳", TOKENIZER, lambda text: ["广州", "和", "深圳"], Random(0))
    names = [[TOKENIZER.tokens[i] for i in word] for word in words]
    assert names == [["广", "州"], ["和"], ["深", "圳"]]
    pytest.importorskip("jieba")
    words = words_of("广州和深圳", TOKENIZER, segmenter("jieba"), Random(0))
    assert [[TOKENIZER.tokens[i] for i in word] for word in words] == names
    with pytest.raises(ValueError, match="segmenter='pkuseg': give jieba"):
        segmenter("pkuseg")


def test_a_seq2seq_batch_written_out():
    """[CLS]=2 [SEP]=3: the source's last [SEP] predicts the first token of the target."""
    batch = seq2seq_batch(
        [[2, 10, 3], [2, 20, 21, 3]],
        [[20, 21, 3], [10, 3]],
        pad=0,
        group=[5, 5],
        texts=["a", "b"],
        index=[0, 1],
    )
    assert batch.tokens.tolist() == [[2, 10, 3, 20, 21, 3], [2, 20, 21, 3, 10, 3]]
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]]
    assert batch.places.tolist() == [2, 3, 4, 9, 10]
    assert batch.labels.tolist() == [20, 21, 3, 10, 3]
    assert batch.counts == [3, 2]
    # The author's way: predict token t + 1 at t, with the weight of its segment.
    weight = batch.segments[:, 1:].bool()
    expected = batch.tokens[:, 1:][weight]
    assert torch.equal(batch.labels, expected)


def test_a_masked_batch_written_out():
    batch = masked_batch(
        [[2, 4, 11, 3], [2, 4, 3]],
        [[-1, 10, -1, -1], [-1, 12, -1]],
        pad=0,
        texts=["a", "b"],
        index=[7, 8],
    )
    assert batch.tokens.tolist() == [[2, 4, 11, 3], [2, 4, 3, 0]]
    assert (batch.places.tolist(), batch.labels.tolist()) == ([1, 5], [10, 12])
    assert (batch.counts, batch.lengths.tolist()) == ([1, 1], [4, 3])
