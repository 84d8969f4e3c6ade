"""Whole models: three forms of one function, causality, padding, documents, counts."""

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from tests.flash.networks import small, tokens
from zoo.data.synthetic import recall_task
from zoo.data.text.language import NO_TARGET
from zoo.flash.block import GAUBlock
from zoo.flash.config import FlashConfig
from zoo.flash.gau import CrossGatedAttentionUnit, GatedAttentionUnit
from zoo.flash.module_lm import FlashLM
from zoo.flash.network import macs_per_token
from zoo.flash.norms import ScaleNorm
from zoo.flash.recompute import Recompute
from zoo.flash.scores import Score
from zoo.recipes import config_root

SCORES = ["relu2_paper", "relu2", "relu2_row", "softmax", "softmax_plus", "laplace"]
RICH = {"token_shift": True, "sinusoidal": True, "norm": "scale", "head_bias": True}
MODELS = [
    *(("flash", score, {}) for score in SCORES),
    *(("flash_quad", score, {}) for score in SCORES),
    ("transformer", "softmax", {}),
    ("flash", "relu2", {**RICH, "position_bias": True, "bias": True}),
    ("flash_quad", "relu2_row", {**RICH, "position_bias": True, "tied": False}),
    ("flash", "laplace", {"post_norm": True, "norm": "rms_plain"}),
    ("flash", "relu2_paper", {"global_norm": "chunk", "rotary_dim": 4}),
    ("flash", "relu2_paper", {"global_part": False, "pairing": "half"}),
]


def decoded(network, x, prefix):
    """Logits of all positions, the first `prefix` by prefill, the others a step each."""
    state = network.init_state(len(x))
    parts = []
    if prefix:
        features, state = network.prefill(x[:, :prefix], state)
        parts.append(network.logits(features))
    for t in range(prefix, x.shape[1]):
        parts.append(network.step(x[:, t], state)[:, None])
    return torch.cat(parts, 1)


@pytest.mark.parametrize(("kind", "score", "options"), MODELS)
@torch.no_grad()
def test_parallel_is_step_by_step_is_prefill_and_decode(kind, score, options):
    x = tokens(2, 29)
    network = small(kind, score, **options)
    whole = network(x)
    assert whole.std() > 0.1
    for prefix in (0, 1, 8, 21):
        torch.testing.assert_close(decoded(network, x, prefix), whole, rtol=0, atol=1e-12)
    network.float()
    whole = network(x)
    got = decoded(network, x, 13)
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-5 * whole.abs().max().item())


@pytest.mark.parametrize("recipe", ["recall-64", "recall-128"])
@torch.no_grad()
def test_recipes_of_recall_are_impossible_without_the_global_part(recipe):
    config = yaml.safe_load((config_root() / "flash" / f"{recipe}.yaml").read_text())
    own, data = config["model"]["init_args"], config["data"]["init_args"]
    index, n, pairs = torch.arange(8), data["sequence_length"], data["pairs"]
    x, targets = recall_task(0, index, n, data["symbols"], pairs, data["gap"])
    told = x.clone()  # other values, and the same questions
    start = n - 4 * pairs - data["gap"]
    told[:, start + 1 : start + 2 * pairs : 2] = own["vocab_size"] - 1
    asked = targets != NO_TARGET
    for global_part in (True, False):
        torch.manual_seed(0)
        model = FlashLM(**{**own, "init_std": 0.2, "global_part": global_part}).eval()
        difference = (model(x) - model(told))[asked].abs().max().item()
        assert difference > 1e-2 if global_part else difference == 0


@pytest.mark.parametrize(("kind", "score", "options"), MODELS)
@torch.no_grad()
def test_ragged_prompts_decode_as_each_alone(kind, score, options):
    network, x, lengths = small(kind, score, **options), tokens(3, 26), [3, 16, 9]
    prompts = torch.stack([x[b, : max(lengths)] for b in range(3)])
    _, state = network.prefill(prompts, network.init_state(3), lengths)
    assert state.lengths == lengths
    for i in range(10):
        got = network.step(torch.stack([x[b, n + i] for b, n in enumerate(lengths)]), state)
        for b, n in enumerate(lengths):
            alone = network(x[b : b + 1, : n + i + 1])[0, -1]
            torch.testing.assert_close(got[b], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "score", "options"), MODELS)
