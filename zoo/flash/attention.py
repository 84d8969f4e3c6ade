"""Mixed chunk attention: quadratic inside a chunk, linear across chunks.

arXiv 2202.10447, section 3; kexue.fm/archives/8934. For token t, number i of chunk g of c tokens,

    y_t = sum_{j <= i} a_ij v_{gc + j} + q_t^lin S_g / (g c),   S_g = sum_{h < g} K_h^lin^T V_h,

where a is one of `Score`. The state is divided by the number of tokens in it ("the first t terms
should be divided by t", the post), never by the length of the sequence. Without causality S is the
sum over all tokens, its own chunk's too, and is divided by their number.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.flash.chunk_state import ChunkState, prepend, wide
from zoo.flash.scores import Score, attend

GlobalNorm = Literal["tokens", "chunk"]
GEMM_CHUNKS = 128  # up to here one product with a triangle costs less than a cumulative sum


def mixed_chunk_attention(
    q_quad: Tensor,
    k_quad: Tensor,
    q_lin: Tensor,
    k_lin: Tensor,
    v: Tensor,
    *,
    chunk: int,
    causal: bool,
    score: Score,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    doc_ids: Tensor | None = None,
    state: ChunkState | None = None,
    global_norm: GlobalNorm = "tokens",
) -> Tensor:
    """Attention of all tokens at once, in time and memory linear in n.

    But the states of a causal text of up to 128 chunks, and of documents at any length, are one
    product with a triangle of the G = n / c chunks, G s e / c multiplications a token more: with
    documents the cost of a token grows with n.

    Exact with padding (masked tokens change nothing, however many there are) and with packed
    documents (no token sees another document, wherever in a chunk it begins).

    Args:
        q_quad: Queries inside a chunk, shape (B, n, s), rotated by their positions.
        k_quad: Keys inside a chunk, same shape.
        q_lin: Queries of the state, same shape.
        k_lin: Keys of the state, same shape.
        v: Values, shape (B, n, e).
        chunk: Tokens of a chunk, c.
        causal: No token sees a later one.
        score: Weights inside a chunk.
        bias: Added to the products inside a chunk, shape (c, c).
        key_mask: True where there is a token, bool, shape (B, n); everywhere if not given.
        doc_ids: Document of each token, integer, shape (B, n): a run of equal numbers is one.
        state: What came before, all rows equally long; is left as it is.
        global_norm: tokens divides the state by the number of its tokens; chunk, as FLASH-pytorch,
            by c if causal, else by n, padding and all.

    Returns:
        Shape (B, n, e).

    Raises:
        ValueError: A state comes with masks, with documents, without causality, is ragged or of
            another chunk; or documents are to be divided by n.
    """
    if doc_ids is not None and not causal and global_norm == "chunk":
        raise ValueError("global_norm=chunk divides by the length of all documents: use tokens")
    before = 0
    if state is not None:
        if state.v.shape[1] != chunk:
            raise ValueError(f"chunk={chunk} cannot go on with chunks of {state.v.shape[1]}")
        if not causal or key_mask is not None or doc_ids is not None:
            raise ValueError("a state continues causal sequences without masks and documents")
        (k_quad, k_lin, v), opened = prepend(state, k_quad, k_lin, v)
        q_quad, q_lin = (F.pad(q, (0, 0, opened, 0)) for q in (q_quad, q_lin))
        before = opened
    n = v.shape[1]
    pad = -n % chunk
    if pad:
        q_quad, k_quad, q_lin, k_lin, v = (
            F.pad(x, (0, 0, 0, pad)) for x in (q_quad, k_quad, q_lin, k_lin, v)
        )
        if key_mask is not None:
            key_mask = F.pad(key_mask, (0, pad))
        elif not causal:  # where no token sees a later one, none sees the padding
            key_mask = (torch.arange(n + pad, device=v.device) < n).expand(len(v), -1)
    B, G = v.shape[0], (n + pad) // chunk
    valid = None if key_mask is None else key_mask.reshape(B, G, chunk)
    runs = None if doc_ids is None else _runs(doc_ids, pad).reshape(B, G, chunk)
    mask = local_mask(chunk, causal, valid, runs, v.device)
    q, k, values = (x.reshape(B * G, chunk, x.shape[-1]) for x in (q_quad, k_quad, v))
    y = attend(q, k, values, score=score, bias=bias, mask=mask)
    q_lin, k_lin, v = (x.reshape(B, G, chunk, x.shape[-1]) for x in (q_lin, k_lin, v))
    if causal:
        y = _add_past(y, q_lin, k_lin, v, valid, runs, state, global_norm)
    elif runs is None:
        y = _add_whole(y, q_lin, k_lin, v, valid, n if global_norm == "chunk" else None)
    else:
        y = _add_documents(y, q_lin, k_lin, v, valid, runs)
    return y.reshape(B, n + pad, y.shape[-1])[:, before:n]


def _runs(doc_ids: Tensor, pad: int) -> Tensor:
    """Documents by their order, int64, so that none has the number of another; padding is -1."""
    runs = F.pad((doc_ids[:, 1:] != doc_ids[:, :-1]).cumsum(1), (1, 0))
    return F.pad(runs, (0, pad), value=-1)


def local_mask(
    chunk: int, causal: bool, valid: Tensor | None, runs: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which keys of its chunk a query sees, bool, (c, c) or (B G, 1 or c, c); None for all.

    `valid` (B, G, c) is where there is a token, `runs` (B, G, c) the document of each.
    """
    mask = None
    if causal:
        mask = torch.ones(chunk, chunk, dtype=torch.bool, device=device).tril()
    if runs is not None:
        same = (runs[..., :, None] == runs[..., None, :]).flatten(0, 1)
        mask = same if mask is None else same & mask
    if valid is not None:
        keys = valid[..., None, :].flatten(0, 1)
        mask = keys if mask is None else keys & mask
    return mask


