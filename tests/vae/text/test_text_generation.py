"""Sentences out of the decoder, against its own probabilities; and the whole of a run."""

import json
import re
from pathlib import Path

import pytest
import torch

import zoo
from tests.test_resume import compare
from zoo.data.text.vocabulary import Vocabulary
from zoo.vae.text.module import TextVAE

WORDS = Vocabulary("word", ["</s>", "<unk>", *"abcdefg"])


def tiny(**options):
    torch.manual_seed(0)
    model = TextVAE(
        **{
            "vocab_size": 9, "latent_dim": 3, "embedding": 4, "hidden": 6, "init": 1.0,
            "embedding_init": 1.0, **options,
        }
    )  # fmt: skip
    model.use_vocabulary(WORDS)
    return model.eval()


def next_words(model, words, z):
    """Probabilities of the next word, by the whole teacher-forced sentence."""
    rows = torch.tensor([[*words, last] for last in range(9)])
    inputs = torch.cat([torch.zeros(9, 1, dtype=torch.long), rows[:, :-1]], 1)
    whole = model.decoder.log_prob(rows, inputs, torch.arange(rows.numel()), z.expand(1, 9, -1))[0]
    return whole.softmax(0)


@pytest.mark.parametrize("posterior", ["gaussian", "none"])
def test_temperature_0_takes_the_likeliest_word_each_time(posterior):
    model = tiny(posterior=posterior)
    index = torch.arange(4)
    z = model.sample_codes(7, index)
    got = model.decode_text(z, seed=7, index=index, temperature=0, max_length=6)
    for sentence, code in zip(got, z, strict=True):
        words: list[int] = []
        while len(words) < 6:
            word = int(next_words(model, words, code).argmax())
            if word == 0:
                break
            words.append(word)
        assert sentence == WORDS.decode(words)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_words_are_drawn_with_their_probabilities(temperature):
    model = tiny()
    n = 4000
    index = torch.arange(n)
    z = torch.randn(1, 3)
    drawn = model.decode_text(
        z.expand(n, -1), seed=1, index=index, temperature=temperature, max_length=2
    )
    first = torch.tensor([int(WORDS.encode(s)[0]) if s else 0 for s in drawn])
    p = (next_words(model, [], z[0]).log() / temperature).softmax(0).detach()
    counts = torch.bincount(first, minlength=9)
    chi2 = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi2 < 26  # 8 degrees of freedom: exceeded once in 1000
    favourite = int(counts[1:].argmax()) + 1
    second = [WORDS.encode(s) for s, f in zip(drawn, first, strict=True) if f == favourite]
    counts = torch.bincount(
        torch.tensor([int(s[1]) if len(s) > 1 else 0 for s in second]), minlength=9
    )
    p = (next_words(model, [favourite], z[0]).log() / temperature).softmax(0).detach()
    assert ((counts - len(second) * p) ** 2 / (len(second) * p)).sum() < 26


@pytest.mark.parametrize("posterior", ["gaussian", "vmf", "none"])
def test_sentences_do_not_depend_on_the_batch_split(posterior):
    model = tiny(posterior=posterior)
    whole = model.generate_text(7, seed=3, max_length=20)
    parts = model.generate_text(3, seed=3, max_length=20)
    parts += model.generate_text(4, seed=3, first=3, max_length=20)
    assert whole == parts
    assert len(set(whole)) > 3
    assert whole != model.generate_text(7, seed=4, max_length=20)
    assert max(len(s.split()) for s in model.generate_text(50, max_length=3)) == 3


@pytest.mark.parametrize("posterior", ["gaussian", "vmf"])
def test_interpolation_goes_from_one_code_to_the_other(posterior):
    model = tiny(posterior=posterior)
    a, b = "a b c", "g f e d"
    between = model.interpolate_text(a, b, steps=5, max_length=12)
    assert len(between) == 5
    assert [between[0], between[-1]] == model.reconstruct_text([a, b], max_length=12)
    codes = model.posterior(model.encode_text([a])).center
    if posterior == "vmf":
        codes = torch.nn.functional.normalize(codes, dim=-1)
    expected = model.decode_text(
        codes, seed=0, index=torch.arange(1), temperature=0.0, max_length=12
    )
    assert expected == between[:1]


