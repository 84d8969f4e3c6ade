"""Small networks for tests."""

import torch

from zoo.flash.gau import GAUConfig
from zoo.flash.network import Network
from zoo.flash.scores import Score


def small(kind="flash", score="relu2_paper", *, seed=0, chunk=8, causal=True, dtype=torch.float64,
          unit=None, **options):  # fmt: skip
    """A network whose every parameter matters."""
    torch.manual_seed(seed)
    config = GAUConfig(
        **{
            "kind": kind if kind != "transformer" else "flash",
            "causal": causal,
            "score": Score(score, chunk),
            "chunk": chunk,
            **(unit or {}),
        }
    )
    defaults = {"vocabulary": 11, "dim": 16, "depth": 4, "expanded": 32, "head": 8, "heads": 2}
    network = Network(**{**defaults, "kind": kind, "unit": config, **options})
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3 if p.ndim > 1 else 0.5)
    return network.to(dtype).eval()


def tokens(batch, n, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 11, (batch, n), generator=g)