@torch.no_grad()
def test_causality_is_bitwise(kind, score, options):
    network, x = small(kind, score, dtype=torch.float32, **options), tokens(2, 29)
    before = network(x)
    x[:, 19] = (x[:, 19] + 1) % 11
    after = network(x)
    assert torch.equal(after[:, :19], before[:, :19])
    assert not torch.equal(after[:, 19], before[:, 19])


@pytest.mark.parametrize("kind", ["flash", "flash_quad", "transformer"])
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_padding_changes_nothing(kind, causal):
    for score in SCORES:
        network, x = small(kind, score, causal=causal), tokens(2, 21)
        alone = network(x)
        for extra in (1, 3, 40):
            padded = torch.cat([x, tokens(2, extra, 1)], 1)
            mask = torch.arange(21 + extra).expand(2, -1) < 21
            got = network(padded, key_mask=mask)[:, :21]
            torch.testing.assert_close(got, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["flash", "flash_quad", "transformer"])
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_packed_documents_are_separate_ones(kind, causal):
    lengths = [16, 8, 5]  # they begin on the chunks' grid, as the packing of documents makes them
    docs = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).expand(2, -1)
    for score in SCORES[: None if kind != "transformer" else 1]:
        network, x = (
            small(kind, score, causal=causal, token_shift=causal and kind == "flash"),
            tokens(2, 29),
        )
        packed = network(x, doc_ids=docs)
        alone = torch.cat([network(part) for part in x.split(lengths, 1)], 1)
        torch.testing.assert_close(packed, alone, rtol=0, atol=1e-11)


@torch.no_grad()
def test_documents_count_their_positions_from_0():
    docs = torch.tensor([[4] * 16 + [7] * 8 + [4] * 5, [1] * 8 + [2] * 8 + [3] * 13])
    network, x = small(sinusoidal=True), tokens(2, 29)
    packed = network(x, doc_ids=docs)
    for row, got, lengths in zip(x, packed, ([16, 8, 5], [8, 8, 13]), strict=True):
        alone = torch.cat([network(part[None])[0] for part in row.split(lengths)])
        torch.testing.assert_close(got, alone, rtol=0, atol=1e-11)


@torch.no_grad()
def test_no_document_sees_another_wherever_it_begins():
    docs = torch.repeat_interleave(torch.arange(4), torch.tensor([5, 14, 3, 7])).expand(2, -1)
    for causal in (True, False):
        network, x = small(causal=causal), tokens(2, 29)
        before = network(x, doc_ids=docs)
        changed = torch.where(docs == 1, (x + 1) % 11, x)
        after = network(changed, doc_ids=docs)
        assert torch.equal(after[docs != 1], before[docs != 1])


