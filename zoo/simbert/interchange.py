"""Exchange of weights in BERT's and RoFormer's layouts: transformers folders and their relatives.

In come junnyu's, WangZeJun's, blmoistawinde's and Tongjilibo's folders, which differ in prefixes
and in where the pooler is; out goes what transformers loads. `exchange` has
the tables of what goes in and out.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zoo.data.sentences.tokenizer import SPECIAL, Tokenizer
from zoo.simbert.encoder import encoder_of
from zoo.simbert.interchange_tokenizer import read_tokenizer
from zoo.untrusted import check_tensors, read_json_object, read_safetensors, read_torch

Hparams = dict[str, Any]
State = dict[str, Tensor]
Exporter = Callable[[Mapping[str, Any], Mapping[str, Tensor], Path], None]
TOKENIZER = "tokenizer._extra_state"
_EPS = 1e-12
_POSITIONS = "max_position_embeddings"

# Theirs without prefix -> ours; query, key and value are one matrix of ours.
_NAMES = {
    "embeddings.word_embeddings": "word_embeddings",
    "embeddings.token_type_embeddings": "type_embeddings",
    "embeddings.position_embeddings": "position_embeddings",
    "embeddings.LayerNorm": "embedding_norm",
    "embeddings_project": "embedding_project",
    "encoder.embedding_hidden_mapping_in": "embedding_project",
    "pooler.dense": "pooler",
    "pooler": "pooler",
    "cls.predictions.transform.dense": "head",
    "cls.predictions.transform.LayerNorm": "head_norm",
}
_LAYER_NAMES = {
    "attention.output.dense": "attention_out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
}
_QKV = ["attention.self.query", "attention.self.key", "attention.self.value"]
_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")
# Rebuilt, or of a task that is not ours.
_UNUSED = re.compile(
    r"embeddings\.position_ids|encoder\.embed_positions\.weight|cls\.seq_relationship\..*"
)


def encoder_weights(theirs: Mapping[str, Tensor], source: str) -> State:
    """The encoder's state dict from one in BERT's or RoFormer's layout."""
    found: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in theirs.items():
        name = re.sub(r"^(bert|roformer|model)\.", "", key)
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        if _UNUSED.fullmatch(name):
            continue
        if name in ("cls.predictions.bias", "cls.predictions.decoder.bias"):
            found["head_bias"] = value
            continue
        if name == "cls.predictions.decoder.weight":
            parts["decoder"] = {"weight": value}
            continue
        stem, _, kind = name.rpartition(".")
        layer = _LAYER.fullmatch(stem)
        if layer and layer[2] in _QKV:
            parts.setdefault(f"layers.{layer[1]}.qkv.{kind}", {})[layer[2]] = value
        elif layer and layer[2] in _LAYER_NAMES:
            found[f"layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.{kind}"] = value
        elif stem in _NAMES and kind in ("weight", "bias"):
            found[f"{_NAMES[stem]}.{kind}"] = value
        else:
            raise ValueError(f"{source}: there is no place for the weight {key!r}")
    tied = parts.pop("decoder", {}).get("weight")
    words = found.get("word_embeddings.weight")
    if tied is not None and (words is None or not torch.equal(tied, words)):
        raise ValueError(f"{source}: the output layer is not tied to the embedding")
    for key, three in parts.items():
        missing = [name for name in _QKV if name not in three]
        if missing or len({part.shape for part in three.values()}) != 1:
            raise ValueError(f"{source}: query, key and value of {key} are not three of one shape")
        found[key] = torch.cat([three[name] for name in _QKV])
    return found


