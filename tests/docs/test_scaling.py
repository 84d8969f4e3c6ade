"""What docs/scaling.md says on paper: multiplications and bytes by formula are those counted."""

import itertools

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.flash.network import macs_per_token
from zoo.simbert.encoder import Encoder


def ddpm(size, width, multipliers, blocks, levels, channels):
    """Multiplications of the U-Net for an image, and of these of its layers that see the input."""
    widths, E = [width * m for m in multipliers], 4 * width * multipliers[0]

    def res(a, b, side):
        return side**2 * 9 * (a * b + b * b) + E * b + (side**2 * a * b if a != b else 0)

    def attention(C, side):
        return 4 * side**2 * C * C + 2 * side**4 * C

    first = 9 * channels * widths[0] * size**2 + widths[0] * E
    total = first + E * E + 9 * channels * widths[0] * size**2
    skips, h = [widths[0]], widths[0]
    for i, C in enumerate(widths):
        side = size >> i
        for _ in range(blocks):
            total += res(h, C, side) + (attention(C, side) if i in levels else 0)
            h = C
            skips.append(C)
        if i < len(widths) - 1:
            total += 9 * C * C * (side // 2) ** 2
            skips.append(C)
    total += 2 * res(h, h, side) + attention(h, side)
    for i in reversed(range(len(widths))):
        C, side = widths[i], size >> i
        for _ in range(blocks + 1):
            total += res(h + skips.pop(), C, side) + (attention(C, side) if i in levels else 0)
            h = C
        total += 9 * C * C * (2 * side) ** 2 if i else 0
    return total, first


def encoder(L, P, H, inner, E, V, layers):
    """Multiplications of BERT for a row of L tokens, P of which are predicted, and its vector."""
    total = layers * (L * (4 * H * H + 2 * H * inner) + 2 * L * L * H)
    return total + (L * E * H if E != H else 0) + P * (H * E + E * V) + H * H


def mlp(*widths):
    """Multiplications of linear layers between these widths: a weight each."""
    return sum(a * b for a, b in itertools.pairwise(widths))


def counted(function):
    """Multiplications of what a function computes; 2 operations each."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_of_ddpm(checkpointing):
    shape = {"size": 8, "width": 8, "multipliers": [1, 2], "blocks": 2, "levels": [1]}
    model = zoo.DDPM(
        image_size=8, channels=1, width=8, multipliers=[1, 2], groups=4, checkpointing=checkpointing
    )
    x, B = torch.zeros(3, 1, 8, 8), 3
    total, first = ddpm(**shape, channels=1)
    t = torch.zeros(B, dtype=torch.int64)
    with torch.no_grad():
        assert counted(lambda: model(x, t)) == B * total
    step = counted(lambda: model(x, t).sum().backward())
    if checkpointing:  # less than a forward pass more
        assert B * (3 * total - first) < step < B * (4 * total - first)
    else:
        assert step == B * (3 * total - first)


def test_a_step_of_simbert():
    sizes = {"H": 16, "inner": 64, "E": 8, "V": 50, "layers": 2}
    net = Encoder(vocab_size=50, hidden=16, layers=2, heads=2, embedding_size=8)
    B, L, P = 3, 10, 4

    def forward():
        hidden = net(torch.zeros(B, L, dtype=torch.int64))
        places = hidden.flatten(0, 1)[: B * P]
        return net.pool(hidden).sum() + net.logits(places).sum()

    total = B * encoder(L, P, **sizes)
    with torch.no_grad():
        assert counted(forward) == total
    assert counted(lambda: forward().backward()) == 3 * total


def test_a_step_of_flash():
    model = zoo.FlashLM(vocab_size=50, dim=16, depth=2, head_size=8, chunk=8)
    B, n = 2, 32
    tokens = torch.zeros(B, n, dtype=torch.int64)
    forward = B * n * (macs_per_token(model.net, n) + 16 * 50)
    # Chunks' states are summed by a product with a triangle of ones, which has no gradient.
    c, s, e = 8, 8, model.config.width
    triangle = B * n * 2 * (n // c) * s * e // c
    again = B * n * 2 * c * s  # the weights of attention
    step = counted(lambda: model.net.logits(model.net.features(tokens)).sum().backward())
    assert step == 3 * forward - triangle + again


def test_a_step_of_multilayer_perceptrons():
    vae = zoo.VAE(image_size=8, levels=17, latent_dim=3, hidden=[16])
    encoder_, decoder = mlp(64, 16, 2 * 3), mlp(3, 16, 64)
    weights = [p for p in vae.parameters() if p.ndim == 2]
    assert sum(p.numel() for p in weights) == encoder_ + decoder


def test_bytes_of_a_process():
    """Weights, gradients, Adam's two averages and EMA: 20 bytes a parameter, and a count each."""
    model = zoo.DDPM(image_size=8, channels=1, width=8, multipliers=[1, 2], groups=4)
    P = sum(p.numel() for p in model.parameters())
    optimizer = model.configure_optimizers()
    model.loss(torch.zeros(2, 1, 8, 8)).backward()
    optimizer.step()
    held = [(p, p.grad, *optimizer.state[p].values()) for p in model.parameters()]
    counts = 4 * len(held)
    assert sum(t.nbytes for row in held for t in row) == 16 * P + counts
