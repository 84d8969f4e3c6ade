"""From a module's flat hyper-parameters to its network, optimiser and schedule."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from zoo.flash.gau import GAUConfig
from zoo.flash.network import Network
from zoo.flash.scores import Score
from zoo.training.optim import piecewise_linear

# What the units have and a kind has not, with the values at which it says nothing. The recipes'
# chunk and position bias mean nothing to a transformer, so that `--model.kind` alone changes it.
_MEANINGLESS: dict[str, dict[str, Any]] = {
    "flash": {},
    "flash_quad": {"global_norm": "tokens", "global_part": True},
    "transformer": {
        "score": "relu2_paper",
        "norm": "rms",
        "bias": False,
        "offsets": True,
        "global_norm": "tokens",
        "global_part": True,
    },
}
_UNUSED: dict[str, set[str]] = {
    "flash": {"heads", "norm_length"},
    "flash_quad": {"heads", "chunk"},
    "transformer": {"chunk", "norm_length", "min_length", "position_bias"},
}
# What decides the function that given weights compute.
_FUNCTION = (
    "kind", "dim", "depth", "expansion", "head_size", "heads", "chunk", "score", "norm_length",
    "min_length", "position_bias", "sinusoidal", "rotary_dim", "pairing", "token_shift", "norm",
    "final_norm", "norm_eps", "post_norm", "bias", "offsets", "global_norm", "global_part",
    "segments", "tied", "head_bias",
)  # fmt: skip


def check_same_function(own: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Raises ValueError if networks of these hyper-parameters differ, naming the first that does.

    Weights that fit are not enough: the score, the chunk or the pairing have none.
    """
    for name in _FUNCTION:
        if name not in _UNUSED[own["kind"]] and own[name] != other[name]:
            raise ValueError(
                f"the network is another: {name}={other[name]} there, {own[name]} here"
            )


def build_network(own: Mapping[str, Any], *, causal: bool) -> Network:
    """The network of a module's hyper-parameters.

    Raises:
        ValueError: A value is out of range, or does not go with the others.
    """
    kind, dim = own["kind"], own["dim"]
    if own["expansion"] <= 0:
        raise ValueError(f"expansion={own['expansion']}: the width e is a positive multiple of dim")
    for name, value in _MEANINGLESS.get(kind, {}).items():
        if own[name] != value:
            raise ValueError(f"{name}={own[name]} means nothing with kind={kind}")
    flash = kind != "flash_quad"
    size = own["chunk"] if flash else own["norm_length"]
    unit = GAUConfig(
        kind="flash" if flash else "flash_quad",
        causal=causal,
        score=Score(own["score"], size, own["min_length"]),
        chunk=own["chunk"],
        pairing=own["pairing"],
        position_bias=own["position_bias"],
        offsets=own["offsets"],
        bias=own["bias"],
        global_norm=own["global_norm"],
        global_part=own["global_part"],
    )
    network = Network(
        vocabulary=own["vocab_size"],
        dim=dim,
        depth=own["depth"],
        kind=kind,
        expanded=round(own["expansion"] * dim),
        head=own["head_size"],
        heads=own["heads"],
        unit=unit,
        rotary_dim=own["rotary_dim"],
        norm=own["norm"],
        final_norm=None if own["post_norm"] else own["final_norm"],
        eps=own["norm_eps"],
        post_norm=own["post_norm"],
        token_shift=own["token_shift"],
        sinusoidal=own["sinusoidal"],
        segments=own["segments"],
        tied=own["tied"],
        head_bias=own["head_bias"],
        dropout=own["dropout"],
        checkpointing=own["checkpointing"],
    )
    network.init_normal(own["init_std"])
    return network


def check_optimizer(own: Mapping[str, Any]) -> None:
    """Raises ValueError if a value is out of range."""
    lr, decay, betas = own["lr"], own["weight_decay"], own["betas"]
    if lr <= 0 or decay < 0 or len(betas) != 2 or not all(0 <= b < 1 for b in betas):
        raise ValueError(
            f"lr={lr}, weight_decay={decay}, betas={betas}: need lr > 0, weight_decay >= 0 and "
            "two betas in [0, 1)"
        )
    _points(own)


def _points(own: Mapping[str, Any]) -> dict[int, float]:
    """The schedule; its keys are strings where they went through JSON."""
    points = {int(k): float(v) for k, v in (own["lr_schedule"] or {0: 1.0}).items()}
    piecewise_linear(points)
    return points


def build_optimizer(module: nn.Module, own: Mapping[str, Any], *, scaled: bool) -> Any:
    """AdamW that decays matrices only, and its schedule if there is one.

    Args:
        module: Whose parameters learn.
        own: Hyper-parameters: lr, weight_decay, betas, lr_schedule.
        scaled: A loss scaler is at work, which cannot clip what a fused step unscales.
    """
    lr, decay, betas = own["lr"], own["weight_decay"], own["betas"]
    matrices = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear | nn.Embedding)}
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) in matrices], "weight_decay": decay},
        # gamma, beta, norms, biases, distances: numbers that have no reason to be near 0
        {"params": [p for p in parameters if id(p) not in matrices], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    device = parameters[0].device.type
    fused = device in ("cpu", "cuda") and not scaled and not _sharded(parameters)
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=fused)
    if own["lr_schedule"] is None:
        return optimizer
    rate = piecewise_linear(_points(own))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def _sharded(parameters: list[nn.Parameter]) -> bool:
    """Whether FSDP2 has made them distributed tensors, of which CPUs have no fused step."""
    return any(type(p.data).__name__ == "DTensor" for p in parameters)