def foreign_weights(ours: Mapping[str, Tensor], *, prefix: str, head: bool, pooler: bool) -> State:
    """The encoder's state dict in the layout of BERT or RoFormer.

    Args:
        ours: State dict of the encoder.
        prefix: Before the keys of the base model, such as "bert.".
        head: With the language model's head.
        pooler: With the pooler, as `pooler.dense`.
    """
    names = {ours: theirs for theirs, ours in reversed(_NAMES.items())}
    layer_names = {ours: theirs for theirs, ours in _LAYER_NAMES.items()}
    found: State = {}
    for key, value in ours.items():
        if key == "head_bias":
            if head:
                found["cls.predictions.bias"] = found["cls.predictions.decoder.bias"] = value
            continue
        stem, _, kind = key.rpartition(".")
        if stem.startswith("layers."):
            _, number, part = stem.split(".")
            at = f"{prefix}encoder.layer.{number}."
            if part == "qkv":
                for name, third in zip(_QKV, value.chunk(3), strict=True):
                    found[f"{at}{name}.{kind}"] = third
            else:
                found[f"{at}{layer_names[part]}.{kind}"] = value
        elif stem in ("head", "head_norm"):
            if head:
                found[f"{names[stem]}.{kind}"] = value
        elif stem != "pooler" or pooler:
            found[f"{prefix}{names[stem]}.{kind}"] = value
    return {key: value.clone().contiguous() for key, value in found.items()}


# In


