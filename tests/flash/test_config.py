from dataclasses import fields

import pytest

from zoo import FlashLM, FlashMLM
from zoo.cli.commands import _exchange
from zoo.cli.naming import of_the_constructor
from zoo.data import MaskedSentences, Text, TextLines
from zoo.flash.config import FlashConfig
from zoo.ranges import check_ranges, number_hints

SMALL = {"dim": 16, "depth": 2, "head_size": 8}
SHARED = {"vocab_size", "betas", "lr", "weight_decay", "lr_schedule", "compile"}
OWN = {
    FlashLM: {"separate_documents"},
    FlashMLM: {"segments", "mask_rate", "mask_token", "num_classes", "pretrained"},
}
READING = {"level", "root", "vocabulary_size", "min_count", "limit"}
TEXT = READING | {"batch_size", "val_batch_size", "seed"}
LINES = TEXT | {"max_length", "pool"}


@pytest.mark.parametrize("cls", [FlashLM, FlashMLM])
def test_the_record_of_a_model_is_flat_and_complete(cls):
    model = cls(**SMALL)
    names = {field.name for field in fields(FlashConfig)}
    assert set(model.hparams) == names | SHARED | OWN[cls]
    assert model._hparams_name == "kwargs"
    assert vars(model.config) == {name: model.hparams[name] for name in names}
    again = cls(**model.hparams)
    assert again.hparams == model.hparams
    assert again.config == model.config


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (
            Text,
            TEXT
            | {
                "sequence_length",
                "test_lengths",
                "stride",
                "documents",
                "align",
                "tokenizer",
                "column",
            },
        ),
        (TextLines, LINES),
        (MaskedSentences, LINES | {"segmenter", "labels", "vocabulary_of"}),
    ],
)
def test_the_record_of_text_data_is_flat_and_complete(cls, names):
    data = cls(limit=5)
    assert set(data.hparams) == names
    assert names <= set(number_hints(cls))
    assert cls(**data.hparams).hparams == data.hparams


@pytest.mark.parametrize("cls", [FlashLM, FlashMLM])
def test_arguments_of_the_config_are_checked_and_named_as_the_models(cls):
    with pytest.raises(ValueError, match=r"--model.depth=0: must be from 1 to 1000"):
        check_ranges(cls, {"depth": 0}, "--model.")
    with pytest.raises(ValueError, match=r"^norm_eps=0: must be above 0"):
        cls(norm_eps=0)
    with pytest.raises(ValueError, match=r"^pairing='both': choose one of interleaved, half"):
        cls(pairing="both")
    with pytest.raises(ValueError, match=r"^expansion=0.001: the width e of a unit") as told:
        cls(**SMALL, expansion=0.001)
    named = of_the_constructor(told.value, str(told.value))
    assert named.startswith("--model.expansion=0.001: ")
    assert "--model.dim=16" in named
    with pytest.raises(ValueError, match=r"^betas=\[0.9\]: need two betas"):
        cls(**SMALL, betas=[0.9])


def test_formats_are_those_of_the_model():
    assert set(_exchange("FlashLM", "IMPORTERS")) == {"flash-pytorch"}
    assert set(_exchange("FlashMLM", "IMPORTERS")) == {"gau-alpha", "flash-pytorch-mlm"}
    assert _exchange("FlashLM", "EXPORTERS") == {}
    assert set(_exchange("FlashMLM", "EXPORTERS")) == {"gau-alpha"}
