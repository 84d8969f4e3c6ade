"""GAU-alpha (kexue.fm/archives/9052): checkpoints of JunnYu/GAU-alpha-pytorch and bert4torch."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.flash.foreign_weights import Taken, read_weights

_LAYER = "net.layers.{}"
# What makes a FlashMLM a GAU-alpha.
_FIXED: dict[str, Any] = {
    "kind": "flash_quad",
    "score": "softmax_plus",
    "position_bias": False,
    "sinusoidal": False,
    "rotary_dim": None,
    "pairing": "interleaved",
    "token_shift": False,
    "norm": "rms_plain",
    "norm_eps": 1e-12,
    "post_norm": True,
    "bias": False,
    "offsets": False,
    "tied": True,
    "head_bias": False,
    "num_classes": 0,
}


def read_gau_alpha(
    source: Path, *, min_length: int = 1, mask_token: int = 103
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Hyper-parameters and weights for `FlashMLM`.

    The order of the symbols is that of the checkpoint's vocab.txt, which is not read: give numbers
    of tokens, such as BertTokenizer makes, with segments that are all 0.

    Args:
        source: File or folder.
        min_length: Least number of keys in softmax_plus: 1 as in PyTorch, 16 as in bert4keras.
        mask_token: Number of `[MASK]`.
    """
    weights = read_weights(source)
    torch4 = any(key.startswith("encoderLayer.") for key in weights)  # bert4torch's layout
    given = Taken(weights, "GAU-alpha")
    root = "embeddings" if torch4 else "gau_alpha.embeddings"
    segments = "segment_embeddings" if torch4 else "token_type_embeddings"
    ours: dict[str, Tensor] = {"words.symbols": torch.zeros(0, dtype=torch.uint8)}
    embedding = ours["net.embedding.weight"] = given.take(f"{root}.word_embeddings.weight")
    ours["net.segments.weight"] = given.take(f"{root}.{segments}.weight")
    depth = 0
    while True:
        layer = f"encoderLayer.{depth}.gau" if torch4 else f"gau_alpha.encoder.layer.{depth}.gau"
        hidden = given.optional(f"{layer}.i_dense.weight")
        if hidden is None:
            break
        own = f"{_LAYER.format(depth)}.gau"
        ours[f"{own}.to_hidden.weight"] = hidden
        ours[f"{own}.to_out.weight"] = given.take(f"{layer}.o_dense.weight")
        if torch4:
            ours[f"{own}.gamma"] = given.take(f"{layer}.offsetscale.gamma")
        else:
            q, k = (given.take(f"{layer}.{x}_scaleoffset.weight") for x in "qk")
            ours[f"{own}.gamma"] = torch.stack([q, k])
        depth += 1
    if depth == 0:
        raise ValueError(f"these are no weights of GAU-alpha: there is no {layer}.i_dense.weight")
    head = given.optional("mlmDecoder.weight" if torch4 else "cls.predictions.decoder.weight")
    if head is not None and not torch.equal(head, embedding):
        raise ValueError("the head of these weights is not its embedding, as GAU-alpha's is")
    given.done()
    vocabulary, dim = embedding.shape
    expanded = ours["net.layers.0.gau.to_out.weight"].shape[1]
    hparams = {
        **_FIXED,
        "vocab_size": vocabulary,
        "dim": dim,
        "depth": depth,
        "expansion": expanded / dim,
        "head_size": ours["net.layers.0.gau.gamma"].shape[1],
        "segments": len(ours["net.segments.weight"]),
        "min_length": min_length,
        "mask_token": mask_token,
        "dropout": 0.1,
    }
    return hparams, {key: tensor.clone() for key, tensor in ours.items()}


def write_gau_alpha(hparams: dict[str, Any], weights: dict[str, Tensor], folder: Path) -> None:
    """Writes `model.safetensors` with the names of JunnYu/GAU-alpha-pytorch, and config.json."""
    for name, value in {**_FIXED, "segments": hparams.get("segments")}.items():
        if hparams.get(name, value) != value or (name == "segments" and not value):
            raise ValueError(f"{name}={hparams.get(name)} has no place in GAU-alpha")
    given = Taken(weights, "a GAU-alpha")
    given.optional("words.symbols")
    embedding = given.take("net.embedding.weight")
    theirs = {
        "gau_alpha.embeddings.word_embeddings.weight": embedding,
        "gau_alpha.embeddings.token_type_embeddings.weight": given.take("net.segments.weight"),
        "cls.predictions.decoder.weight": embedding.clone(),
    }
    for i in range(hparams["depth"]):
        own, layer = f"{_LAYER.format(i)}.gau", f"gau_alpha.encoder.layer.{i}.gau"
        theirs[f"{layer}.i_dense.weight"] = given.take(f"{own}.to_hidden.weight")
        theirs[f"{layer}.o_dense.weight"] = given.take(f"{own}.to_out.weight")
        q, k = given.take(f"{own}.gamma")
        theirs[f"{layer}.q_scaleoffset.weight"] = q
        theirs[f"{layer}.k_scaleoffset.weight"] = k
    given.done()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: t.contiguous().clone() for k, t in theirs.items()}, folder / "model.safetensors")
    config = {
        "model_type": "gau_alpha",
        "vocab_size": hparams["vocab_size"],
        "hidden_size": hparams["dim"],
        "intermediate_size": round(hparams["expansion"] * hparams["dim"]),
        "num_hidden_layers": hparams["depth"],
        "attention_key_size": hparams["head_size"],
        "type_vocab_size": hparams["segments"],
        "hidden_act": "swish",
        "layer_norm_eps": 1e-12,
        "normalization": "softmax_plus",
        "use_bias": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
