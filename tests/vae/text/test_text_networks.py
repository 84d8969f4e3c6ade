"""LSTMs over padded batches against LSTMs over one sentence at a time."""

import itertools

import pytest
import torch

from zoo.vae.text import networks as text_networks
from zoo.vae.text.networks import TextDecoder, TextEncoder, init_uniform, shift

V, D, H = 7, 3, 5
LENGTHS = [4, 1, 6, 3]


def batch(padding=0):
    g = torch.Generator().manual_seed(0)
    tokens = torch.zeros(len(LENGTHS), max(LENGTHS) + padding, dtype=torch.long)
    for row, length in zip(tokens, LENGTHS, strict=True):
        row[: length - 1] = torch.randint(1, V, (length - 1,), generator=g)
    inside = torch.arange(tokens.shape[1]) < torch.tensor(LENGTHS)[:, None]
    return tokens, torch.tensor(LENGTHS), inside.flatten().nonzero()[:, 0]


def decoder(latent_dim=D, **options):
    torch.manual_seed(1)
    net = TextDecoder(
        V, end=0, latent_dim=latent_dim, embedding=4, hidden=H,
        **{"dropout_in": 0.0, "dropout_out": 0.0, **options},
    )  # fmt: skip
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return net.double()


def one_sentence(net, tokens, z):
    """Log p of one sentence, a word at a time."""
    state = None
    if net.latent_dim:
        cell = net.initial.weight @ z
        state = cell.tanh()[None], cell[None]
    total, last = 0.0, 0
    for token in tokens.tolist():
        x = torch.cat([net.embedding.weight[last], z])[None]
        out, state = net.lstm(x, state)
        total = total + (net.projection.weight @ out[0]).log_softmax(0)[token]
        last = token
    return total


@pytest.mark.parametrize("padding", [0, 9])
def test_encoder_reads_each_sentence_and_no_padding(padding):
    torch.manual_seed(0)
    net = TextEncoder(V, 4, H).double()
    tokens, lengths, _ = batch(padding)
    got = net(tokens, lengths)
    for row, length, state in zip(tokens, LENGTHS, got, strict=True):
        expected = net.lstm(net.embedding(row[:length]))[1][0][0]
        torch.testing.assert_close(state, expected)


@pytest.mark.parametrize("latent_dim", [D, 0])
@pytest.mark.parametrize("padding", [0, 9])
def test_decoder_is_teacher_forced_a_word_at_a_time(padding, latent_dim):
    net = decoder(latent_dim)
    tokens, _, real = batch(padding)
    samples = 3 if latent_dim else 1
    z = torch.randn(samples, len(LENGTHS), latent_dim, dtype=torch.float64)
    got = net.log_prob(tokens, shift(tokens, 0), real, z)
    for k, b in itertools.product(range(samples), range(len(LENGTHS))):
        expected = one_sentence(net, tokens[b, : LENGTHS[b]], z[k, b])
        torch.testing.assert_close(got[k, b].double(), expected, rtol=1e-6, atol=1e-6)


def test_probabilities_of_all_sentences_add_up_to_one():
    """Sentences that end within 3 symbols, and beginnings of longer ones; ends count."""
    net = decoder()
    z = torch.randn(D, dtype=torch.float64)
    total = 0.0
    for length in (1, 2, 3):
        for words in itertools.product(range(1, V), repeat=length - 1):
            lasts = range(V) if length == 3 else [0]
            rows = torch.tensor([[*words, last] for last in lasts])
            real = torch.arange(rows.numel())
            log_p = net.log_prob(rows, shift(rows, 0), real, z.expand(1, len(rows), -1))
            total += log_p.exp().sum().item()
    assert total == pytest.approx(1, abs=1e-5)


def test_little_room_changes_nothing(monkeypatch):
    net = decoder()
    tokens, _, real = batch(2)
    z = torch.randn(5, len(LENGTHS), D, dtype=torch.float64)
    expected = net.log_prob(tokens, shift(tokens, 0), real, z)
    for room in (1, 3000, 10**9):
        monkeypatch.setattr(text_networks, "_ROOM", room)
        with torch.no_grad():
            torch.testing.assert_close(net.log_prob(tokens, shift(tokens, 0), real, z), expected)


def test_padding_has_no_gradient():
    net = decoder()
    z = torch.randn(1, len(LENGTHS), D, dtype=torch.float64)
    gradients = []
    for padding in (0, 9):
        tokens, _, real = batch(padding)
        net.zero_grad()
        net.log_prob(tokens, shift(tokens, 0), real, z).sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_is_where_it_should_be():
    """With the states dropped nothing is known of any word; with the embeddings, z still is."""
    tokens, _, real = batch()
    z = torch.randn(1, len(LENGTHS), D, dtype=torch.float64)
    net = decoder(dropout_out=1.0 - 1e-12)
    blind = net.log_prob(tokens, shift(tokens, 0), real, z)[0]
    expected = -torch.tensor(LENGTHS) * torch.log(torch.tensor(float(V)))
    torch.testing.assert_close(blind, expected)
    deaf = decoder(dropout_in=1.0 - 1e-12)
    assert deaf.log_prob(tokens, shift(tokens, 0), real, z)[0].sub(expected).abs().max() > 0.1


def test_initial_weights():
    net = decoder().float()
    init_uniform(net, 0.01, 0.1)
    weights = {name: p.abs().max().item() for name, p in net.named_parameters()}
    assert 0.08 < weights.pop("embedding.weight") <= 0.1
    assert all(0.005 < width <= 0.01 for width in weights.values()), weights
