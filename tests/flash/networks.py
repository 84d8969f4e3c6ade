"""Small networks for tests."""

import torch

from zoo.flash.config import FlashConfig
from zoo.flash.network import Network


def small(kind="flash", score="relu2_paper", *, seed=0, chunk=8, causal=True, dtype=torch.float64,
          expanded=32, segments=0, **options):  # fmt: skip
    """A network whose every parameter matters."""
    torch.manual_seed(seed)
    own = {"transformer": {"heads": 2}, "flash_quad": {"norm_length": chunk}}.get(kind, {})
    sizes = {
        "dim": 16, "depth": 4, "head_size": 8, "chunk": chunk, "pairing": "interleaved",
        **own, **options,
    }  # fmt: skip
    width = expanded / max(sizes["dim"], 1)
    score = score if kind != "transformer" else "relu2_paper"
    config = FlashConfig(kind=kind, score=score, expansion=width, **sizes)
    network = Network(config, vocabulary=11, causal=causal, segments=segments)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3 if p.ndim > 1 else 0.5)
    return network.to(dtype).eval()


def tokens(batch, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 11, (batch, n), generator=g)
