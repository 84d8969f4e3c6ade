"""The algebra against dense references that write out each sum."""

import math

import pytest
import torch
from torch import Tensor

from zoo.flash import attention
from zoo.flash.attention import mixed_chunk_attention
from zoo.flash.chunk_state import ChunkState, advance, step
from zoo.flash.quadratic import quadratic_attention
from zoo.flash.scores import Score, attend

SCORES = ["relu2_paper", "relu2", "relu2_row", "softmax", "softmax_plus", "laplace"]
B, S, E, C = 2, 4, 6, 8


def inputs(n, seed=0, dtype=torch.float64, batch=B) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = [S, S, S, S, E]
    return [torch.randn(batch, n, f, generator=g, dtype=torch.float64).to(dtype) for f in shapes]


def weights(name, dot, bias, visible, size=C):
    """Rows of weights by the formulas of `Score`, for the keys that a query sees."""
    if name == "relu2_paper":
        return (dot / size + bias).relu() ** 2
    if name == "laplace":
        x = dot / size + bias
        sigma = math.sqrt(1 / (4 * math.pi))
        return (1 + torch.erf((x - math.sqrt(0.5)) / (sigma * math.sqrt(2)))) / 2
    scaled = dot / math.sqrt(S)
    if name == "relu2":
        return (scaled + bias).relu() ** 2 / size
    if name == "relu2_row":
        return (scaled + bias).relu() ** 2 / visible
    if name == "softmax_plus":
        scaled = scaled * math.log(max(visible, 16)) / math.log(512)
    return (scaled + bias).softmax(-1)


def reference(qq, kq, ql, kl, v, *, chunk, causal, name, bias, valid=None, docs=None):
    """A token at a time, from the definition."""
    n = v.shape[1]
    out = torch.zeros_like(v)
    for b in range(len(v)):
        for t in range(n):

            def ok(j, b=b, t=t):
                return (
                    (not causal or j <= t)
                    and (valid is None or bool(valid[b, j]))
                    and (docs is None or docs[b, j] == docs[b, t])
                )

            g = t // chunk
            local = [j for j in range(g * chunk, min((g + 1) * chunk, n)) if ok(j)]
            if local:
                row = bias[t % chunk, [j % chunk for j in local]]
                a = weights(name, kq[b, local] @ qq[b, t], row, len(local))
                out[b, t] += a @ v[b, local]
            far = [j for j in range(n) if ok(j) and (not causal or j < g * chunk)]
            for j in far:
                out[b, t] += (ql[b, t] @ kl[b, j]) * v[b, j] / len(far)
    return out


def bias_matrix(seed=5):
    return torch.randn(C, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [5, 8, 29, 32])
def test_is_the_definition(name, causal, n):
    x, bias = inputs(n), bias_matrix()
    got = mixed_chunk_attention(*x, chunk=C, causal=causal, score=Score(name, C), bias=bias)
    expected = reference(*x, chunk=C, causal=causal, name=name, bias=bias)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("prefix", [0, 1, 7, 8, 9, 16, 30, 52])