def _add_past(
    y: Tensor,
    q_lin: Tensor,
    k_lin: Tensor,
    v: Tensor,
    valid: Tensor | None,
    runs: Tensor | None,
    state: ChunkState | None,
    global_norm: GlobalNorm,
) -> Tensor:
    """Adds q S_g / (tokens in S_g) to y (B G, c, e); the other shapes are (B, G, c, .).

    With documents a chunk hands on the tokens of its last document only, and its queries of its
    first document only read the state: all others have no past in another chunk.
    """
    B, G, c, s = k_lin.shape
    if G == 1 and state is None:
        return y
    kept = valid
    if runs is not None:
        first, last = runs[..., 0], runs[..., -1]
        q_lin = q_lin * (runs == first[..., None])[..., None]
        handed = runs == last[..., None]
        kept = handed if valid is None else handed & valid
    if kept is not None:
        k_lin = k_lin * kept[..., None]
    summaries = torch.matmul(k_lin.mT, v).reshape(B, G, -1)  # K_h^T V_h, (B, G, s e)
    if kept is None:
        counts = summaries.new_full((1, G), float(c), dtype=wide(summaries))
    else:
        counts = kept.sum(-1).to(wide(summaries))  # (B, G)
    triangle = None
    if G <= GEMM_CHUNKS or runs is not None:
        earlier = torch.ones(G, G, dtype=torch.bool, device=v.device).tril(-1)
        if runs is not None:
            earlier = earlier & (last[:, None, :] == first[:, :, None])  # (B, G, G)
        triangle = earlier.to(counts)
    # Tokens in the state, (1 or B, G): by no product, which autocast would round.
    if runs is None:
        seen = F.pad(counts.cumsum(-1)[:, :-1], (1, 0))
    else:
        assert triangle is not None
        seen = (triangle * counts[:, None]).sum(-1)
    if state is not None:
        seen = seen + state.lengths[0] // c * c
    scale = 1 / (seen.clamp(min=1) if global_norm == "tokens" else torch.full_like(seen, c))
    if triangle is not None:
        weights = (triangle * scale[..., None]).to(summaries.dtype)
        states = torch.matmul(weights, summaries)
    else:
        sums = summaries.to(wide(summaries)).cumsum(1)
        states = F.pad(sums[:, :-1], (0, 0, 1, 0)) * scale[..., None]
    if state is not None:
        states = states + state.summary.flatten(1)[:, None] * scale[..., None]
    states = states.reshape(B * G, s, -1).to(y.dtype)
    return torch.baddbmm(y, q_lin.reshape(B * G, c, s).to(y.dtype), states)


def _add_whole(
    y: Tensor, q_lin: Tensor, k_lin: Tensor, v: Tensor, valid: Tensor | None, length: int | None
) -> Tensor:
    """Adds q S / n, where S is of all n tokens, or n is the given length."""
    count = k_lin.new_full((1, 1, 1), float(k_lin.shape[1] * k_lin.shape[2]), dtype=wide(k_lin))
    if valid is not None:
        k_lin = k_lin * valid[..., None]
        count = valid.sum((1, 2)).to(count).clamp(min=1)[:, None, None]
    if length is not None:
        count = torch.full_like(count, length)
    summary = torch.bmm(k_lin.flatten(1, 2).mT, v.flatten(1, 2))
    summary = (summary / count).to(q_lin.dtype)
    return y + torch.bmm(q_lin.flatten(1, 2), summary).reshape(y.shape)


def _add_documents(
    y: Tensor, q_lin: Tensor, k_lin: Tensor, v: Tensor, valid: Tensor | None, runs: Tensor
) -> Tensor:
    """Adds q S_d / n_d, where S_d is of all n_d tokens of the query's document d.

    The own chunk's tokens by products of queries and keys, as many documents may be there; other
    chunks' by states: those before hand on their last document, those after their first.
    """
    B, G, c, s = k_lin.shape
    if valid is not None:
        k_lin = k_lin * valid[..., None]
    counted = torch.ones_like(runs) if valid is None else valid.long()
    number = runs.flatten(1) - runs.amin((1, 2))[:, None]
    per_document = torch.zeros_like(number).scatter_add_(1, number, counted.flatten(1))
    n = per_document.gather(1, number).clamp(min=1).reshape(B, G, c, 1)
    q_lin = (q_lin.to(wide(q_lin)) / n).to(q_lin.dtype)
    same = runs[..., :, None] == runs[..., None, :]
    own = (q_lin @ k_lin.mT).masked_fill(~same, 0.0) @ v
    first, last = runs[..., 0], runs[..., -1]
    order = torch.arange(G, device=v.device)
    total = own
    for mine, theirs, before in ((first, last, True), (last, first, False)):
        other = order[:, None] > order if before else order[:, None] < order
        other = other & (mine[:, :, None] == theirs[:, None, :])
        handed = k_lin * (runs == theirs[..., None])[..., None]
        summaries = (handed.mT @ v).reshape(B, G, -1)
        states = (other.to(summaries) @ summaries).reshape(B, G, s, -1)
        total = total + (q_lin * (runs == mine[..., None])[..., None]) @ states
    return y + total.reshape(y.shape)
