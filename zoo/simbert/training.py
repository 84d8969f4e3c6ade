"""What the training of all models of this room shares: start, vocabulary, optimiser, LM loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.layers.precision import at_least_float32
from zoo.loading import load
from zoo.simbert.encoder import Encoder
from zoo.training.optim import may_fuse, piecewise_linear

if TYPE_CHECKING:
    from zoo.simbert.sentences import Model

# What takes data for each purpose: an objective of SimBERT's, or the labels of SentenceSimilarity.
PURPOSES = {
    "similar": "SimilarGroups",
    "labelled": "LabelledPairs",
    "mlm": "Sentences",
    "simcse": "Sentences with --data.purpose simcse",
}

# Arguments of the models that are the encoder's.
ENCODER_ARGS = (
    "vocab_size",
    "hidden",
    "layers",
    "heads",
    "intermediate",
    "embedding_size",
    "positions",
    "max_positions",
    "rotary_value",
    "pooler",
    "dropout",
    "attention_dropout",
)


def make_encoder(hparams: Any) -> Encoder:
    """The encoder that a model's arguments describe."""
    return Encoder(**{name: hparams[name] for name in ENCODER_ARGS})


def check_training(own: Any) -> None:
    """Raises ValueError if a model's arguments of the training are out of range."""
    lr, weight_decay, lr_schedule = own["lr"], own["weight_decay"], own["lr_schedule"]
    if lr <= 0 or weight_decay < 0:
        raise ValueError(f"lr={lr}, weight_decay={weight_decay}: need lr > 0, weight_decay >= 0")
    if lr_schedule is not None:
        piecewise_linear({int(k): float(v) for k, v in lr_schedule.items()})
    chunk, matryoshka, hidden = own["chunk"], own["matryoshka"], own["hidden"]
    if chunk < 0 or chunk % 2:
        raise ValueError(f"chunk={chunk}: give an even number of rows, pairs stay together")
    if any(not 0 < d <= hidden for d in matryoshka):
        raise ValueError(f"matryoshka={matryoshka}: give numbers from 1 to hidden={hidden}")


def check_data(model: Model, stage: str) -> None:
    """Raises ValueError if a run's DataModule is not for this model."""
    data: Any = getattr(model.trainer, "datamodule", None)
    if data is None:
        return
    wanted, found = model.hparams.get("objective", "labelled"), getattr(data, "purpose", None)
    # Groups and labelled pairs can judge any sentence model, masked words only one of them.
    if found == wanted or (found in PURPOSES and found != "mlm" and stage != "fit"):
        return
    with_objective = "" if wanted == "labelled" else f" with --model.objective {wanted}"
    purpose = f" with --data.purpose {found}" if found in ("mlm", "simcse") else ""
    raise ValueError(
        f"{type(model).__name__}{with_objective} takes {PURPOSES[wanted]}, and not "
        f"{type(data).__name__}{purpose}"
    )


def prepare(model: Model, stage: str) -> None:
    """Before a run: a look at the data, first weights from `init`, one vocabulary for both.

    Raises:
        ValueError: The data are of another kind, or the weights at `init` do not fit.
    """
    check_data(model, stage)
    init = model.hparams["init"]
    # A model with a vocabulary has weights already, from a folder or an earlier fit. A run that is
    # resumed gets its checkpoint's after this.
    if stage == "fit" and init and not len(model.tokenizer):
        start_from(model, load(init), init)
    data: Any = getattr(model.trainer, "datamodule", None)
    if not hasattr(data, "vocabulary"):
        return
    if not len(model.tokenizer):
        model.tokenizer.adopt(data.vocabulary(model.hparams["vocab_size"]), data.lower)
    # The same object: a checkpoint that is loaded later gives the data its vocabulary too.
    data.tokenizer = model.tokenizer
    if stage == "fit":
        agree_on_length(model, data)


def agree_on_length(model: Model, data: Any) -> None:
    """Makes learned positions enough for the rows of a fit, or its sentences short enough.

    Raises:
        ValueError: The rows of `--data.max_length` are longer than the positions.
    """
    if model.net.position_embeddings is None:
        return
    rows = 2 if data.purpose == "similar" else 1  # a source and a target
    most = model.net.max_positions // rows
    if data.max_length is None:
        model.tokenizer.max_length = min(model.tokenizer.length, most)
    elif data.max_length > most:
        raise ValueError(
            f"--data.max_length={data.max_length}: rows of {rows * data.max_length} tokens for "
            f"--model.max_positions={model.net.max_positions}: lower it to {most}, or raise those"
        )


def start_from(model: Model, other: Any, path: str) -> None:
    """Takes the encoder and the vocabulary of another model of this room.

    Raises:
        ValueError: It has no such encoder, or one of other sizes.
    """
    if not isinstance(getattr(other, "net", None), Encoder):
        raise ValueError(f"init={path} holds a {type(other).__name__}, not a sentence model")
    try:
        missing, unexpected = model.net.load_state_dict(other.net.state_dict(), strict=False)
    except RuntimeError as error:
        line = " ".join(str(error).split()[:40])
        raise ValueError(f"init={path}: other sizes than the model's: {line}") from error
    wrong = [*missing, *unexpected]
    if wrong:
        raise ValueError(f"init={path}: {wrong[0]} is not in both models: check the sizes")
    model.tokenizer.adopt(other.tokenizer.tokens, other.tokenizer.lower)
    model.tokenizer.max_length = other.tokenizer.max_length


def adamw(model: Model) -> Any:
    """AdamW over all trained parameters (the author decays norms and biases too), scheduled."""
    own = model.hparams
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=own["lr"], weight_decay=own["weight_decay"], fused=may_fuse(model)
    )
    if own["lr_schedule"] is None:
        return optimizer
    # Keys that went through JSON are strings.
    points = {int(k): float(v) for k, v in own["lr_schedule"].items()}
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, piecewise_linear(points))
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def token_losses(net: Encoder, hidden: Tensor, places: Tensor, labels: Tensor) -> Tensor:
    """-log p of each label, (N,): only its places are multiplied with the vocabulary.

    Args:
        net: The encoder.
        hidden: Hidden states, (B, L, H).
        places: Places in the flattened (B * L), int64 (N,).
        labels: Tokens, int64 (N,).
    """
    logits = net.logits(hidden.flatten(0, 1)[places])
    return F.cross_entropy(at_least_float32(logits), labels, reduction="none")
