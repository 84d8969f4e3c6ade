"""The encoder against transformers' modules with the same random weights."""

import pytest
import torch

from tests.simbert.models import tiny
from zoo.simbert.cache import KeyValueCache
from zoo.simbert.encoder import Encoder, padding_mask, unilm_mask

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

SIZES = {"vocab_size": 50, "hidden": 32, "layers": 3, "heads": 4, "intermediate": 48}


def randomise(module):
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "embed_positions" not in name:  # RoFormer's sines, which are no weights
                p.copy_(torch.randn(p.shape, generator=g) * 0.2 + ("Norm.weight" in name))


def ragged(rows=5, longest=11, seed=0):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([longest, *torch.randint(2, longest, (rows - 1,), generator=g)])
    tokens = torch.randint(1, 50, (rows, longest), generator=g)
    tokens[torch.arange(longest) >= lengths[:, None]] = 0
    return tokens, lengths


def load(encoder, theirs):
    """Copies weights by hand, so that the key map of the interchange is not its own judge."""
    base = theirs.base_model
    with torch.no_grad():
        own, e = encoder, base.embeddings
        own.word_embeddings.weight.copy_(e.word_embeddings.weight)
        own.type_embeddings.weight.copy_(e.token_type_embeddings.weight)
        own.embedding_norm.load_state_dict(e.LayerNorm.state_dict())
        if own.position_embeddings is not None:
            own.position_embeddings.weight.copy_(e.position_embeddings.weight)
        if own.embedding_project is not None:
            own.embedding_project.load_state_dict(base.embeddings_project.state_dict())
        for a, b in zip(own.layers, base.encoder.layer, strict=True):
            parts = [getattr(b.attention.self, n) for n in ("query", "key", "value")]
            a.qkv.weight.copy_(torch.cat([p.weight for p in parts]))
            a.qkv.bias.copy_(torch.cat([p.bias for p in parts]))
            a.attention_out.load_state_dict(b.attention.output.dense.state_dict())
            a.attention_norm.load_state_dict(b.attention.output.LayerNorm.state_dict())
            a.up.load_state_dict(b.intermediate.dense.state_dict())
            a.down.load_state_dict(b.output.dense.state_dict())
            a.norm.load_state_dict(b.output.LayerNorm.state_dict())
        head = theirs.cls.predictions
        own.head.load_state_dict(head.transform.dense.state_dict())
        own.head_norm.load_state_dict(head.transform.LayerNorm.state_dict())
        own.head_bias.copy_(head.bias)


def pair(kind, **options):
    transformers = pytest.importorskip("transformers")
    config = {
        "vocab_size": 50,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "attn_implementation": "eager",
    }
    if kind == "learned":
        theirs = transformers.BertForMaskedLM(transformers.BertConfig(**config))
    else:
        config |= {k: v for k, v in options.items() if k in ("embedding_size", "rotary_value")}
        theirs = transformers.RoFormerForMaskedLM(transformers.RoFormerConfig(**config))
    randomise(theirs)
    ours = Encoder(**SIZES, positions=kind, max_positions=40, **options)
    load(ours, theirs)
    return ours.eval(), theirs.eval()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("learned", {}),
        ("rotary", {}),
        ("rotary", {"embedding_size": 20}),
        ("rotary", {"rotary_value": True}),
    ],
)
def test_hidden_states_and_logits_are_transformers(kind, options):
    ours, theirs = pair(kind, **options)
    tokens, lengths = ragged()
    types = torch.randint(0, 2, tokens.shape, generator=torch.Generator().manual_seed(5))
    valid = torch.arange(tokens.shape[1]) < lengths[:, None]
    with torch.no_grad():
        hidden = ours(tokens, types, padding_mask(lengths, tokens.shape[1]))
        args = {"attention_mask": valid.long(), "token_type_ids": types}
        expected = theirs.base_model(tokens, **args).last_hidden_state
        torch.testing.assert_close(hidden[valid], expected[valid], rtol=0, atol=1e-5)
        logits = theirs(tokens, **args).logits
        torch.testing.assert_close(ours.logits(hidden)[valid], logits[valid], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "rotary"])
