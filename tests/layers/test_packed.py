import pytest
import torch
from torch import nn

from zoo.layers import packed as module
from zoo.layers.packed import PackedLinear, packed


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 40, bias=False), nn.Linear(40, 8)
    )


def packs():
    """Whether this PyTorch and this processor can."""
    try:
        PackedLinear(nn.Linear(4, 4))(torch.zeros(1, 4))
    except (RuntimeError, AttributeError):
        return False
    return True


@pytest.mark.parametrize("rows", [(1,), (37,), (3, 5)])
def test_a_packed_network_computes_the_same(rows):
    net = network()
    before = {name: x.clone() for name, x in net.state_dict().items()}
    x = torch.randn(*rows, 24)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        other = packed(net)
        got, plain = other(x), net(x)
    expected = net(x)
    assert got.dtype == plain.dtype == torch.bfloat16
    size = expected.norm()
    assert (got - expected).norm() < 0.02 * size  # as many roundings of 2^-9 as layers
    assert (got - plain).norm() < 0.01 * size
    kinds = [type(part) for part in other[::2]]
    assert kinds == [PackedLinear if packs() else nn.Linear] * 2
    assert [type(part) for part in net[::2]] == [nn.Linear] * 2
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.requires_grad for p in net.parameters())


def test_layers_that_are_named_stay_and_share_their_weights():
    net = network()
    with torch.autocast("cpu", torch.bfloat16):
        other = packed(net, ["0"])
    assert type(other[0]) is nn.Linear
    assert other[0].weight is net[0].weight


def test_a_network_stays_where_packing_gains_nothing_or_cannot_be_done(monkeypatch):
    net = network()
    assert packed(net) is net
    with torch.autocast("cpu", torch.float16):
        assert packed(net) is net
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(net.to("meta")) is net
        net = network()

        def refuse(*_):
            raise RuntimeError("bf16 path needs the cpu support avx512")

        monkeypatch.setattr(module, "PackedLinear", refuse)
        assert packed(net) is net


def doubled(layer):
    layer.register_forward_hook(lambda _, inputs, output: 2 * output)


def own_forward(layer):
    before = layer.forward
    layer.forward = lambda x: 2 * before(x)


def with_weight_norm(layer):
    torch.nn.utils.weight_norm(layer)
    with torch.no_grad():
        layer.weight_g.mul_(2)


@pytest.mark.parametrize("change", [doubled, own_forward, with_weight_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_layers_that_do_more_than_their_class_says_stay(change):
    net, x = network(), torch.randn(5, 24)
    change(net[0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        other = packed(net)
        assert type(other[0]) is nn.Linear
        difference = (other(x) - net(x)).norm()
    assert difference < 0.01 * net(x).norm()


def test_a_compiled_network_stays():
    net = network()
    net.compile(backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert packed(net) is net