def test_parallel_is_step_by_step_is_prefill_and_decode(name, prefix, dtype):
    n = 53
    x, bias = inputs(n, dtype=dtype), bias_matrix().to(dtype)
    score = Score(name, C)
    whole = mixed_chunk_attention(*x, chunk=C, causal=True, score=score, bias=bias)
    state = ChunkState.empty(B, C, S, E, x[0])
    parts = []
    if prefix:
        head = [f[:, :prefix] for f in x]
        parts.append(
            mixed_chunk_attention(*head, chunk=C, causal=True, score=score, bias=bias, state=state)
        )
        state = advance(state, head[1], head[3], head[4], [prefix] * B)
    for t in range(prefix, n):
        y = step(*(f[:, t] for f in x), state, score=score, bias=bias[[t % C] * B])
        parts.append(y[:, None])
    got = torch.cat(parts, 1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5 * whole.abs().max().item()
    torch.testing.assert_close(got, whole, rtol=0, atol=tolerance)
    assert state.lengths == [n, n]


@pytest.mark.parametrize("name", SCORES)
def test_prefill_in_pieces_continues_the_state(name):
    x, score = inputs(53), Score(name, C)
    whole = mixed_chunk_attention(*x, chunk=C, causal=True, score=score)
    state, parts = ChunkState.empty(B, C, S, E, x[0]), []
    for start, end in [(0, 3), (3, 4), (4, 21), (21, 40), (40, 53)]:
        piece = [f[:, start:end] for f in x]
        parts.append(mixed_chunk_attention(*piece, chunk=C, causal=True, score=score, state=state))
        state = advance(state, piece[1], piece[3], piece[4], [end - start] * B)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_ragged_rows_decode_as_each_alone(name):
    lengths, more = [3, 16, 21], 20
    x, score, bias = inputs(45, batch=3), Score(name, C), bias_matrix()
    state = ChunkState.empty(3, C, S, E, x[0])
    state = advance(state, x[1][:, :21], x[3][:, :21], x[4][:, :21], lengths)
    outputs = []
    for i in range(more):
        rows = [torch.stack([f[b, n + i] for b, n in enumerate(lengths)]) for f in x]
        outputs.append(step(*rows, state, score=score, bias=bias[state.offsets]))
    got = torch.stack(outputs, 1)
    for b, n in enumerate(lengths):
        alone = [f[b : b + 1, : n + more] for f in x]
        whole = mixed_chunk_attention(*alone, chunk=C, causal=True, score=score, bias=bias)
        torch.testing.assert_close(got[b], whole[0, n:], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="token by token"):
        advance(state, x[1], x[3], x[4], [1, 1, 1])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_causality_is_bitwise(name, dtype):
    x, score = inputs(61, dtype=dtype), Score(name, C)
    before = mixed_chunk_attention(*x, chunk=C, causal=True, score=score)
    t = 35
    for f in x:
        f[:, t] = torch.randn_like(f[:, t])
    after = mixed_chunk_attention(*x, chunk=C, causal=True, score=score)
    assert torch.equal(after[:, :t], before[:, :t])
    assert not torch.equal(after[:, t:], before[:, t:])


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("m", [1, 8, 30, 47])
def test_a_prefix_does_not_know_what_follows(name, m, summed, monkeypatch):
    if summed:
        monkeypatch.setattr(attention, "GEMM_CHUNKS", 0)
    x, score = inputs(61), Score(name, C)
    whole = mixed_chunk_attention(*x, chunk=C, causal=True, score=score)
    prefix = mixed_chunk_attention(*(f[:, :m] for f in x), chunk=C, causal=True, score=score)
    # Bitwise by sums; a product with a larger triangle adds its zeros in another order.
    torch.testing.assert_close(prefix, whole[:, :m], rtol=0, atol=0 if summed else 1e-13)


def test_many_chunks_take_the_cumulative_sum(monkeypatch):
    x, options = inputs(300), {"chunk": 2, "causal": True, "score": Score("relu2", 2)}
    summed = mixed_chunk_attention(*x, **options)  # 150 chunks
    monkeypatch.setattr(attention, "GEMM_CHUNKS", 200)
    multiplied = mixed_chunk_attention(*x, **options)
    torch.testing.assert_close(summed, multiplied, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("chunk", [21, 64])
def test_one_chunk_is_quadratic_attention(name, chunk):
    x = inputs(21)
    score = Score(name, 16)
    ours = mixed_chunk_attention(*x, chunk=chunk, causal=True, score=score)
    quad = quadratic_attention(x[0], x[1], x[4], causal=True, score=score)
    torch.testing.assert_close(ours, quad, rtol=0, atol=1e-14)
    x[2], x[3] = 100 * x[2], 100 * x[3]
    again = mixed_chunk_attention(*x, chunk=chunk, causal=True, score=score)
    assert torch.equal(again, ours)  # the state has no part in it


@pytest.mark.parametrize("chunk", [3, 8, 21, 64])
def test_bidirectional_state_does_not_depend_on_the_chunk(chunk):
    x = inputs(21)
    x[0] = torch.zeros_like(x[0])
    got = mixed_chunk_attention(*x, chunk=chunk, causal=False, score=Score("relu2", 8))
    expected = x[2] @ (x[3].mT @ x[4]) / 21
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("extra", [1, 3, 11, 40])
def test_padding_changes_nothing(name, causal, extra):
    x, bias, score = inputs(21), bias_matrix(), Score(name, C)
    options = {"chunk": C, "causal": causal, "score": score, "bias": bias}
    alone = mixed_chunk_attention(*x, **options)
    padded = [torch.cat([f, torch.randn(B, extra, f.shape[-1]).double()], 1) for f in x]
    mask = torch.arange(21 + extra).expand(B, -1) < 21
    got = mixed_chunk_attention(*padded, **options, key_mask=mask)
    torch.testing.assert_close(got[:, :21], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("causal", [True, False])
def test_masked_tokens_anywhere_are_not_there(name, causal):
    x, bias = inputs(29), bias_matrix()
    valid = torch.rand(B, 29, generator=torch.Generator().manual_seed(3)) < 0.6
    valid[0, :C] = False  # a chunk of nothing
    got = mixed_chunk_attention(
        *x, chunk=C, causal=causal, score=Score(name, C), bias=bias, key_mask=valid
    )
    expected = reference(*x, chunk=C, causal=causal, name=name, bias=bias, valid=valid)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def packing(n, seed):
    """Document numbers of a random packing, in which a number may come again later."""
    g = torch.Generator().manual_seed(seed)
    cuts = torch.rand(B, n, generator=g) < [0.05, 0.2, 0.6][seed % 3]
    return cuts.cumsum(1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("seed", range(9))
def test_packed_documents_are_the_definition(causal, seed):
    n = 45
    x, bias, docs = inputs(n, seed), bias_matrix(), packing(n, seed)
    name = SCORES[seed % 6]
    valid = torch.rand(B, n) < 0.8 if seed % 2 else None
    got = mixed_chunk_attention(
        *x, chunk=C, causal=causal, score=Score(name, C), bias=bias, key_mask=valid,
        doc_ids=docs % 3,  # numbers come again: a document is a run of them
    )  # fmt: skip
    unique = torch.cat([(docs[:, :1] * 0), ((docs % 3)[:, 1:] != (docs % 3)[:, :-1]).cumsum(1)], 1)
    expected = reference(*x, chunk=C, causal=causal, name=name, bias=bias, valid=valid, docs=unique)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", SCORES)
def test_documents_on_the_grid_are_the_separate_ones(causal, name):
    lengths = [24, 8, 13]
    x, bias, score = inputs(45), bias_matrix(), Score(name, C)
    docs = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)).expand(B, -1)
    options = {"chunk": C, "causal": causal, "score": score, "bias": bias}
    packed = mixed_chunk_attention(*x, **options, doc_ids=docs)
    alone = [mixed_chunk_attention(*parts, **options) for parts in zip(
        *(f.split(lengths, 1) for f in x), strict=True)]  # fmt: skip
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=0, atol=1e-12)


def test_gradients():
    x = [f.requires_grad_() for f in [*inputs(2 * C + 3, batch=1), bias_matrix()]]
    for name in SCORES:
        for causal in (True, False):
            assert torch.autograd.gradcheck(
                lambda *x, name=name, causal=causal: mixed_chunk_attention(
                    *x[:5], chunk=C, causal=causal, score=Score(name, C), bias=x[5]
                ),
                x,
                fast_mode=True,
            )


@pytest.mark.parametrize("mask", [None, (C, C), (5, 1, C), (5, C, C)])
@pytest.mark.parametrize("bias", [None, (C, C), (5, C, C)])
def test_some_chunks_at_a_time_have_the_values_and_gradients_of_all(mask, bias, monkeypatch):
    g = torch.Generator().manual_seed(0)
    shapes = [(5, C, S), (5, C, S), (5, C, E), *([bias] if bias else [])]
    x = [torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes]
    hidden = None if mask is None else torch.rand(mask, generator=g) < 0.7
    found = []
    for pairs in (2**20, 2 * C * C, 1):  # all, two, and one at a time
        monkeypatch.setattr("zoo.flash.scores._PAIRS", pairs)
        y = attend(*x[:3], score=Score("relu2", C), bias=(*x, None)[3], mask=hidden)
        found.append([y, *torch.autograd.grad(y.sin().sum(), x)])
    for other in found[1:]:
        for one, all_at_once in zip(other, found[0], strict=True):
            torch.testing.assert_close(one, all_at_once, rtol=0, atol=1e-13)


def test_state_is_as_large_for_any_prefix():
    x = inputs(100)
    state = ChunkState.empty(B, C, S, E, x[0])
    empty = [t.shape for t in state.tensors()]
    assert [t.shape for t in advance(state, x[1], x[3], x[4], [100, 7]).tensors()] == empty


def test_laplace_meets_relu2_at_the_root_of_a_half():
    x = torch.tensor(math.sqrt(0.5), dtype=torch.float64, requires_grad=True)
    y = Score("laplace", 1).activate(x, None)
    (slope,) = torch.autograd.grad(y, x)
    assert y.item() == pytest.approx(0.5)
    assert slope.item() == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Score("relu", 8), "score='relu'"),
        (lambda: Score("relu2", 0), "size=0"),
    ],
)
def test_bad_scores_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_state_refuses_what_it_cannot_continue():
    x = inputs(9)
    state = ChunkState.empty(B, C, S, E, x[0])
    options = {"chunk": C, "score": Score("relu2", C), "state": state}
    with pytest.raises(ValueError, match="without masks"):
        mixed_chunk_attention(*x, causal=False, **options)
    with pytest.raises(ValueError, match="chunk=4 cannot go on with chunks of 8"):
        mixed_chunk_attention(*x, causal=True, **{**options, "chunk": 4})


def test_documents_are_not_divided_by_the_length_of_all():
    docs = torch.zeros(B, 9, dtype=torch.int64)
    with pytest.raises(ValueError, match="global_norm=chunk"):
        mixed_chunk_attention(
            *inputs(9), chunk=C, causal=False, score=Score("relu2", C), doc_ids=docs,
            global_norm="chunk",
        )  # fmt: skip


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_does_not_round_the_number_of_tokens_and_their_sum(autocast):
    """The mean of equal values is their value, also of 2,088, which is no bfloat16."""
    n, value = 2096, 255 / 128  # a bfloat16, beside which a mean of 0.4 % more is 2
    q, k, v = torch.zeros(1, n, S), torch.ones(1, n, S), torch.full((1, n, 1), value)
    q_lin = torch.eye(S)[:1].expand(1, n, S)
    x = [q, q, q_lin, k, v]
    x = x if autocast else [f.bfloat16() for f in x]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = mixed_chunk_attention(*x, chunk=C, causal=True, score=Score("relu2", C))
    assert (y[0, C:] == value).all()
    state = advance(ChunkState.empty(1, C, S, 1, x[0]), x[1], x[3], x[4], [n])
    assert (state.summary == n * value).all()