def test_unilm_is_transformers_with_a_four_dimensional_additive_mask(kind):
    # Version 4 takes none, 5.0 not in RoFormer.
    pytest.importorskip("transformers", minversion="5.24")
    ours, theirs = pair(kind)
    tokens, lengths = ragged()
    segments = (torch.arange(tokens.shape[1]) >= (lengths[:, None] // 2)).long()
    segments[torch.arange(tokens.shape[1]) >= lengths[:, None]] = 0
    mask = unilm_mask(segments, lengths)
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    valid = torch.arange(tokens.shape[1]) < lengths[:, None]
    with torch.no_grad():
        hidden = ours(tokens, segments, mask)
        expected = theirs.base_model(
            tokens, attention_mask=additive, token_type_ids=segments
        ).last_hidden_state
    torch.testing.assert_close(hidden[valid], expected[valid], rtol=0, atol=1e-5)


def test_the_unilm_mask_written_out():
    mask = unilm_mask(torch.tensor([[0, 0, 1, 1, 0]]), torch.tensor([4]))[0, 0]
    expected = [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],  # padding, which nobody reads
    ]
    assert mask.int().tolist() == expected


def encoder(**options):
    torch.manual_seed(0)
    model = Encoder(**SIZES, **options).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_the_source_does_not_see_the_target(positions):
    """So one forward pass serves both losses."""
    model = encoder(positions=positions)
    tokens = torch.randint(1, 50, (4, 12), generator=torch.Generator().manual_seed(0))
    segments = (torch.arange(12) >= 5).long().expand(4, 12)
    other = torch.where(segments == 1, 50 - tokens, tokens)
    mask = unilm_mask(segments, torch.full((4,), 12))
    with torch.no_grad():
        a, b = (model(t, segments, mask)[:, :5] for t in (tokens, other))
        alone = model(tokens[:, :5])
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    torch.testing.assert_close(a, alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_steps_with_a_cache_are_the_full_pass(positions):
    """Ragged sources, padded on the right; each row's target begins where its source ends."""
    model = encoder(positions=positions)
    sources, lengths = ragged(rows=4, longest=7)
    target = torch.randint(1, 50, (4, 5), generator=torch.Generator().manual_seed(9))
    cache = KeyValueCache(model.shape, 4, 12, device="cpu", dtype=torch.float32)
    seen = padding_mask(lengths, 7)
    steps = []
    with torch.no_grad():
        model(sources, mask=seen, cache=cache)
        for t in range(5):
            seen = torch.cat([seen, seen.new_ones(4, 1, 1, 1)], -1)
            now = (lengths + t)[:, None]
            steps.append(model(target[:, t : t + 1], torch.ones_like(now), seen, now, cache))
        for row in range(4):
            n = int(lengths[row])
            tokens = torch.cat([sources[row, :n], target[row]])[None]
            segments = (torch.arange(n + 5) >= n).long()[None]
            full = model(tokens, segments, unilm_mask(segments, torch.tensor([n + 5])))[0, n:]
            stepped = torch.stack([step[row, 0] for step in steps])
            torch.testing.assert_close(stepped, full, rtol=0, atol=1e-5)


def test_a_selected_cache_goes_on_as_the_rows_did():
    model = encoder()
    tokens = torch.randint(1, 50, (3, 6), generator=torch.Generator().manual_seed(3))
    cache = KeyValueCache(model.shape, 3, 8, device="cpu", dtype=torch.float32)
    rows = torch.tensor([2, 0, 2])
    with torch.no_grad():
        model(tokens, cache=cache)
        chosen = cache.select(rows[:2], 4)
        chosen.copy([0], [2])
        now, new = torch.full((3, 1), 6), torch.tensor([[4], [5], [6]])
        hidden = model(new, positions=now, cache=chosen)
        causal_source = torch.ones(7, 7, dtype=torch.bool)
        causal_source[:6, 6] = False
        expected = model(torch.cat([tokens[rows], new], 1), mask=causal_source)[:, 6:]
    torch.testing.assert_close(hidden, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("pooler", ["cls_linear", "cls", "mean"])
@pytest.mark.parametrize(
    "options", [{}, {"rotary_value": True}, {"positions": "learned", "max_positions": 16}]
)
def test_vectors_do_not_depend_on_padding(pooler, options):
    model = encoder(pooler=pooler, **options)
    tokens, lengths = ragged()
    with torch.no_grad():
        vectors = model.vectors(tokens, lengths)
        for row, n in enumerate(lengths.tolist()):
            own = model.vectors(tokens[row : row + 1, :n])
            torch.testing.assert_close(vectors[row : row + 1], own, rtol=0, atol=2e-6)
    if pooler == "cls_linear":
        first = model(tokens[:1])[:, 0]
        expected = first @ model.pooler.weight.T + model.pooler.bias  # no tanh
        torch.testing.assert_close(vectors[:1], expected, rtol=0, atol=2e-6)


def test_the_one_query_of_the_last_layer_has_its_attention_dropout():
    """Its kernel in evaluation is one of its own, and has none."""
    tokens, lengths = ragged()
    net = Encoder(**SIZES | {"layers": 1}, dropout=0.0, attention_dropout=0.5)
    torch.manual_seed(0)
    first, second = net.vectors(tokens, lengths), net.vectors(tokens, lengths)
    assert (first - second).abs().max() > 1e-3
    net.eval()
    torch.testing.assert_close(net.vectors(tokens, lengths), net.vectors(tokens, lengths))


def test_wrong_sizes_are_told():
    with pytest.raises(ValueError, match="does not divide into 5 heads"):
        Encoder(vocab_size=5, hidden=32, layers=1, heads=5)
    with pytest.raises(ValueError, match="positions='absolute': choose one of"):
        Encoder(vocab_size=5, hidden=32, layers=1, heads=4, positions="absolute")
    model = Encoder(**SIZES, positions="learned", max_positions=4)
    with pytest.raises(ValueError, match="a row of 5 tokens for a model of max_positions=4"):
        model(torch.zeros(1, 5).long())


@pytest.mark.parametrize("halves", [False, True])
def test_a_compiler_sees_one_graph(halves):
    net, tokens = tiny().net, torch.randint(5, 20, (2, 9))
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=halves):
        torch.testing.assert_close(compiled(tokens), net(tokens), rtol=0, atol=0.05)
