"""What is made again in the backward pass: the same gradients, from less memory."""

from contextlib import contextmanager

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import zoo.flash.block as block
from zoo.flash.config import FlashConfig
from zoo.flash.network import Network
from zoo.flash.recompute import Recompute


def gradients(network, tokens, autocast=False, **given):
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        network.features(tokens, **given).float().square().mean().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def keep_all(monkeypatch):
    monkeypatch.setattr(block, "Recompute", lambda wanted=True: Recompute(False))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"position_bias": True},
        {"token_shift": True, "norm": "layer", "score": "softmax"},
        {"post_norm": True, "norm": "rms_plain", "final_norm": "rms", "offsets": False},
        {"kind": "flash_quad", "norm": "scale", "score": "relu2_row"},
        {"global_part": False, "rotary_dim": 4, "pairing": "interleaved", "bias": True},
    ],
)
def test_gradients_are_those_of_what_is_kept_to_the_bit(options, autocast, monkeypatch):
    config = FlashConfig(dim=16, depth=3, head_size=8, chunk=8, init_std=0.2, **options)
    torch.manual_seed(0)
    network = Network(config, vocabulary=11, causal=True)
    tokens = torch.randint(0, 11, (2, 21))
    documents = torch.tensor([[0] * 5 + [1] * 16, [0] * 21])
    for given in ({}, {"doc_ids": documents}):
        again = gradients(network, tokens, autocast, **given)
        with monkeypatch.context() as patch:
            keep_all(patch)
            kept = gradients(network, tokens, autocast, **given)
        assert all(map(torch.equal, again, kept))
        assert sum(g.abs().sum() for g in kept) > 0


def kept_per_token(layer, rotary, pack):
    """Numbers a token that the graph of a layer holds, without parameters and tables."""
    held = {}
    own = {t.untyped_storage().data_ptr() for t in (*layer.parameters(), *rotary)}

    def note(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with pack(note):
        layer(torch.randn(1, 1024, 64, requires_grad=True), rotary)
    return sum(t.untyped_storage().nbytes() for k, t in held.items() if k not in own) / 4096


def test_two_units_keep_less_than_the_transformers_block_of_as_many_weights(monkeypatch):
    sizes = {"dim": 64, "depth": 2, "head_size": 16, "chunk": 32}
    flash, peer = (
        Network(FlashConfig(**sizes, kind=kind), vocabulary=11, causal=True)
        for kind in ("flash", "transformer")
    )

    @contextmanager
    def all_of(note):
        with saved_tensors_hooks(note, lambda tensor: tensor):
            yield

    @contextmanager
    def those_not_made_again(note):
        pack = Recompute._packed
        with monkeypatch.context() as patch:
            patch.setattr(
                Recompute,
                "_packed",
                lambda self, t: note(p) if isinstance(p := pack(self, t), torch.Tensor) else p,
            )
            yield

    tables = flash.rotary.tables(1024)
    less = kept_per_token(flash.layers[0], tables, those_not_made_again)
    block_ = kept_per_token(peer.layers[0], peer.rotary.tables(1024), all_of)
    keep_all(monkeypatch)
    whole = kept_per_token(flash.layers[0], tables, all_of)
    assert less < 0.55 * whole
    assert 2 * less < block_ < 2 * whole


def test_nothing_is_made_again_where_no_gradient_is_wanted():
    with torch.no_grad(), Recompute() as cheap:
        assert not cheap.wanted


def test_a_result_is_kept_no_longer_than_its_users():
    x = torch.randn(3, requires_grad=True)
    with Recompute() as cheap:
        y = (2 * cheap.of(torch.sigmoid, x)).square().sum()
    y.backward()
    s = torch.sigmoid(x.detach())
    assert torch.allclose(x.grad, 8 * s * s * (1 - s))
    assert not cheap._made