def read_weights(path: Path) -> State:
    """The state dict of a folder or file of transformers."""
    names = ("model.safetensors", "pytorch_model.bin")
    files = [path] if path.is_file() else [f for name in names if (f := path / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{path} has neither {' nor '.join(names)}")
    file = files[0]
    state = read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)
    return check_tensors(state, str(file), file.stat().st_size)


def _number(config: Mapping[str, Any], field: str, folder: Path) -> int:
    """A field of config.json that is a positive whole number."""
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{folder / 'config.json'}: {field} {value!r:.80} is no positive number")
    return value


def read_folder(
    folder: Path, *, pooler: str = "cls_linear", positions: str | None = None
) -> tuple[Hparams, State]:
    """Hyper-parameters and weights of a BERT or RoFormer folder.

    Args:
        folder: With config.json, weights and vocabulary.
        pooler: The sentence vector; cls_linear needs the pooler's weights.
        positions: learned or rotary, if that is the only one to accept.
    """
    config = read_json_object(folder / "config.json")
    kind = config.get("model_type", "bert")
    found = {"bert": "learned", "roformer": "rotary"}.get(str(kind))
    if found is None or (positions is not None and found != positions):
        raise ValueError(f"{folder} is of type {kind!r}: give a folder of the format's own type")
    if config.get("hidden_act", "gelu") != "gelu" or config.get("layer_norm_eps", _EPS) != _EPS:
        raise ValueError(f"{folder}: need hidden_act gelu and layer_norm_eps {_EPS}")
    theirs = read_weights(folder)
    net = encoder_weights(theirs, str(folder))
    if pooler == "cls_linear" and "pooler.weight" not in net:
        raise ValueError(f"{folder} has no pooler: give --options.pooler cls, or mean")
    if pooler != "cls_linear":
        net = {key: value for key, value in net.items() if not key.startswith("pooler.")}
    words = net.get("word_embeddings.weight")
    if words is None or words.dim() != 2:
        raise ValueError(f"{folder} has no embedding of words: no folder of this format")
    hparams: Hparams = {
        "vocab_size": _number(config, "vocab_size", folder),
        "hidden": _number(config, "hidden_size", folder),
        "layers": _number(config, "num_hidden_layers", folder),
        "heads": _number(config, "num_attention_heads", folder),
        "intermediate": _number(config, "intermediate_size", folder),
        "embedding_size": words.shape[1],
        "positions": found,
        "max_positions": _number({_POSITIONS: 512, **config}, _POSITIONS, folder),
        "rotary_value": config.get("rotary_value", False),
        "pooler": pooler,
    }
    return hparams, {
        **{f"net.{key}": value.float() for key, value in net.items()},
        TOKENIZER: read_tokenizer(folder, config["vocab_size"]),
    }


def generator(positions: str) -> Callable[..., tuple[Hparams, State]]:
    """An importer of folders with a language model's head, for a model that generates."""

    def load(path: Path, *, pooler: str = "cls_linear") -> tuple[Hparams, State]:
        hparams, state = read_folder(path, pooler=pooler, positions=positions)
        if "net.head.weight" not in state:
            raise ValueError(
                f"{path} has no cls.predictions, so it cannot generate: import it with "
                "--format bert, as SentenceSimilarity"
            )
        return hparams, state

    return load


# Out


def own_encoder(state: Mapping[str, Tensor]) -> State:
    """The encoder's part of a model's state dict."""
    return {k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")}


def write_config(hparams: Mapping[str, Any], folder: Path, *, head: bool) -> None:
    """config.json of transformers."""
    rotary = hparams["positions"] == "rotary"
    name = "RoFormer" if rotary else "Bert"
    config = {
        "architectures": [f"{name}{'ForMaskedLM' if head else 'Model'}"],
        "model_type": name.lower(),
        "vocab_size": hparams["vocab_size"],
        "hidden_size": hparams["hidden"],
        "num_hidden_layers": hparams["layers"],
        "num_attention_heads": hparams["heads"],
        "intermediate_size": hparams["intermediate"] or 4 * hparams["hidden"],
        "hidden_act": "gelu",
        "hidden_dropout_prob": hparams["dropout"],
        "attention_probs_dropout_prob": hparams["attention_dropout"],
        "max_position_embeddings": hparams["max_positions"],
        "type_vocab_size": 2,
        "layer_norm_eps": _EPS,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }
    if rotary:
        config["embedding_size"] = hparams["embedding_size"] or hparams["hidden"]
        config["rotary_value"] = hparams["rotary_value"]
    elif (hparams["embedding_size"] or hparams["hidden"]) != hparams["hidden"]:
        raise ValueError("transformers' BERT has no embedding_size of its own")
    write_json(folder / "config.json", config)


def write_tokenizer(extra: Tensor, folder: Path, max_length: int) -> None:
    """vocab.txt, tokenizer.json and tokenizer_config.json of transformers' BertTokenizer."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = Tokenizer()
    tokenizer.set_extra_state(extra)
    if not len(tokenizer):
        raise ValueError("the model has no vocabulary yet: train it first")
    (folder / "vocab.txt").write_text("\n".join(tokenizer.tokens) + "\n", encoding="utf-8")
    pieces = tokenizer.pieces
    pieces.add_special_tokens(list(SPECIAL))
    pieces.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.cls), ("[SEP]", tokenizer.sep)],
    )
    (folder / "tokenizer.json").write_text(pieces.to_str(), encoding="utf-8")
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    special = dict(zip(names, SPECIAL, strict=True))
    settings = {
        "tokenizer_class": "BertTokenizer",  # RoFormer's own would need a segmenter
        "do_lower_case": tokenizer.lower,
        "model_max_length": max_length,
        **special,
    }
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", special)


def write_json(path: Path, content: Any) -> None:
    """A file of an exported folder."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def sine_table(hparams: Mapping[str, Any]) -> Tensor:
    """RoFormer's table of transformers: sines of all frequencies, then cosines; (length, d)."""
    length, d = hparams["max_positions"], hparams["hidden"] // hparams["heads"]
    angles = torch.arange(length, dtype=torch.float64)[:, None] * 10000.0 ** (
        -torch.arange(0, d, 2, dtype=torch.float64) / d
    )
    return torch.cat([angles.sin(), angles.cos()], 1).float()


def to_transformers(hparams: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path) -> None:
    """Writes what transformers' BertForMaskedLM or RoFormerForMaskedLM loads, and the pooler.

    RoFormer's classes there have no pooler and report its weights as unexpected; junnyu's take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_config(hparams, folder, head=True)
    rotary = hparams["positions"] == "rotary"
    prefix = "roformer." if rotary else "bert."
    weights = foreign_weights(own_encoder(state), prefix=prefix, head=True, pooler=True)
    if rotary:  # it is made anew where it is missing, but reported as such
        weights[f"{prefix}encoder.embed_positions.weight"] = sine_table(hparams)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(state[TOKENIZER], folder, hparams["max_positions"])


def untrained_head(hparams: Mapping[str, Any]) -> State:
    """A language model's head for an encoder that came without, under the model's keys."""
    net = encoder_of(hparams).state_dict()
    return {f"net.{key}": value for key, value in net.items() if key.startswith("head")}
