"""Exchange of sentence encoders with sentence-transformers, and from any BERT or RoFormer folder.

The folder has the modules Transformer, Pooling, Dense (the linear pooler, no activation) and
Normalize, under the names that versions before 6 know too; it needs no remote code.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.simbert.interchange import (
    EXPORTERS,
    TOKENIZER,
    Hparams,
    State,
    foreign_weights,
    own_encoder,
    read_folder,
    sine_table,
    untrained_head,
    write_config,
    write_tokenizer,
)

_MAX_LENGTH = 64


def to_sentence_transformers(
    hparams: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path
) -> None:
    """Writes a folder for `SentenceTransformer(folder)`, whose vectors are `encode`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(hparams, folder, head=False)
    write_tokenizer(state[TOKENIZER], folder)
    net = own_encoder(state)
    rotary, width = hparams["positions"] == "rotary", hparams["hidden"]
    # BertModel has a pooler, which nobody asks here; RoFormerModel has none.
    weights = foreign_weights(net, prefix="", head=False, pooler=not rotary)
    if rotary:
        table = sine_table(hparams["max_positions"], width // hparams["heads"])
        weights["encoder.embed_positions.weight"] = table
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    linear = hparams["pooler"] == "cls_linear"
    names = ["Transformer", "Pooling", *(["Dense"] if linear else []), "Normalize"]
    modules = []
    for i, name in enumerate(names):
        path = "" if i == 0 else f"{i}_{name}"
        (folder / path).mkdir(exist_ok=True)
        kind = f"sentence_transformers.models.{name}"
        modules.append({"idx": i, "name": str(i), "path": path, "type": kind})
    _write(folder / "modules.json", modules)
    settings = {"max_seq_length": _MAX_LENGTH, "do_lower_case": False}
    _write(folder / "sentence_bert_config.json", settings)
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": hparams["pooler"] != "mean",
        "pooling_mode_mean_tokens": hparams["pooler"] == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    _write(folder / "1_Pooling" / "config.json", pooling)
    if linear:
        dense = {
            "in_features": width,
            "out_features": width,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        _write(folder / "2_Dense" / "config.json", dense)
        pooler = {f"linear.{kind}": net[f"pooler.{kind}"].clone() for kind in ("weight", "bias")}
        save_file(pooler, folder / "2_Dense" / "model.safetensors")


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def from_sentence_transformers(path: Path) -> tuple[Hparams, State]:
    """A sentence-transformers folder of BERT or RoFormer as a `SentenceSimilarity`.

    Raises:
        ValueError: It has a module, a pooling or a dense layer that is not ours.
    """
    modules = {m["type"].rsplit(".", 1)[-1]: path / m["path"] for m in _read(path / "modules.json")}
    unknown = set(modules) - {"Transformer", "Pooling", "Dense", "Normalize"}
    if unknown or "Pooling" not in modules or "Transformer" not in modules:
        raise ValueError(f"{path}: cannot take the modules {', '.join(modules)}")
    pooling = _read(modules["Pooling"] / "config.json")
    on = {k.removeprefix("pooling_mode_") for k, v in pooling.items() if "mode_" in k and v}
    mode = pooling.get("pooling_mode") or "+".join(sorted(on))
    pooler = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean"}.get(mode)
    if pooler is None or (pooler == "mean" and "Dense" in modules):
        raise ValueError(f"{path}: cannot take the pooling {mode!r} with {', '.join(modules)}")
    hparams, state = read_folder(modules["Transformer"], pooler=pooler)
    if "Dense" in modules:
        dense = _read(modules["Dense"] / "config.json")
        plain = dense["activation_function"].endswith("Identity") and dense["bias"]
        if not plain or dense["out_features"] != hparams["hidden"]:
            raise ValueError(f"{path}: the Dense module is not a square linear map with bias")
        weights = load_file(modules["Dense"] / "model.safetensors")
        for kind in ("weight", "bias"):
            state[f"net.pooler.{kind}"] = weights[f"linear.{kind}"]
        hparams["pooler"] = "cls_linear"
    return _as_similarity(hparams, state)


def from_bert(path: Path, *, pooler: str = "cls_linear") -> tuple[Hparams, State]:
    """A BERT or RoFormer folder, with or without a language model's head, as an encoder alone.

    Args:
        path: The folder.
        pooler: cls_linear takes the pooler's weights without BERT's tanh, as SimBERT's are meant.
    """
    return _as_similarity(*read_folder(path, pooler=pooler))


def _as_similarity(hparams: Hparams, state: State) -> tuple[Hparams, State]:
    """Arguments and weights of `SentenceSimilarity`, which keeps a head that is not there yet."""
    return {**hparams, "head": "cosent"}, {**untrained_head(hparams), **state}


IMPORTERS = {"sentence-transformers": from_sentence_transformers, "bert": from_bert}

__all__ = ["EXPORTERS", "IMPORTERS", "from_bert", "from_sentence_transformers"]
