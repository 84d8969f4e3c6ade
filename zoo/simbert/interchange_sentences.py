"""Exchange of sentence encoders with sentence-transformers, and from any BERT or RoFormer folder.

The folder has the modules Transformer, Pooling, Dense (the linear pooler, no activation) and
Normalize, under the names that versions before 6 know too; it needs no remote code.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from zoo.data.sentences.tokenizer import Tokenizer
from zoo.simbert.interchange import (
    TOKENIZER,
    Hparams,
    State,
    foreign_weights,
    own_encoder,
    read_folder,
    read_weights,
    sine_table,
    untrained_head,
    write_config,
    write_json,
    write_tokenizer,
)
from zoo.untrusted import read_json, read_json_object


def to_sentence_transformers(
    hparams: Mapping[str, Any], state: Mapping[str, Tensor], folder: Path
) -> None:
    """Writes a folder for `SentenceTransformer(folder)`, whose vectors are `encode`'s."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(hparams, folder, head=False)
    tokenizer = Tokenizer()
    tokenizer.set_extra_state(state[TOKENIZER])
    length = min(tokenizer.length, hparams["max_positions"])
    write_tokenizer(state[TOKENIZER], folder, length)
    net = own_encoder(state)
    rotary, width = hparams["positions"] == "rotary", hparams["hidden"]
    # BertModel has a pooler, which nobody asks here; RoFormerModel has none.
    weights = foreign_weights(net, prefix="", head=False, pooler=not rotary)
    if rotary:
        weights["encoder.embed_positions.weight"] = sine_table(hparams)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    linear = hparams["pooler"] == "cls_linear"
    names = ["Transformer", "Pooling", *(["Dense"] if linear else []), "Normalize"]
    modules = []
    for i, name in enumerate(names):
        path = "" if i == 0 else f"{i}_{name}"
        (folder / path).mkdir(exist_ok=True)
        kind = f"sentence_transformers.models.{name}"
        modules.append({"idx": i, "name": str(i), "path": path, "type": kind})
    write_json(folder / "modules.json", modules)
    settings = {"max_seq_length": length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", settings)
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": hparams["pooler"] != "mean",
        "pooling_mode_mean_tokens": hparams["pooler"] == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    write_json(folder / "1_Pooling" / "config.json", pooling)
    if linear:
        dense = {
            "in_features": width,
            "out_features": width,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        write_json(folder / "2_Dense" / "config.json", dense)
        pooler = {f"linear.{kind}": net[f"pooler.{kind}"].clone() for kind in ("weight", "bias")}
        save_file(pooler, folder / "2_Dense" / "model.safetensors")


def from_sentence_transformers(path: Path) -> tuple[Hparams, State]:
    """A sentence-transformers folder of BERT or RoFormer as a `SentenceSimilarity`.

    Its max_seq_length is the model's length, at which `encode` cuts. Of a prompt that it puts
    before every sentence a warning tells.

    Raises:
        ValueError: It has a module, a pooling or a dense layer that is not ours, or is damaged.
    """
    modules = _modules(path)
    unknown = set(modules) - {"Transformer", "Pooling", "Dense", "Normalize"}
    if unknown or "Pooling" not in modules or "Transformer" not in modules:
        raise ValueError(f"{path}: cannot take the modules {', '.join(modules)}")
    mode = _pooling(read_json_object(modules["Pooling"] / "config.json"))
    pooler = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean"}.get(mode)
    if pooler is None or (pooler == "mean" and "Dense" in modules):
        raise ValueError(f"{path}: cannot take the pooling {mode!r} with {', '.join(modules)}")
    hparams, state = read_folder(modules["Transformer"], pooler=pooler)
    tokenizer = Tokenizer()
    tokenizer.set_extra_state(state[TOKENIZER])
    tokenizer.max_length = _length(modules["Transformer"], hparams["max_positions"])
    _check_texts(path, modules["Transformer"], tokenizer.lower)
    state[TOKENIZER] = tokenizer.get_extra_state()
    if "Dense" in modules:
        state.update(_dense(modules["Dense"], hparams["hidden"]))
        hparams["pooler"] = "cls_linear"
    return _as_similarity(hparams, state)


def _modules(path: Path) -> dict[str, Path]:
    """The folder of each kind of module."""
    file = path / "modules.json"
    listed = read_json(file)
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"{file} is no list of modules")
    modules: dict[str, Path] = {}
    for module in listed:
        parts = module if isinstance(module, dict) else {}
        kind, folder = parts.get("type"), parts.get("path")
        if not isinstance(kind, str) or not isinstance(folder, str):
            raise ValueError(f"{file}: a module without type and path: {module!r:.80}")
        if Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ValueError(f"{file}: the path {folder!r:.80} leads out of the folder")
        name = kind.rsplit(".", 1)[-1]
        if name in modules:
            raise ValueError(f"{file}: two modules of type {name}, of which only one can be taken")
        modules[name] = path / folder
    return modules


def _pooling(config: Mapping[str, Any]) -> str:
    """The kind of pooling, several joined by +: by one name, or by a switch each."""
    mode = config.get("pooling_mode")
    if mode is None:
        switches = [key for key, value in config.items() if "pooling_mode_" in key and value]
        mode = sorted(key.removeprefix("pooling_mode_") for key in switches)
    return "+".join(map(str, mode)) if isinstance(mode, list) else str(mode)


def _length(folder: Path, positions: int) -> int:
    """The tokens after which sentence-transformers cuts.

    Versions before 6 keep max_seq_length in sentence_bert_config.json, which still wins, version 6
    model_max_length in tokenizer_config.json; what is above the positions is cut there.
    """
    for pattern, key in (
        ("sentence_*_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        for file in sorted(folder.glob(pattern)):
            value = read_json_object(file).get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 3:
                raise ValueError(f"{file}: {key} {value!r:.80} is no number of tokens")
            return int(min(value, positions))
    return positions


def _check_texts(path: Path, transformer: Path, lower: bool) -> None:
    """Refuses what is done to texts before the tokenizer, and tells of a prompt.

    Lower-casing before a tokenizer that keeps accents is none of ours.
    """
    for file in sorted(transformer.glob("sentence_*_config.json")):
        if read_json_object(file).get("do_lower_case") and not lower:
            raise ValueError(f"{file}: do_lower_case beside a tokenizer without is not supported")
    file = path / "config_sentence_transformers.json"
    settings = read_json_object(file) if file.is_file() else {}
    prompts, name = settings.get("prompts"), settings.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if prompt:
        warnings.warn(
            f"{file}: sentence-transformers puts {prompt!r:.80} before every sentence, and encode "
            "does not: put it there yourself",
            stacklevel=2,
        )


def _dense(folder: Path, hidden: int) -> State:
    """The weights of a dense layer that is our linear pooler."""
    dense = read_json_object(folder / "config.json")
    plain = str(dense.get("activation_function")).endswith("Identity") and dense.get("bias")
    if not plain or dense.get("out_features") != hidden:
        raise ValueError(f"{folder}: the Dense module is not a square linear map with bias")
    weights = read_weights(folder)
    for kind, shape in (("weight", (hidden, hidden)), ("bias", (hidden,))):
        found = weights.get(f"linear.{kind}")
        if found is None or tuple(found.shape) != shape:
            raise ValueError(f"{folder}: linear.{kind} is not there with the shape {shape}")
    return {f"net.pooler.{kind}": weights[f"linear.{kind}"].float() for kind in ("weight", "bias")}


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
