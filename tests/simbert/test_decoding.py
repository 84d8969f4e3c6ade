"""Generation against full passes, exhaustive search and the definitions."""

import itertools
from dataclasses import replace

import pytest
import torch

from tests.simbert.models import CHARACTERS, texts, tiny
from zoo.layers.choose import TokenSampling, choose
from zoo.layers.counter_rng import uniform
from zoo.simbert.decoding import _NUMBERS, NUCLEUS, beam_search, sample
from zoo.simbert.encoder import unilm_mask


def slow_sample(model, source, numbers, max_new, sampling):
    """The whole row anew for every token."""
    tokenizer, out = model.tokenizer, []
    for number in numbers:
        target = []
        for t in range(max_new):
            row = torch.tensor([[*source, *target]])
            segments = (torch.arange(row.shape[1]) >= len(source)).long()[None]
            hidden = model.net(row, segments, unilm_mask(segments, torch.tensor([row.shape[1]])))
            logits = model.net.logits(hidden[:, -1]).float()
            for i in (tokenizer.pad, tokenizer.unk, tokenizer.cls, tokenizer.mask):
                logits[:, i] = -torch.inf
            u = uniform(sampling.seed, torch.tensor([number]), t)
            target.append(choose(logits, u, sampling).item())
            if target[-1] == tokenizer.sep:
                break
        out.append(([i for i in target if i != tokenizer.sep], target[-1] == tokenizer.sep))
    return out


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@torch.no_grad()
def test_sampling_with_a_cache_is_sampling_without(positions):
    """Ragged sources in one batch, with the same uniform numbers."""
    model = tiny(positions=positions)
    sources = model.tokenizer.encode(texts(3, shortest=1), 20)
    sampling = TokenSampling(top_p=0.9, temperature=1.3, seed=5)
    made = sample(model, sources, 6, max_new=12, sampling=sampling)
    lengths = set()
    for i, (source, targets) in enumerate(zip(sources, made, strict=True)):
        numbers = [i * _NUMBERS + j for j in range(6)]
        expected = slow_sample(model, source, numbers, 12, sampling)
        assert [(t.tokens, t.finished) for t in targets] == expected
        lengths |= {len(t.tokens) for t in targets}
    assert len(lengths) > 2  # so that rows left the batch at different steps


def test_a_sample_depends_on_its_text_and_number_alone():
    model = tiny()
    sources = model.tokenizer.encode(texts(4), 20)
    whole = sample(model, sources, 5, max_new=10)
    for batch_size in (1, 3, 7):
        assert sample(model, sources, 5, max_new=10, batch_size=batch_size) == whole
    assert [t[:2] for t in whole] == sample(model, sources, 2, max_new=10)
    assert sample(model, sources, 5, max_new=10, sampling=replace(NUCLEUS, seed=1)) != whole


def test_a_long_text_does_not_shorten_the_targets_of_others():
    """Learned positions give each text a limit of its own."""
    model = tiny(positions="learned", max_positions=12)
    with torch.no_grad():
        model.net.head_bias[model.tokenizer.sep] -= 2
    sources = model.tokenizer.encode(["甲乙丙丁戊己庚辛", "甲乙", "丙丁戊"], 20)
    whole = sample(model, sources, 8, max_new=9)
    assert sample(model, sources, 8, max_new=9, batch_size=1) == whole
    longest = [max(len(target.tokens) for target in targets) for targets in whole]
    assert longest == [12 - 10, 12 - 4, 12 - 5]


@torch.no_grad()
def log_probabilities(model, source, longest):
    """log p of every target of at most `longest` tokens with its [SEP], by full passes."""
    tokenizer = model.tokenizer
    letters = [i for i in range(len(tokenizer)) if tokenizer.tokens[i] in CHARACTERS]
    found = {}
    for size in range(longest):
        for target in itertools.product(letters, repeat=size):
            row = [*source, *target, tokenizer.sep]
            segments = (torch.arange(len(row)) >= len(source)).long()[None]
            mask = unilm_mask(segments, torch.tensor([len(row)]))
            logits = model.net.logits(model.net(torch.tensor([row]), segments, mask))[0]
            for i in (tokenizer.pad, tokenizer.unk, tokenizer.cls, tokenizer.mask):
                logits[:, i] = -torch.inf
            own = logits.log_softmax(-1)[len(source) - 1 : -1]
            found[target] = own[torch.arange(size + 1), [*target, tokenizer.sep]].sum().item()
    return found


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_targets(penalty):
    model = tiny(std=0.5)
    # Five letters, so that all targets of three tokens can be listed.
    model.tokenizer.adopt([*model.tokenizer.tokens[:10]])
    model.net.word_embeddings.weight = torch.nn.Parameter(model.net.word_embeddings.weight[:10])
    model.net.head_bias = torch.nn.Parameter(model.net.head_bias[:10])
    source = model.tokenizer.encode(["甲丙"], 9)[0]
    everything = log_probabilities(model, source, 3)
    score = {t: p / (len(t) + 1) ** penalty for t, p in everything.items()}
    best = sorted(score, key=lambda t: -score[t])[:4]
    (made,) = beam_search(model, [source], 4, beams=40, max_new=3, length_penalty=penalty)
    assert [tuple(t.tokens) for t in made] == best
    for target in made:
        expected = everything[tuple(target.tokens)]
        assert target.log_probability == pytest.approx(expected, rel=1e-4)


