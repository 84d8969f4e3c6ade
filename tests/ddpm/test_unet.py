"""The U-Net against diffusers' `UNet2DModel` with copied weights, and against closed forms."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.ddpm.unet import UNet, sinusoid, sinusoid_frequencies

SMALL: dict[str, Any] = {"width": 32, "groups": 8, "blocks": 1, "multipliers": [1, 2, 2]}


def perturb(net: torch.nn.Module, seed: int = 0) -> None:
    """Moves every parameter, so that no norm is the identity and no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.02 if p.dim() > 1 else 0.2)


def peer(net: UNet, **kwargs: Any) -> torch.nn.Module:
    """diffusers' network of the same layout with the same weights."""
    from diffusers import UNet2DModel

    net_kwargs = {
        "in_channels": 3,
        "out_channels": 3,
        "multipliers": [1, 2, 2, 2],
        "blocks": 2,
        "attention_levels": [1],
        "width": 128,
        "groups": 32,
        "head_dim": None,
        "num_classes": 0,
        "freq_shift": 1,
        "cos_first": False,
        "symmetric_downsample": False,
        "norm_eps": 1e-6,
        **kwargs,
    }
    k = net_kwargs
    attends = [i in k["attention_levels"] for i in range(len(k["multipliers"]))]
    model = UNet2DModel(
        in_channels=k["in_channels"],
        out_channels=k["out_channels"],
        block_out_channels=tuple(k["width"] * m for m in k["multipliers"]),
        layers_per_block=k["blocks"],
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
        downsample_padding=int(k["symmetric_downsample"]),
        flip_sin_to_cos=k["cos_first"],
        freq_shift=k["freq_shift"],
        attention_head_dim=k["head_dim"],
        norm_num_groups=k["groups"],
        norm_eps=k["norm_eps"],
        num_class_embeds=k["num_classes"] + 1 if k["num_classes"] else None,
    )
    model.load_state_dict(net.state_dict(), strict=True)
    return model.eval()


def pair(seed: int = 0, **kwargs: Any) -> tuple[UNet, torch.nn.Module]:
    torch.manual_seed(seed)
    net = UNet(**kwargs).eval()
    perturb(net)
    return net, peer(net, **kwargs)


def max_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# -- the same function as diffusers' ---------------------------------------------------------------

LAYOUTS: dict[str, dict[str, Any]] = {
    "cifar layout": {"width": 32},
    "celeba layout": {
        "width": 16,
        "groups": 8,
        "multipliers": [1, 1, 2, 2, 4, 4],
        "attention_levels": [4],
    },
    "heads": {**SMALL, "head_dim": 8, "attention_levels": [0, 2]},
    "openai": {
        **SMALL,
        "freq_shift": 0,
        "cos_first": True,
        "symmetric_downsample": True,
        "norm_eps": 1e-5,
    },
    "learned variance of grey images": {**SMALL, "in_channels": 1, "out_channels": 2},
    "one level": {"width": 32, "multipliers": [1], "attention_levels": [], "blocks": 3},
    "narrowing": {**SMALL, "multipliers": [2, 3, 1], "attention_levels": []},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_equals_diffusers(name: str) -> None:
    kwargs = LAYOUTS[name]
    net, model = pair(**kwargs)
    x = torch.randn(2, kwargs.get("in_channels", 3), 32, 32)
    t = torch.tensor([7, 999])
    with torch.no_grad():
        ours, theirs = net(x, t), model(x, t).sample
    assert theirs.std() > 0.05
    assert max_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 40), (28, 12), (4, 36)])
def test_equals_diffusers_on_any_size_that_fits(height: int, width: int) -> None:
    net, model = pair(**SMALL)
    x, t = torch.randn(2, 3, height, width), torch.tensor([0, 500])
    with torch.no_grad():
        assert max_difference(net(x, t), model(x, t).sample) < 1e-5


def test_class_conditional_equals_diffusers_and_none_is_the_last_row() -> None:
    net, model = pair(**SMALL, num_classes=5)
    x, t = torch.randn(3, 3, 16, 16), torch.tensor([1, 10, 900])
    labels, none = torch.tensor([4, 0, 2]), torch.full((3,), 5)
    with torch.no_grad():
        assert max_difference(net(x, t, labels), model(x, t, labels).sample) < 1e-5
        assert torch.equal(net(x, t), net(x, t, none))
        assert max_difference(net(x, t), net(x, t, labels)) > 1e-3