@torch.no_grad()
def test_one_chunk_is_flash_quad():
    flash = small("flash", chunk=32, position_bias=True)
    quad = small("flash_quad", chunk=32, position_bias=True)
    weights = flash.state_dict()
    for name in weights:
        if name.endswith((".gamma", ".beta")):
            weights[name] = weights[name][:2]
    quad.load_state_dict(weights)
    x = tokens(2, 32)
    torch.testing.assert_close(flash(x), quad(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("expansion", [1, 2, 3])
@pytest.mark.parametrize("dim", [128, 768])
def test_three_kinds_have_equally_many_weights(dim, expansion):
    def count(kind):
        network = small(kind, dim=dim, depth=2, expanded=expansion * dim, head_size=64)
        return sum(p.numel() for p in network.layers.parameters())

    flash, quad, transformer = map(count, ("flash", "flash_quad", "transformer"))
    assert quad == pytest.approx(flash, rel=0.01)
    assert transformer == pytest.approx(flash, rel=0.01)


def counted(network, n):
    """FLOPs a token of a training step; nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        network(tokens(1, n).to("meta")).sum().backward()
    return counter.get_total_flops() / n


def saved_bytes(network, n):
    """Bytes a token that the forward pass keeps for the gradient."""
    storages = {}
    kept = [*network.parameters(), *network.buffers()]  # whatever the length
    weights = {p.untyped_storage()._cdata for p in kept}

    def pack(t):
        if t.untyped_storage()._cdata not in weights:
            storages[t.untyped_storage()._cdata] = t.untyped_storage()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = network(tokens(1, n).to("meta"))
    del output
    return sum(storage.nbytes() for storage in storages.values()) / n


@pytest.mark.parametrize("causal", [True, False])
def test_work_and_memory_a_token_do_not_grow_with_the_length(causal):
    sizes = {"dim": 256, "expanded": 512, "head_size": 128, "depth": 2, "dtype": torch.float32}
    network = small(chunk=256, causal=causal, **sizes).to("meta")
    lengths = [1024, 4096, 16384, 65536]
    work = [counted(network, n) for n in lengths]
    assert work == pytest.approx([work[0]] * 4, rel=0.03)
    memory = [saved_bytes(network, n) for n in lengths]
    assert memory == pytest.approx([memory[0]] * 4, rel=0.03)
    quad = small("flash_quad", causal=causal, **sizes).to("meta")
    assert counted(quad, 4096) > 2 * counted(quad, 1024)


@pytest.mark.parametrize("n", [128, 1024, 4096])
@pytest.mark.parametrize(
    ("kind", "causal"),
    # Causal attention to all is counted in full, as no kernel is there to leave its half out.
    [("flash", True), ("flash", False), ("flash_quad", False), ("transformer", False)],
)
def test_macs_are_the_counted_ones(kind, causal, n):
    network = small(kind, chunk=16, dim=32, expanded=64, head_size=16, causal=causal).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.features(tokens(1, n).to("meta"))
    expected = counter.get_total_flops() / 2 / n
    assert macs_per_token(network, n) == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_state_of_flash_does_not_grow():
    sizes = {}
    for kind in ("flash", "flash_quad", "transformer"):
        network = small(kind)
        for n in (8, 64, 200):
            _, state = network.prefill(tokens(2, n), network.init_state(2))
            sizes[kind, n] = state.nbytes()
    assert sizes["flash", 8] == sizes["flash", 64] == sizes["flash", 200]
    assert sizes["flash", 8] == 2 * 4 * 8 * (8 * (8 + 8 + 32) + 8 * 32)
    assert sizes["flash_quad", 200] == 25 * sizes["flash_quad", 8]
    assert sizes["transformer", 200] == 25 * sizes["transformer", 8]


@torch.no_grad()
def test_bfloat16_keeps_positions():
    """A model in bfloat16 is off by rounding, as much at position 4,000 as at the beginning."""
    exact = small(chunk=64, dim=32, expanded=64, head_size=16, dtype=torch.float32)
    x = tokens(1, 64).repeat(1, 64)
    expected = exact(x)
    got = small(chunk=64, dim=32, expanded=64, head_size=16, dtype=torch.bfloat16)(x).float()
    error = (got - expected).square().mean((0, 2)).sqrt() / expected.std()
    assert error[-512:].mean() < 1.5 * error[64:512].mean()
    assert error.mean() < 0.05
    network = small().bfloat16()
    cos, _ = network.rotary.tables(65536)
    full, _ = small().float().rotary.tables(65536)
    assert torch.equal(cos, full.bfloat16())


@torch.no_grad()
def test_sines_of_positions_are_exact_in_bfloat16():
    network = small(sinusoidal=True).bfloat16()
    network.embedding.weight.zero_()
    network.position_scale.fill_(1.0)
    rates = 10000 ** (-torch.arange(0, 16, 2).double() / 16)
    angles = torch.arange(3000).double()[:, None] * rates
    expected = torch.cat([angles.sin(), angles.cos()], -1)
    got = network.embed(tokens(1, 3000), None, [0])[0]
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2**-9)


@pytest.mark.parametrize("kind", ["flash", "flash_quad", "transformer"])
def test_checkpointing_gives_the_same_gradients(kind):
    x = tokens(2, 29)
    grads = []
    for checkpointing in (False, True):
        network = small(kind, checkpointing=checkpointing).train()
        network(x).square().sum().backward()
        grads.append([p.grad for p in network.parameters()])
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


def test_blocks_of_queries_are_the_whole():
    from zoo.flash.quadratic import quadratic_attention

    q, k, v = (torch.randn(2, 57, f, dtype=torch.float64, requires_grad=True) for f in (4, 4, 6))
    docs = torch.arange(57).expand(2, -1) // 10
    bias = torch.randn(20, dtype=torch.float64, requires_grad=True)
    for name in SCORES:
        outs = []
        for block in (64, 10):  # more than four of 10 are computed again for the gradient
            y = quadratic_attention(
                q, k, v, causal=True, score=Score(name, 16), bias=bias, doc_ids=docs, block=block
            )
            grads = torch.autograd.grad(y.square().sum(), (q, k, v, bias))
            outs.append([y, *grads])
        for one, two in zip(*outs, strict=True):
            torch.testing.assert_close(one, two)


# Initial statistics, kexue.fm/archives/8990


@torch.no_grad()
def test_all_of_a_unit_goes_through_silu():
    """U, V and Z of unit inputs have SiLU's moments."""
    torch.manual_seed(0)
    unit = GatedAttentionUnit(FlashConfig(dim=768), causal=True)
    torch.nn.init.normal_(unit.to_hidden.weight, std=768**-0.5)
    still = torch.ones(512, 64), torch.zeros(512, 64)
    u, v, copies = unit.project(torch.randn(1, 512, 768), still, Recompute(False))
    for part in (u, v, *copies):
        assert part.mean().item() == pytest.approx(0.2066, rel=0.05)
        assert part.square().mean().item() == pytest.approx(0.3557, rel=0.05)


@pytest.mark.parametrize(
    ("score", "gain", "rms"),
    [
        ("relu2", 1.0, 0.057),
        ("relu2_paper", 1.0, 0.0137),
        ("softmax", 1.0, 0.131),
        ("relu2", 0.5, 8.9e-5),
        ("relu2_paper", 0.5, 2.2e-5),
        ("softmax", 0.5, 0.0081),
    ],
)
@torch.no_grad()
def test_branch_of_unit_input(score, gain, rms):
    """LeCun's initialisation times a gain, d = 768, n = 512: the branch is small."""
    torch.manual_seed(0)
    config = FlashConfig(dim=768, kind="flash_quad", score=score, offsets=False)
    unit = GatedAttentionUnit(config, causal=False)
    for linear in (unit.to_hidden, unit.to_out):
        torch.nn.init.normal_(linear.weight, std=gain * linear.in_features**-0.5)
    one = torch.ones(512, 64), torch.zeros(512, 64)  # no rotation, as in the post
    y, _ = unit(torch.randn(1, 512, 768), one)
    assert y.square().mean().sqrt().item() == pytest.approx(rms, rel=0.15)


# Parts


@torch.no_grad()
def test_cross_attention_looks_at_the_context_only():
    torch.manual_seed(0)
    unit = CrossGatedAttentionUnit(8, 12, 4, context_dim=6).double()
    x, context = torch.randn(2, 5, 8).double(), torch.randn(2, 7, 6).double()
    whole = unit(x, context)
    padded = torch.cat([context, torch.randn(2, 9, 6).double()], 1)
    mask = torch.arange(16).expand(2, -1) < 7
    torch.testing.assert_close(unit(x, padded, mask), whole, rtol=0, atol=1e-13)
    # A query at a time, from the definition.
    silu = torch.nn.functional.silu
    for b in range(2):
        for t in range(5):
            u, q = silu(x[b, t] @ unit.to_query.weight.T).split([12, 4])
            v, k = silu(context[b] @ unit.to_key_value.weight.T).split([12, 4], -1)
            factor = torch.tensor(16.0).log() / torch.tensor(512.0).log()
            a = (factor.double() * (k @ q) / 2).softmax(0)
            expected = unit.to_out.weight @ (u * (a @ v))
            torch.testing.assert_close(whole[b, t], expected, rtol=0, atol=1e-6)


def test_scale_norm():
    norm = ScaleNorm(16).double()
    norm.g.data.fill_(3.0)
    x = torch.randn(4, 16, dtype=torch.float64)
    expected = 3 * x / x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x), expected)
    assert torch.equal(norm(torch.zeros(1, 16).double()), torch.zeros(1, 16).double())


@torch.no_grad()
def test_token_shift_moves_half_of_the_features_by_one():
    block = GAUBlock(FlashConfig(dim=4, head_size=4, token_shift=True), causal=True)
    x = torch.arange(12.0).reshape(1, 3, 4)
    expected = torch.tensor([[[0, 0, 2, 3], [0, 1, 6, 7], [4, 5, 10, 11.0]]])
    assert torch.equal(block._shift(x, None, None), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gau"}, "kind='gau'"),
        ({"dim": 0}, "dim=0"),
        ({"norm": "batch"}, "norm='batch'"),
        ({"kind": "transformer", "depth": 3}, "depth=3 must be even"),
        ({"kind": "transformer", "expanded": 8}, "e=8, s=8 have no more weights"),
        ({"rotary_dim": 64}, "rotary_dim=64"),
        ({"rotary_dim": 0}, "rotary_dim=0"),
        ({"dim": 17, "token_shift": True}, "dim=17"),
        ({"global_norm": "sum"}, "global_norm='sum'"),
        ({"chunk": 0}, "chunk=0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