def test_paraphrases_are_new_ranked_and_without_special_tokens():
    model = tiny()
    text = texts(1, longest=4)[0]
    options = {"max_new": 6, "temperature": 1.5}
    found = model.paraphrase(text, 60, 60, **options)
    assert len(found) > 5
    assert model.paraphrase(text, 60, 5, **options) == found[:5]
    names = [one.text for one in found]
    assert len(set(names)) == len(names)
    assert text not in names
    assert all(set(name) <= set(CHARACTERS) for name in names)
    cosines = model.similarity([text], names)[0]
    assert cosines.tolist() == pytest.approx([one.similarity for one in found], abs=1e-5)
    assert all(a.similarity >= b.similarity for a, b in itertools.pairwise(found))
    together = model.paraphrases([text, texts(1, seed=3)[0]], 60, 60, **options)
    assert [one.text for one in together[0]] == names


def test_unfinished_sentences_are_dropped_or_marked():
    model = tiny()
    with torch.no_grad():
        model.net.head_bias[model.tokenizer.sep] = -100
    assert model.paraphrase("甲乙", 5, max_new=4) == []
    marked = model.paraphrase("甲乙", 5, max_new=4, unfinished="mark")
    assert len(marked) > 1
    assert not any(one.finished for one in marked)
    assert all(len(one.text) == 4 for one in marked)
    assert model.paraphrase("甲乙", 4, beams=4, max_new=4) == []
    cut = model.paraphrase("甲乙", 4, beams=4, max_new=4, unfinished="mark")
    assert len(cut) == 4
    assert not any(one.finished for one in cut)


def test_masks_in_the_source_change_what_is_generated():
    model = tiny()
    plain, masked = (
        [one.text for one in model.paraphrase(text, 20, max_new=6, unfinished="mark")]
        for text in ("甲乙丙", "甲[MASK]丙")
    )
    assert set(plain) != set(masked)


def test_beams_that_are_cut_come_after_the_finished_ones():
    model = tiny()
    source = model.tokenizer.encode(["甲丙"], 9)[0]
    (made,) = beam_search(model, [source], 40, beams=40, max_new=2)
    ends = [target.finished for target in made]
    assert len(made) == 40
    assert True in ends
    assert False in ends
    assert ends == sorted(ends, reverse=True)
    cut = [target for target in made if not target.finished]
    assert all(len(target.tokens) == 2 for target in cut)
    scores = [target.log_probability for target in cut]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_texts_in_one_beam_search_are_searched_as_alone(positions):
    """Ragged sources; with learned positions the longest has the least room for a target."""
    model = tiny(positions=positions, max_positions=14, std=0.3)
    sources = model.tokenizer.encode(["甲乙丙丁戊己庚辛", "甲乙", "丙丁戊", "己"], 20)
    options = {"beams": 5, "max_new": 8}
    together = beam_search(model, sources, 4, **options)
    ends = set()
    for batch_size in (1, 10, 15):
        assert [[t.tokens for t in targets] for targets in together] == [
            [t.tokens for t in targets]
            for targets in beam_search(model, sources, 4, batch_size=batch_size, **options)
        ]
    for source, targets in zip(sources, together, strict=True):
        (alone,) = beam_search(model, [source], 4, **options)
        assert [(t.tokens, t.finished) for t in targets] == [(t.tokens, t.finished) for t in alone]
        for a, b in zip(targets, alone, strict=True):
            assert a.log_probability == pytest.approx(b.log_probability, abs=1e-4)
        ends |= {t.finished for t in targets}
    assert len({len(t.tokens) for targets in together for t in targets}) > 2
    assert True in ends


@pytest.mark.parametrize(
    "option", [{"top_p": 0.5}, {"top_k": 3}, {"temperature": 0.5}, {"seed": 1}]
)
def test_what_beams_do_not_use_is_refused(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"{name}={value} has no effect with beams=2"):
        tiny().paraphrase("甲", beams=2, **option)


def test_wrong_options_are_told():
    model = tiny(positions="learned", max_positions=8)
    with pytest.raises(ValueError, match="n=0, k=20"):
        model.paraphrase("甲", 0)
    with pytest.raises(ValueError, match=r"top_p=0: need 0 < top_p <= 1"):
        model.paraphrase("甲", top_p=0)
    with pytest.raises(ValueError, match="unfinished='keep': choose drop or mark"):
        model.paraphrase("甲", unfinished="keep")
    with pytest.raises(ValueError, match="a source of 8 tokens leaves no room"):
        model.paraphrase("甲乙丙丁戊己")
    assert all(len(one.text) <= 4 for one in model.paraphrase("甲乙", 9, unfinished="mark"))