def test_gradients_equal_diffusers() -> None:
    net, model = pair(**SMALL)
    x, t, target = torch.randn(2, 3, 16, 8), torch.tensor([3, 400]), torch.randn(2, 3, 16, 8)
    (net(x, t) - target).square().mean().backward()
    (model(x, t).sample - target).square().mean().backward()
    theirs = dict(model.named_parameters())
    for name, p in net.named_parameters():
        assert p.grad is not None
        scale = float(theirs[name].grad.abs().max()) + 1e-4
        assert max_difference(p.grad, theirs[name].grad) < 1e-4 * scale, name


def test_cifar_network_has_the_published_size() -> None:
    with torch.device("meta"):
        net = UNet()
    assert sum(p.numel() for p in net.parameters()) == 35_746_307
    assert len(net.state_dict()) == 328


def test_celeba_network_has_the_published_size() -> None:
    with torch.device("meta"):
        net = UNet(multipliers=[1, 1, 2, 2, 4, 4], attention_levels=[4])
    assert sum(p.numel() for p in net.parameters()) == 113_673_219


def test_a_layer_of_every_kind_has_the_width_of_the_published_network() -> None:
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in UNet().state_dict().items()}
    assert shapes["time_embedding.linear_1.weight"] == (512, 128)
    assert shapes["down_blocks.1.attentions.0.to_q.weight"] == (256, 256)
    inputs = [
        [shapes[f"up_blocks.{i}.resnets.{j}.norm1.weight"][0] for j in range(3)] for i in range(4)
    ]
    assert inputs == [[512, 512, 512], [512, 512, 512], [512, 512, 384], [384, 256, 256]]


# -- timestep embedding ----------------------------------------------------------------------------


def test_sinusoid_values() -> None:
    emb = sinusoid(torch.tensor([1]), sinusoid_frequencies(128, 1))[0]
    expected_sin = torch.tensor([0.84147096, 0.76043874, 0.67905611, 0.60115582])
    expected_cos = torch.tensor([0.54030234, 0.64940965, 0.73408640, 0.79913181])
    torch.testing.assert_close(emb[:4], expected_sin, atol=1e-6, rtol=0)
    torch.testing.assert_close(emb[64:68], expected_cos, atol=1e-6, rtol=0)


@pytest.mark.parametrize("freq_shift", [0, 1])
def test_sinusoid_equals_float64(freq_shift: int) -> None:
    t = [0, 1, 17, 500.5, 999]
    f = [10000 ** (-i / (16 - freq_shift)) for i in range(16)]
    expected = torch.tensor(
        [[math.sin(u * w) for w in f] + [math.cos(u * w) for w in f] for u in t]
    )
    ours = sinusoid(torch.tensor(t), sinusoid_frequencies(32, freq_shift))
    torch.testing.assert_close(ours, expected, atol=2e-4, rtol=0)
    swapped = sinusoid(torch.tensor(t), sinusoid_frequencies(32, freq_shift), cos_first=True)
    assert torch.equal(swapped, ours.roll(16, dims=1))


def test_casting_the_network_leaves_the_frequencies_exact() -> None:
    net = UNet(**SMALL).to(torch.bfloat16)
    assert torch.equal(net.frequency_bits.view(torch.float32), sinusoid_frequencies(32, 1))
    wave = sinusoid(torch.tensor([999]), sinusoid_frequencies(32, 1))
    linear = net.time_embedding.linear_1
    expected = linear(wave.bfloat16())
    inputs: list[Tensor] = []
    linear.register_forward_hook(lambda _m, _x, y: inputs.append(y))
    net(torch.randn(1, 3, 8, 8).bfloat16(), torch.tensor([999]))
    assert torch.equal(inputs[0], expected)


# -- what must not change the result ---------------------------------------------------------------


