"""lucidrains/FLASH-pytorch 0.1.9: its state dict, and its quirks as our options."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.flash.foreign_weights import Taken, read_weights


def t5_bucket(offset: Tensor, causal: bool) -> Tensor:
    """Number of the bucket of j - i (arXiv 1910.10683), 32 buckets up to a distance of 128.

    In float32, as theirs: the bucket of a distance on the edge depends on its rounding.
    """
    buckets, n = 32, -offset
    number = torch.zeros_like(n)
    if causal:
        n = n.clamp(min=0)
    else:
        buckets //= 2
        number = (n < 0).long() * buckets
        n = n.abs()
    exact = buckets // 2
    far = torch.log(n.float() / exact) / math.log(128 / exact) * (buckets - exact)
    far = (exact + far.clamp(min=-1e9).long()).clamp(max=buckets - 1)
    return number + torch.where(n < exact, n, far)


def read_flash_pytorch(
    source: Path,
    *,
    causal: bool,
    group_size: int = 256,
    laplace_attn_fn: bool = False,
    shift_tokens: bool = True,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Hyper-parameters and weights of a `FLASHTransformer`.

    What differs from ours, all of it in the result: the values come before the gate, and the
    copies of Z in the order q, q, k, k; 32 features rotate, in interleaved pairs; the bias is T5's
    times sqrt(s), not divided by the chunk; the state is divided by the chunk, not by its tokens.
    What the weights do not tell is asked for. A bidirectional model must have been made with
    `reduce_group_non_causal_attn=True`, the default: without it no token sees another chunk.

    The options are those that the model was made with.
    """
    if not isinstance(group_size, int) or group_size < 1:
        raise ValueError(f"group_size={group_size!r}: the model's, a positive integer")
    given = Taken(read_weights(source), "FLASH-pytorch")
    ours: dict[str, Tensor] = {"words.symbols": torch.zeros(0, dtype=torch.uint8)}
    ours["net.embedding.weight"] = given.take("token_emb.weight")
    ours["net.position_scale"] = given.take("abs_pos_emb.scale").reshape(())
    given.optional("abs_pos_emb.inv_freq")
    given.optional("rotary_pos_emb.freqs")
    for name in ("weight", "bias"):
        ours[f"net.final_norm.{name}"] = given.take(f"to_logits.0.{name}")
        ours[f"net.head.{name}"] = given.take(f"to_logits.1.{name}")
    positions = torch.arange(group_size)
    offsets = -positions if causal else torch.arange(1 - group_size, group_size)
    depth, norm = 0, "scale"
    while (hidden := given.optional(f"layers.{depth}.to_hidden.0.weight")) is not None:
        theirs, own = f"layers.{depth}", f"net.layers.{depth}"
        given.optional(f"{theirs}.rotary_pos_emb.freqs")
        if (g := given.optional(f"{theirs}.norm.g")) is not None:
            ours[f"{own}.norm.g"] = g
        else:
            norm = "layer"
            for name in ("weight", "bias"):
                ours[f"{own}.norm.{name}"] = given.take(f"{theirs}.norm.{name}")
        for name in ("weight", "bias"):
            both = hidden if name == "weight" else given.take(f"{theirs}.to_hidden.0.bias")
            v, gate = both.chunk(2)
            z = given.take(f"{theirs}.to_qk.0.{name}")
            ours[f"{own}.gau.to_hidden.{name}"] = torch.cat([gate, v, z])
            ours[f"{own}.gau.to_out.{name}"] = given.take(f"{theirs}.to_out.{name}")
        for name in ("gamma", "beta"):
            rows = given.take(f"{theirs}.qk_offset_scale.{name}")
            ours[f"{own}.gau.{name}"] = rows[[0, 2, 1, 3]]
        head = len(z)
        table = given.take(f"{theirs}.rel_pos_bias.relative_attention_bias.weight")
        ours[f"{own}.gau.position_bias"] = table[t5_bucket(offsets, causal), 0] * head**0.5
        depth += 1
    if depth == 0:
        raise ValueError("these are no weights of FLASH-pytorch: there is no layers.0.to_hidden")
    given.done()
    vocabulary, dim = ours["net.embedding.weight"].shape
    hparams: dict[str, Any] = {
        "vocab_size": vocabulary,
        "dim": dim,
        "depth": depth,
        "kind": "flash",
        "expansion": ours["net.layers.0.gau.to_out.weight"].shape[1] / dim,
        "head_size": head,
        "chunk": group_size,
        "score": "laplace" if laplace_attn_fn else "relu2_paper",
        "position_bias": True,
        "sinusoidal": True,
        "rotary_dim": min(32, head),
        "pairing": "interleaved",
        "token_shift": shift_tokens,
        "norm": norm,
        "final_norm": "layer",
        "norm_eps": 1e-5,
        "bias": True,
        "global_norm": "chunk",
        "tied": False,
        "head_bias": True,
    }
    return hparams, {key: tensor.clone() for key, tensor in ours.items()}