def test_writing_in_the_middle_of_a_fit_has_no_dropout():
    model = tiny(dropout_in=0.5, dropout_out=0.5)
    expected = model.generate_text(5)
    assert model.train().generate_text(5) == expected
    assert model.decoder.dropout_in.training


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.generate_text(0), "n=0"),
        (lambda m: m.generate_text(1, temperature=-1.0), r"temperature=-1\.0"),
        (lambda m: m.interpolate_text("a", "b", steps=1), "steps=1"),
        (lambda m: tiny(posterior="none").reconstruct_text(["a"]), "language model"),
    ],
)
def test_bad_requests_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(tiny())


# The command line

CONFIG = """\
seed_everything: 3
model:
  class_path: zoo.TextVAE
  init_args:
    vocab_size: 60
    latent_dim: 4
    batch_norm: paper
    warmup_steps: 4
    embedding: 8
    hidden: 8
    word_dropout: 0.1
    lr_patience: 1
    optimizer: adam
    lr: 0.05
    log_density_samples: 5
data:
  class_path: zoo.data.TextLines
  init_args: {root: text, batch_size: 4, pool: 3}
trainer:
  accelerator: cpu
  max_steps: 30
  gradient_clip_val: 5.0
  log_every_n_steps: 5
  val_check_interval: 4
  check_val_every_n_epoch: null
  enable_progress_bar: false
  enable_model_summary: false
ema: {decay: 0.5}
checkpoint: {every_n_train_steps: 4}
"""


@pytest.fixture
def config(tmp_path):
    g = torch.Generator().manual_seed(0)
    (tmp_path / "text").mkdir()
    every = " ".join(f"w{i}" for i in range(58))
    for name, count in (("train", 90), ("valid", 9), ("test", 7)):
        lines = [every]
        for _ in range(count):
            length = int(torch.randint(1, 9, (1,), generator=g))
            words = torch.randint(0, 58, (length,), generator=g)
            lines.append(" ".join(f"w{i}" for i in words.tolist()))
        (tmp_path / "text" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG)
    return path


def test_a_run_resumes_exactly_tests_and_writes(config, zoo_cli, mistake):
    fit = ["fit", "-c", config]
    assert zoo_cli(*fit, "--run_dir", "whole")[0] == 0
    # Step 8 is one after which a validation, and with it the learning rate's fate, is due.
    assert zoo_cli(*fit, "--run_dir", "parts", "--trainer.max_steps", 8)[0] == 0
    code, _, err = zoo_cli(*fit, "--run_dir", "parts", "--ckpt_path", "last")
    assert code == 0, err
    compare("whole", "parts")
    plateaus = [
        torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["plateau"]
        for run in ("whole", "parts")
    ]
    assert plateaus[0] == plateaus[1]
    assert plateaus[0]["decays"] > 0

    code, out, err = zoo_cli("test", "--ckpt_path", "whole")
    assert code == 0, err
    table = out + err
    assert "perplexity" in table
    assert "5 samples" in table
    code, out, err = zoo_cli("sample", "whole", "-n", 3, "--batch_size", 2, "--seed", 5)
    assert code == 0, err
    assert out.splitlines() == zoo.load("whole").generate_text(3, seed=5)
    assert zoo_cli("sample", "whole", "-n", 3, "--out", "lines.txt")[0] == 0
    assert len(Path("lines.txt").read_text().splitlines()) == 3
    assert "no --steps" in mistake("sample", "whole", "--steps", 3)

    other = Path("text/train.txt")
    other.write_text(re.sub(r"\bw7\b", "v7", other.read_text()))
    before = json.loads(Path("whole/results.json").read_text())["metrics"]
    assert zoo_cli("test", "--ckpt_path", "whole")[0] == 0  # by the words of the checkpoint
    after = json.loads(Path("whole/results.json").read_text())["metrics"]
    assert after["test/log_density"] == before["test/log_density"]