def test_checkpointing_leaves_gradients_the_same() -> None:
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 400])
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = UNet(**SMALL, dropout=0.3, checkpointing=checkpointing)
        torch.manual_seed(1)
        net(x, t).square().sum().backward()
        gradients.append([p.grad for p in net.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert a is not None
        assert torch.equal(a, b)


def test_checkpointing_keeps_fewer_activations() -> None:
    kept = []
    for checkpointing in (False, True):
        net = UNet(**SMALL, checkpointing=checkpointing)
        sizes: list[int] = []

        def pack(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            net(torch.randn(2, 3, 16, 16), torch.tensor([3, 400]))
        kept.append(sum(sizes))
    assert kept[1] < 0.6 * kept[0]


def test_channels_last_and_autocast_agree_with_plain_float32() -> None:
    net, _ = pair(**SMALL)
    x, t = torch.randn(2, 3, 16, 24), torch.tensor([3, 400])
    with torch.no_grad():
        plain = net(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, t)
        last = net.to(memory_format=torch.channels_last)
        strided = last(x.to(memory_format=torch.channels_last), t)
    assert max_difference(plain, strided) < 1e-5
    assert half.dtype == torch.bfloat16
    assert max_difference(plain, half.float()) < 0.05 * float(plain.std())


def test_dropout_acts_in_training_only() -> None:
    net = UNet(**SMALL, dropout=0.5)
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([3, 400])
    assert not torch.equal(net(x, t), net(x, t))
    net.eval()
    assert torch.equal(net(x, t), net(x, t))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiles_as_one_graph() -> None:
    torch.manual_seed(0)
    net = UNet(width=8, groups=4, blocks=1, multipliers=[1], attention_levels=[], num_classes=3)
    perturb(net)  # what the kernels compute, tests/ddpm/test_module.py compares
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([3, 400]), torch.tensor([0, 3])
    with torch.no_grad():
        eager = net(x, t, labels)
        keys = list(net.state_dict())
        net.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(net(x, t, labels), eager, atol=1e-5, rtol=1e-5)
    assert list(net.state_dict()) == keys


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_one_graph(checkpointing: bool) -> None:
    torch.manual_seed(0)
    net = UNet(**SMALL, num_classes=3, checkpointing=checkpointing)
    perturb(net)
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([3, 400]), torch.tensor([0, 3])
    net(x, t, labels).square().sum().backward()
    eager = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    net.compile(fullgraph=True, backend="aot_eager")
    net(x, t, labels).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(p.grad, eager[name], atol=1e-3, rtol=1e-3)


# -- initialisation --------------------------------------------------------------------------------


def test_init_ho_is_xavier_uniform_with_last_layers_near_zero() -> None:
    torch.manual_seed(0)
    net = UNet(width=64, num_classes=2)
    net.init_ho()
    seen = {"last": 0, "other": 0}
    for name, p in net.state_dict().items():
        if name.endswith("bias"):
            assert not p.any(), name
        elif p.dim() == 1:
            assert torch.equal(p, torch.ones_like(p)), name
        elif name != "class_embedding.weight":
            fan_in, fan_out = p[0].numel(), p.shape[0] * p[0, 0].numel()
            is_last = any(s in name for s in (".conv2.", ".to_out.0.", "conv_out."))
            bound = math.sqrt(6 / (fan_in + fan_out)) * (1e-5 if is_last else 1)
            assert p.abs().max() <= bound, name
            std = float(p.std())
            assert std == pytest.approx(bound / math.sqrt(3), rel=0.05), name
            seen["last" if is_last else "other"] += 1
    assert seen == {"last": 22 + 6 + 1, "other": 22 + 22 + 18 + 2 + 1 + 3 + 3 + seen_shortcuts(net)}
    with torch.no_grad():
        assert net(torch.randn(2, 3, 16, 16), torch.tensor([0, 999])).abs().max() < 1e-3


def seen_shortcuts(net: UNet) -> int:
    return sum(k.endswith("conv_shortcut.weight") for k in net.state_dict())


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((30, 45), "30x45 .* 4 levels: .* multiples of 8, for example 24x40 or 32x48"),
        ((32, 4), "32x4 .* multiples of 8, for example 32x8"),
        ((0, 8), "0x8 .* multiples of 8, for example 8x8"),
    ],
)
def test_a_size_that_does_not_fit_is_named_with_sizes_that_do(
    size: tuple[int, int], message: str
) -> None:
    net = UNet(width=32)
    for call in (
        lambda: net.check_size(*size),
        lambda: net(torch.zeros(1, 3, *size), torch.tensor([0])),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    net.check_size(24, 40)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width": 48}, "groups=32: .* 48 channels"),
        ({"width": 3, "groups": 1}, "first level's 3 channels"),
        ({"multipliers": []}, "multipliers"),
        ({"multipliers": [1, 0]}, "multipliers"),
        ({"blocks": 0}, "blocks=0"),
        ({"attention_levels": [1, 4]}, r"attention_levels=.*: \[4\] do .* 0 to 3"),
        ({"head_dim": 48}, "head_dim=48: .* 256"),
    ],
)
def test_an_impossible_layout_is_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(**kwargs)


def test_labels_without_classes_are_refused() -> None:
    net = UNet(**SMALL)
    with pytest.raises(ValueError, match="num_classes"):
        net(torch.zeros(1, 3, 8, 8), torch.tensor([0]), torch.tensor([0]))
