"""Losses against their formulas written out, in float64 where that matters."""

import math

import pytest
import torch
from torch.nn import functional as F

from zoo.simbert.losses import (
    contrastive,
    cosent,
    cosine_loss,
    cosine_matching,
    over_prefixes,
    sbert,
)


def vectors(n, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_contrastive_is_the_authors():
    """V V^T with the diagonal removed, scaled, against the neighbour in the pair."""
    v = vectors(8)
    unit = F.normalize(v.double(), dim=-1)
    s = 30 * (unit @ unit.T - 1e12 * torch.eye(8))
    idx = torch.arange(8)
    expected = F.cross_entropy(s, idx + 1 - 2 * (idx % 2))
    torch.testing.assert_close(contrastive(v, v, scale=30).double(), expected, rtol=1e-5, atol=0)


def test_flatnce_leaves_the_positive_out():
    v = vectors(6)
    unit = F.normalize(v.double(), dim=-1)
    s = 20 * unit @ unit.T
    expected = []
    for i in range(6):
        others = [s[i, j] for j in range(6) if j not in (i, i ^ 1)]
        expected.append(torch.stack(others).logsumexp(0) - s[i, i ^ 1])
    loss = contrastive(v, v, scale=20, kind="flatnce")
    torch.testing.assert_close(loss.double(), torch.stack(expected).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["infonce", "flatnce"])
def test_rows_without_negatives_have_no_loss(kind):
    """A batch of one pair; and a row whose negatives are all of its family."""
    v = vectors(2).requires_grad_()
    loss = contrastive(v, v, scale=20, kind=kind)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert v.grad.abs().max() < 1e-5
    v = vectors(6)
    excluded = torch.zeros(6, 6, dtype=torch.bool)
    excluded[0] = True
    some, rest = contrastive(v, v, scale=20, kind=kind, excluded=excluded), []
    unit = F.normalize(v, dim=-1)
    s = 20 * unit @ unit.T
    for i in range(1, 6):
        others = [s[i, j] for j in range(6) if j != i and (j != i ^ 1 or kind == "infonce")]
        rest.append(torch.stack(others).logsumexp(0) - s[i, i ^ 1])
    torch.testing.assert_close(some, torch.stack(rest).sum() / 6)


def test_flatnce_has_the_direction_of_xi_over_its_value():
    """kexue.fm/archives/8586: the gradient of log sum_{j != t} is that of xi / stop_grad(xi)."""
    v = vectors(4, seed=2).requires_grad_()
    contrastive(v, v, scale=5, kind="flatnce").backward()
    own, v.grad = v.grad.clone(), None
    unit = F.normalize(v, dim=-1)
    s = 5 * unit @ unit.T
    losses = []
    for i in range(4):
        xi = sum((s[i, j] - s[i, i ^ 1]).exp() for j in range(4) if j not in (i, i ^ 1))
        losses.append(xi / xi.detach())
    torch.stack(losses).mean().backward()
    torch.testing.assert_close(own, v.grad, rtol=1e-4, atol=1e-6)


def test_excluded_columns_are_no_negatives_but_the_positive_stays():
    v = vectors(4)
    excluded = torch.zeros(4, 4, dtype=torch.bool)
    excluded[0] = True
    unit = F.normalize(v, dim=-1)
    s = 10 * unit @ unit.T
    rows = [s.new_zeros(())]
    for i in (1, 2, 3):
        others = torch.stack([s[i, j] for j in range(4) if j != i])
        rows.append(others.logsumexp(0) - s[i, i ^ 1])
    loss = contrastive(v, v, scale=10, excluded=excluded)
    torch.testing.assert_close(loss, torch.stack(rows).mean())


@pytest.mark.parametrize("kind", ["infonce", "flatnce"])
def test_rows_of_two_processes_have_the_mean_and_gradient_of_one(kind):
    v = vectors(8).requires_grad_()
    whole = contrastive(v, v, scale=20, kind=kind)
    parts = [contrastive(v[i : i + 4], v, scale=20, offset=i, kind=kind) for i in (0, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    a, b = (torch.autograd.grad(x, v, retain_graph=True)[0] for x in (whole, sum(parts) / 2))
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_vectors_give_finite_losses_near_the_true_ones(dtype):
    v = vectors(8)
    exact = contrastive(v, v, scale=30)
    narrow = contrastive(v.to(dtype), v.to(dtype), scale=30)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, exact, rtol=0.02, atol=0)
    with torch.autocast("cpu", torch.bfloat16):  # would make a bf16 product of it
        torch.testing.assert_close(contrastive(v, v, scale=30), exact)


def naive_cosent(cosine, label, task, scale):
    total = torch.ones((), dtype=cosine.dtype)
    for i in range(len(cosine)):
        for j in range(len(cosine)):
            if task[i] == task[j] and label[i] > label[j]:
                total = total + (scale * (cosine[j] - cosine[i])).exp()
    return total.log()


def test_cosent_of_three_pairs():
    loss = cosent(
        torch.tensor([0.9, 0.2, 0.5]), torch.tensor([1.0, 0, 1]), torch.zeros(3).long(), scale=20
    )
    assert loss.item() == pytest.approx(0.0024764842, rel=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_cosent_is_the_double_sum(seed):
    g = torch.Generator().manual_seed(seed)
    cosine = (2 * torch.rand(20, generator=g) - 1).requires_grad_()
    task = torch.randint(0, 3, (20,), generator=g)
    label = torch.randint(0, 3, (20,), generator=g).float()
    loss = cosent(cosine, label, task, scale=20)
    expected = naive_cosent(cosine.double(), label, task, 20)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    a, b = (torch.autograd.grad(x, cosine)[0] for x in (loss, expected))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_cosent_without_any_order_is_zero_with_zero_gradient():
    cosine = torch.tensor([0.3, -0.2], requires_grad=True)
    loss = cosent(cosine, torch.ones(2), torch.zeros(2).long(), scale=20)
    loss.backward()
    assert loss.item() == 0
    assert cosine.grad.tolist() == [0, 0]


def test_sbert_is_the_softmax_within_the_task():
    logits = vectors(6, 5).requires_grad_()
    task = torch.tensor([0, 0, 1, 1, 1, 2])
    label = torch.tensor([0.0, 1, 0, 1, 2, 2.6])
    classes = [0, 1, 2, 4, 3, 1]  # contradiction 2, neutral 4, entailment 3
    masked = logits.clone()
    for i in range(6):
        masked[i, slice(0, 2) if task[i] == 1 else slice(2, 5)] -= 1e12
    expected = F.cross_entropy(masked, torch.tensor(classes))
    loss = sbert(logits, label, task, threshold=2.5)
    torch.testing.assert_close(loss, expected)
    a, b = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, expected))
    torch.testing.assert_close(a, b)


def test_losses_of_the_cosine_are_the_posts():
    cosine = torch.tensor([0.7, 0.7, -0.4, 0.3, 0.95, 0.5])
    label = torch.tensor([1.0, 0, 2, 1, 4.0, 1.0])
    task = torch.tensor([0, 0, 1, 1, 2, 2])
    t = [1, 0, 1, None, 1, 0]  # neutral says nothing
    formulas = {
        "cosine_zero": lambda t, c: t * (1 - c) ** 2 + (1 - t) * c**2,
        "cosine_minus": lambda t, c: t * (c - 1) ** 2 + (1 - t) * (c + 1) ** 2,
        "hinge": lambda t, c: t * max(0.9 - c, 0) + (1 - t) * max(c - 0.1, 0),
    }
    for kind, f in formulas.items():
        values = [f(ti, c) for ti, c in zip(t, cosine.tolist(), strict=True) if ti is not None]
        loss = cosine_loss(cosine, label, task, kind=kind, threshold=2.5)
        assert loss.item() == pytest.approx(sum(values) / len(values), rel=1e-5)


def test_matching_is_the_mean_square_over_all_pairs():
    u, w = vectors(5, 4).double(), vectors(5, 7, seed=1).double()
    total = 0.0
    for i in range(5):
        for j in range(5):
            a = F.cosine_similarity(u[i], u[j], dim=0)
            b = F.cosine_similarity(w[i], w[j], dim=0)
            total += float((a - b) ** 2) / 25
    assert cosine_matching(u, u, w, w).item() == pytest.approx(total, rel=1e-5)
    parts = [cosine_matching(u[i:j], u, w[i:j], w) * (j - i) / 5 for i, j in ((0, 2), (2, 5))]
    assert sum(parts).item() == pytest.approx(total, rel=1e-5)


def test_prefixes_are_averaged():
    v = vectors(4, 8)
    loss = over_prefixes(lambda x: contrastive(x, x, scale=3), [8, 4, 2], v)
    each = [contrastive(v[:, :d], v[:, :d], scale=3) for d in (8, 4, 2)]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    assert not math.isclose(each[0].item(), each[1].item())
